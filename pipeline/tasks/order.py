"""Which task comes next: a function of one integer, so that a run resumes exactly."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pipeline.streams import stream


@dataclass(frozen=True, slots=True)
class Order:
    """Every task once an epoch, each epoch in an order of its own. The run's cursor is the next position.

    tasks  how many there are, at least 1
    name   names the random stream; two orders of one run have two names
    """

    tasks: int
    seed: int
    name: str = "tasks.order"

    def __post_init__(self) -> None:
        if self.tasks < 1:
            raise ValueError(f"an order needs at least one task, not {self.tasks}")

    def task_index(self, position: int) -> int:
        """The task, 0 to tasks - 1, at a position that counts admissions from 0 over all epochs."""
        if position < 0:
            raise ValueError(f"positions count from 0, not {position}")
        epoch, place = divmod(position, self.tasks)
        return int(_permutation(self, epoch)[place])


@lru_cache(maxsize=8)
def _permutation(order: Order, epoch: int) -> np.ndarray:
    """i64[tasks]: the epoch's order."""
    return stream(order.seed, order.name, epoch).permutation(order.tasks)
