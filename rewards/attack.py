"""The attack suite: answers that say nothing, put before a judge to see whether it takes them for right.

After "One Token to Fool LLM-as-a-Judge" (arXiv 2507.08794). What differs: beside its ten master keys there are others
of their kind, which the guard (`rewards.guards`) does not know; and a source is judged by its worst key alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le

from rewards.guards import MASTER_KEYS, UNKNOWN_KEYS
from rewards.panel import Panel
from rewards.selfcheck import written_case
from rewards.types import Group, Score, ScoredGroup, Task

KEYS = (*MASTER_KEYS, *UNKNOWN_KEYS)


@dataclass(frozen=True)
class Attack:
    """Empty answers and openers put before every source, at a stage's start and while it runs. A source that takes one
    for right too often is refused.

    tasks    how many tasks each of them is tried on
    every    steps from one attack to the next; 0: only at the start
    allowed  the share of the tasks on which the worst of them may pass for right
    passes   where between a source's worst and best value an answer begins to pass for right; of a source that has
             none, or compares, an answer passes that is not worse than the task's own
    """

    tasks: Annotated[int, Gt(0)] = 8
    every: Annotated[int, Ge(0)] = 0
    allowed: Annotated[float, Ge(0), Le(1)] = 0.05
    passes: Annotated[float, Gt(0), Le(1)] = 0.5

    def groups(self, tasks: Sequence[Task]) -> list[Group]:
        """For each of the first tasks its own answer, where it has one, and then all keys."""
        return [Group.written(-1 - i, task, [*_own(task), *KEYS]) for i, task in enumerate(tasks[: self.tasks])]

    def fooled(self, panel: Panel, judged: Sequence[ScoredGroup]) -> dict[str, tuple[float, str]]:
        """For each source that counts the share of tasks on which its worst key passed, and that key. A key that it
        could not judge did not pass; a source that could be tried on no task is left out."""
        out = {}
        for seat in panel.seats:
            bounds = None if getattr(seat.source, "whole_groups", False) else getattr(seat.source, "bounds", None)
            tried = [passed for one in judged if (passed := self._passed(seat.name, bounds, one)) is not None]
            if tried and seat.weight:
                shares = [sum(column) / len(tried) for column in zip(*tried, strict=True)]
                worst = max(range(len(KEYS)), key=lambda i: shares[i])
                out[seat.name] = shares[worst], KEYS[worst]
        return out

    def _passed(self, name: str, bounds: tuple[float, float] | None, judged: ScoredGroup) -> list[bool] | None:
        scores = [_clean(verdict.scores[name]) for verdict in judged.verdicts if name in verdict.scores]
        own, keys = scores[: -len(KEYS)], scores[-len(KEYS) :]
        if len(keys) < len(KEYS):
            return None
        if bounds is not None:
            least = bounds[0] + self.passes * (bounds[1] - bounds[0])
        elif own and own[0] is not None:
            least = own[0]
        else:
            return None
        return [value is not None and value >= least for value in keys]


def _clean(score: Score) -> float | None:
    """The value without noise put on it."""
    return score.value if score.clean is None else score.clean


def _own(task: Task) -> list[str]:
    case = written_case(task)
    return [case.gold] if case else []
