"""The shaping steps that see whole steps and remember: they work in the driver, before samples are made.

What needs only its group is done by the judges (`rewards.panel`). From the first part with a memory on, the driver does
all that follows, so that the order of the config holds. The memory is the stage's own: its checkpoints keep it, and a
step's groups move it once, in the order in which steps are learned from. So a resumed run is the same run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.reward_sections import Rewards
from rewards.ports import OverSteps, StepOf
from rewards.shaping.chain import changed, shape
from rewards.types import ScoredGroup


def shaping_of(rewards: Rewards) -> list[tuple[str, Any]]:
    """What is done to rewards in the driver, where it sees whole steps: from the first part with a memory on."""
    combiner = rewards.combine.build()
    combining = [("combine", combiner)] if isinstance(combiner, OverSteps) else []
    return [*combining, *shapers_of(rewards)[1]]


def shapers_of(rewards: Rewards) -> tuple[list[tuple[str, Any]], list[tuple[str, Any]]]:
    """Shaping steps by name (their kind, numbered where it comes again): in the judges' panel; in the driver."""
    kinds = [knobs.kind for knobs in rewards.shape]
    names = [f"{kind}_{n}" if (n := kinds[: i + 1].count(kind)) > 1 else kind for i, kind in enumerate(kinds)]
    named = [(name, knobs.build()) for name, knobs in zip(names, rewards.shape, strict=True)]
    combined_late = isinstance(rewards.combine.build(), OverSteps)
    cut = next((i for i, (_, shaper) in enumerate(named) if combined_late or isinstance(shaper, OverSteps)), len(named))
    return named[:cut], named[cut:]


@dataclass
class Shaping:
    """One stage's parts by name, in order; `memory` holds their numbers as `NAME/...`; `steps` of the stage."""

    parts: Sequence[tuple[str, Any]]
    memory: dict[str, float]
    steps: int

    def __call__(self, step: int, groups: Sequence[ScoredGroup]) -> tuple[list[ScoredGroup], dict[str, float]]:
        """The step's groups with other rewards, and what there is to log."""
        shaped, metrics = list(groups), {}
        for name, part in self.parts:
            if isinstance(part, OverSteps):
                own = {key.removeprefix(f"{name}/"): v for key, v in self.memory.items() if key.startswith(f"{name}/")}
                fresh, told = part.over_steps(shaped, own, StepOf(step, self.steps))
                self.memory.update({f"{name}/{key}": value for key, value in own.items()})
                shaped = [_changed(name, *pair) for pair in zip(shaped, fresh, strict=True)]
                metrics |= told
            else:
                shaped = [shape(scored, {name: part}) for scored in shaped]
        return shaped, metrics


def _changed(name: str, old: ScoredGroup, new: ScoredGroup) -> ScoredGroup:
    verdicts = (changed(name, *pair) for pair in zip(old.verdicts, new.verdicts, strict=True))
    return ScoredGroup(new.group, tuple(verdicts))
