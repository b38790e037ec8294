"""The answer must mean the same as the reference: numbers at once, expressions by math-verify."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, ClassVar

from annotated_types import Gt

from rewards.failures import abstained, as_failure
from rewards.imports import ByName
from rewards.ports import Case, Toolbox
from rewards.sources.exact import answer_after
from rewards.types import Group, Score, Task

_NUMBER = re.compile(
    r"(?P<sign>[-+]?)\\?[$€£]?(?P<minus>-?)(?P<digits>\d{1,3}(?:,\d{3})+|\d{1,30})(?P<decimals>\.\d{0,30})?"
    r"(?P<percent>\s*\\?%)?\.?"
)
_EQUAL = ByName("rewards.sources.symbolic:equal")


@dataclass(frozen=True)
class Math:
    """1.0 where the answer is mathematically equal to the task's reference, else 0.0.

    Two plain numbers (1,000  $18  18.00  18%) are compared here. Anything else goes to math-verify, in a helper
    process that is killed at the limit: its own time-out is a signal, which only a main thread can use.

    after    the answer is the line after the last such marker; without the marker it is wrong.
             None: math-verify looks for the answer in the whole text
    limit_s  seconds one comparison may take; one that takes longer is a failure, not a wrong answer
    """

    after: str | None = None
    limit_s: Annotated[float, Gt(0)] = 5.0

    helper_imports: ClassVar[tuple[str, ...]] = ("rewards.sources.symbolic",)
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)

    async def score(self, group: Group, tools: Toolbox) -> Sequence[Score]:
        """One score per rollout; abstains where the task has no usable reference."""
        reference = group.task.reference
        if reference is None:
            return [abstained(f"task {group.task.id!r} has no reference")] * len(group.rollouts)
        answers = [self._answer(rollout.text) for rollout in group.rollouts]
        # an answer that says nothing is wrong without asking; equal ones are compared once
        equal: dict[str | None, Any] = {answer: answer and same_number(answer, reference) for answer in answers}
        hard = [answer for answer in equal if answer and equal[answer] is None]
        equal.update(zip(hard, await self._compare(hard, reference, tools), strict=True))
        return [self._score(answer, equal[answer], reference) for answer in answers]

    def _answer(self, text: str) -> str | None:
        answer = answer_after(self.after, text)
        return answer if self.after is None or answer is None else answer.partition("\n")[0].strip()

    async def _compare(self, answers: Sequence[str], reference: str, tools: Toolbox) -> Sequence[Any]:
        """For each answer True, False, None (the reference can't be read), or the exception that stopped it.

        All go in one call; only if that runs out of time or dies, in a call each, so that one can't hurt the others.
        """
        if not answers:
            return []
        bare = self.after is not None
        try:
            return await tools.call(_EQUAL, answers, reference, bare, limit_s=self.limit_s)
        except (TimeoutError, ChildProcessError):
            calls = (tools.call(_EQUAL, [answer], reference, bare, limit_s=self.limit_s) for answer in answers)
            return [
                reply if isinstance(reply, BaseException) else reply[0]
                for reply in await asyncio.gather(*calls, return_exceptions=True)
            ]

    def _score(self, answer: str | None, equal: Any, reference: str) -> Score:
        if answer is None:
            return Score(0.0, explanation=f"no {self.after!r} in the answer")
        if isinstance(equal, BaseException):
            return Score(failure=as_failure(equal))
        if answer and equal is None:
            return abstained(f"the reference {reference!r} is no mathematical expression")
        explanation = "" if equal else f"{answer[-100:]!r} does not equal {reference[:100]!r}"
        return Score(float(bool(equal)), explanation=explanation)

    def case(self, task: Task) -> Case | None:
        """The reference itself, and another number."""
        if task.reference is None:
            return None
        number = plain_number(task.reference)
        foil = "-98765.4321" if number is None else f"{number[0] + 1:f}"
        mark = self.after or ""
        return Case(task, f"{mark}{task.reference}", f"{mark}{foil}")


def plain_number(text: str) -> tuple[Decimal, bool] | None:
    """The value of a plain decimal number and whether it is a percentage; None where the text is anything else."""
    match = _NUMBER.fullmatch(text.strip())
    if match is None or (match["sign"] and match["minus"]):
        return None
    value = Decimal(match["digits"].replace(",", "") + (match["decimals"] or ""))
    return (-value if "-" in (match["sign"], match["minus"]) else value), bool(match["percent"])


def same_number(answer: str, reference: str) -> bool | None:
    """Whether two plain numbers are equal; None where that needs math-verify (its rounding, its percentages)."""
    left, right = plain_number(answer), plain_number(reference)
    if left is None or right is None or left[1] != right[1]:
        return None
    if left[0] == right[0]:
        return True
    whole = left[0] == left[0].to_integral_value() and right[0] == right[0].to_integral_value()
    return False if whole else None
