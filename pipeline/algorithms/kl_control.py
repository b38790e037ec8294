"""Holding the KL to the reference at a target by moving its coefficient from step to step.

    beta <- beta (1 + clip(KL / target - 1, -0.2, 0.2) n / horizon)       KL nats per response, mean of the step's n

Ziegler et al. 2019 (arXiv 1909.08593), section 2.2, in the form that their code, TRL and verl have it: over `horizon`
responses the coefficient changes by a fifth at most. verl takes the mean KL per token where this takes it per response,
as the paper does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from annotated_types import Gt

from workers.ports import LossFn
from workers.types import Credit, Needs, Sample, Signals

if TYPE_CHECKING:
    from pipeline.algorithms.ppo import Ppo


@dataclass(frozen=True, slots=True)
class KlControl:
    """Moves the KL's coefficient so that the KL stays at a target; kl_coefficient is where it starts.

    target   nats per response; default: the coefficient stays as it is
    horizon  responses over which it changes by a fifth at most
    """

    target: Annotated[float, Gt(0)] | None = None
    horizon: Annotated[int, Gt(0)] = 10_000

    def next(self, coefficient: float, kl: float, responses: int) -> float:
        """The coefficient after a step of so many responses, whose mean KL was `kl`."""
        if self.target is None:
            return coefficient
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        return coefficient * (1 + error * responses / self.horizon)


class Controlled:
    """PPO whose coefficient follows its `KlControl`, with a memory from step to step.

    memory  holds the coefficient; a stage's checkpoints keep it (`State.memory`)
    """

    def __init__(self, algorithm: Ppo, memory: dict[str, float]):
        self._start, self.memory = algorithm, memory
        self.memory.setdefault("kl_coefficient", algorithm.kl_coefficient)

    @property
    def _now(self) -> Ppo:
        return replace(self._start, kl_coefficient=self.memory["kl_coefficient"])

    @property
    def needs(self) -> Needs:
        return self._start.needs

    @property
    def losses(self) -> Sequence[LossFn]:
        return self._start.losses

    @property
    def updates_per_step(self) -> int:
        return self._start.updates_per_step

    def credit(self, samples: Sequence[Sample], signals: Sequence[Signals]) -> tuple[list[Credit], dict[str, float]]:
        """Credit at the coefficient as it stands, which then moves."""
        credits_, metrics = self._now.credit(samples, signals)
        coefficient = self.memory["kl_coefficient"]
        if samples:
            kl = metrics["policy/kl_response"]
            self.memory["kl_coefficient"] = self._start.kl_control.next(coefficient, kl, len(samples))
        return credits_, metrics | {"policy/kl_coefficient": coefficient}
