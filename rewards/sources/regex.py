"""The answer must match a regular expression."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Gt

from rewards.failures import abstained
from rewards.ports import Case, Toolbox
from rewards.types import Group, Score, Task


@dataclass(frozen=True)
class Regex:
    """1.0 where the pattern matches, else 0.0; with a group `answer` in it, where that group is the reference.

    pattern     Python's syntax; ^ and $ stand for the ends of lines, . for line breaks, too
    match       search (anywhere) or full (all of the answer)
    gold, foil  an answer it must accept and one it must not, for the self-check
    limit_s     seconds one group's answers may take; a pattern that takes longer is a failure, not a wrong answer
    """

    pattern: str
    match: Literal["search", "full"] = "search"
    gold: str | None = None
    foil: str | None = None
    limit_s: Annotated[float, Gt(0)] = 5.0

    helper_imports: ClassVar[tuple[str, ...]] = ()
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def __post_init__(self) -> None:
        """Raises `ValueError` for a pattern that is none."""
        try:
            compiled(self.pattern)
        except re.error as error:
            raise ValueError(f"pattern: {self.pattern!r} is no regular expression: {error}") from None

    async def score(self, group: Group, tools: Toolbox) -> Sequence[Score]:
        """One score per rollout; abstains where the reference is asked for and the task has none."""
        compares, reference = "answer" in compiled(self.pattern).groupindex, group.task.reference
        if compares and reference is None:
            return [abstained(f"task {group.task.id!r} has no reference")] * len(group.rollouts)
        texts = [rollout.text for rollout in group.rollouts]
        found = await tools.call(_found, self.pattern, self.match, texts, limit_s=self.limit_s)
        return [self._one(one, reference if compares else None) for one in found]

    def _one(self, found: list[Any] | None, reference: str | None) -> Score:
        if found is None:
            return Score(0.0, explanation=f"nothing matches {self.pattern!r}")
        if reference is None or (found[0] or "").strip() == reference.strip():
            return Score(1.0)
        return Score(0.0, explanation=f"{found[0]!r} is not {reference[:100]!r}")

    def case(self, task: Task) -> Case | None:
        """The answers given in the config, where both are."""
        return None if self.gold is None or self.foil is None else Case(task, self.gold, self.foil)


def compiled(pattern: str) -> re.Pattern[str]:
    """As `Regex.pattern` says."""
    return re.compile(pattern, re.MULTILINE | re.DOTALL)


def _found(pattern: str, match: str, texts: Sequence[str]) -> list[list[Any] | None]:
    """In a helper, for a pattern may take for ever: of each text None, or what its group `answer` holds (the last)."""
    regex, out = compiled(pattern), []
    for text in texts:
        hits = [regex.fullmatch(text)] if match == "full" else list(regex.finditer(text))[-1:]
        hit = hits[0] if hits else None
        out.append(None if hit is None else [hit.groupdict().get("answer")])
    return out
