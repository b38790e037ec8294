"""What a kind of data hands to a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rewards.types import Task


@dataclass(frozen=True, slots=True)
class TaskSets:
    """The tasks to learn from and the ones only ever evaluated; their ids are disjoint."""

    train: Sequence[Task]
    held_out: Sequence[Task]


class Data(Protocol):
    """A kind of data: a frozen dataclass whose fields are its config keys."""

    def load(self, seed: int) -> TaskSets:
        """The tasks; the same for the same seed. Raises `Refused` with file and line, or key, where it can't."""
        ...
