"""What the judges ask of others, and what others ask of a judge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from rewards.types import Group, Score, Task


class Toolbox(Protocol):
    """The live things a source may use. Built inside the process that hosts the panel, never pickled."""

    async def call(self, function: Callable[..., Any], /, *args: Any, limit_s: float) -> Any:
        """Run `function(*args)` in a helper process that is killed when the limit is over.

        The function and its arguments must be picklable. Raises `TimeoutError` after `limit_s` seconds,
        `ChildProcessError` when the helper died, and whatever the function raised.
        """
        ...


class RewardSource(Protocol):
    """A judge: a frozen, picklable value. Live things arrive as `tools`."""

    async def score(self, group: Group, tools: Toolbox) -> Sequence[Score]:
        """One score per rollout, in order. An exception counts as a failure of every rollout asked about."""
        ...


@dataclass(frozen=True, slots=True)
class Case:
    """A known answer and a known mistake for one task: a source must score `gold` above `foil`."""

    task: Task
    gold: str
    foil: str


@runtime_checkable
class SelfChecking(Protocol):
    """A source that can be tried on a task's own reference before a run starts."""

    def case(self, task: Task) -> Case | None:
        """Gold and foil for the task, or None where the task gives nothing to try."""
        ...
