"""The answer is a number, right within a tolerance."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge

from rewards.failures import abstained
from rewards.ports import Case, Toolbox
from rewards.sources.exact import answer_after
from rewards.types import Group, Score, Task

_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+(?:\.\d*)?|\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,3})?")


@dataclass(frozen=True)
class Numeric:
    """1.0 where the answer's last number is the reference's within a tolerance, else 0.0.

    after     only what stands after the last such marker is read; without the marker it is wrong
    absolute  how far it may be off
    relative  how far it may be off, as a share of the reference; the wider of the two counts
    """

    after: str | None = None
    absolute: Annotated[float, Ge(0)] = 0.0
    relative: Annotated[float, Ge(0)] = 1e-6

    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)

    async def score(self, group: Group, tools: Toolbox) -> Sequence[Score]:
        """One score per rollout; abstains where the reference is no number."""
        wanted = number(group.task.reference or "")
        if wanted is None:
            detail = f"task {group.task.id!r}: the reference {group.task.reference!r} holds no number"
            return [abstained(detail)] * len(group.rollouts)
        return [self._one(rollout.text, wanted) for rollout in group.rollouts]

    def _one(self, text: str, wanted: float) -> Score:
        answer = answer_after(self.after, text)
        if answer is None:
            return Score(0.0, explanation=f"no {self.after!r} in the answer")
        found = number(answer)
        if found is None:
            return Score(0.0, explanation=f"no number in {answer[-100:]!r}")
        off, allowed = abs(found - wanted), self._allowed(wanted)
        parts = {"error": min(off, 1e300)}
        if off <= allowed:
            return Score(1.0, parts=parts)
        return Score(0.0, explanation=f"{found:g} is off {wanted:g} by {off:g}, allowed {allowed:g}", parts=parts)

    def _allowed(self, wanted: float) -> float:
        return max(self.absolute, self.relative * abs(wanted))

    def case(self, task: Task) -> Case | None:
        """The reference, and a number that is off by more than is allowed."""
        wanted = number(task.reference or "")
        if wanted is None:
            return None
        mark = self.after or ""
        return Case(task, f"{mark}{task.reference}", f"{mark}{wanted + 2 * self._allowed(wanted) + 1!r}")


def number(text: str) -> float | None:
    """The text's last decimal number, thousands separators and exponents included; None without any."""
    found = _NUMBER.findall(text)
    value = float(found[-1].replace(",", "")) if found else None
    return value if value is not None and abs(value) < 1e300 else None
