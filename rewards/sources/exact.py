"""The answer must be the reference, letter by letter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rewards.failures import abstained
from rewards.ports import Case, Toolbox
from rewards.types import Group, Score, Task


@dataclass(frozen=True)
class Exact:
    """1.0 where the answer equals the task's reference, white space around both aside, else 0.0.

    after   only what stands after the last such marker is the answer; without the marker it is wrong
    """

    after: str | None = None

    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)

    async def score(self, group: Group, tools: Toolbox) -> Sequence[Score]:
        """One score per rollout; abstains where the task has no reference."""
        if group.task.reference is None:
            return [abstained(f"task {group.task.id!r} has no reference")] * len(group.rollouts)
        return [self._one(rollout.text, group.task.reference.strip()) for rollout in group.rollouts]

    def _one(self, text: str, reference: str) -> Score:
        answer = answer_after(self.after, text)
        if answer is None:
            return Score(0.0, explanation=f"no {self.after!r} in the answer")
        right = answer == reference
        return Score(float(right), explanation="" if right else f"{answer[:100]!r} is not {reference[:100]!r}")

    def case(self, task: Task) -> Case | None:
        """The reference itself, and the reference with one letter too many."""
        if task.reference is None:
            return None
        gold = f"{self.after or ''}{task.reference}"
        return Case(task, gold, gold + "~")


def answer_after(marker: str | None, text: str) -> str | None:
    """What stands after the last marker, stripped; None where the marker is missing."""
    if marker is None:
        return text.strip()
    _, found, answer = text.rpartition(marker)
    return answer.strip() if found else None
