"""Stopping where gold is highest: the run keeps the policy that was best, not the one that was last.

    steps   |--- window ---|--- window ---|--- window ---|--- window ---|--- window ---|
    gold         0.52           0.61 *         0.55 v         0.48 v         0.40 v       -> stop, * is kept

The gold scores of `window` steps are one mean with its 95% interval. A window with the best mean so far has the policy
at its end kept. A window has fallen where its upper end is below the lower end of the best one's: against the best mean
itself, which is the luckiest of many, half the windows of a gold score that stands still would count as fallen. After
`patience` fallen windows in a row the stage ends; of stages whose gold stands still for 40 windows, a patience of 3
ends about 1 in 70 (`tests/pipeline/test_peak.py`).
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from pipeline.lab.statistics import Z


async def whole(save: Callable[[Path], Awaitable[None]], directory: Path) -> None:
    """Save so that the directory never holds half a model; what it held is replaced."""
    building = directory.with_name(f".{directory.name}.tmp")
    shutil.rmtree(building, ignore_errors=True)
    await save(building)
    shutil.rmtree(directory, ignore_errors=True)
    building.rename(directory)


class PeakRule:
    """Follows one stage.

    keep    keeps the policy as it stands
    memory  what it knows; the stage's checkpoints hold it
    """

    def __init__(self, window: int, patience: int, keep: Callable[[], Awaitable[None]], memory: dict[str, float]):
        self.window, self.patience, self.keep, self.memory = window, patience, keep, memory
        for name in ("peak/n", "peak/sum", "peak/squares", "peak/fallen"):
            memory.setdefault(name, 0.0)

    async def take(self, step: int, metrics: Mapping[str, float]) -> None:
        """One step's gold scores; a step without any counts for nothing."""
        memory = self.memory
        if metrics.get("gold/n"):
            n, mean, std = metrics["gold/n"], metrics["gold/mean"], metrics["gold/std"]
            memory["peak/n"] += n
            memory["peak/sum"] += n * mean
            memory["peak/squares"] += n * (std**2 + mean**2)
        if (step + 1) % self.window == 0 and memory["peak/n"]:
            n = memory["peak/n"]
            mean = memory["peak/sum"] / n
            half = Z * math.sqrt(max(0.0, memory["peak/squares"] / n - mean**2) / n)
            memory |= {"peak/n": 0.0, "peak/sum": 0.0, "peak/squares": 0.0}
            await self._judge(step, mean, half)

    async def _judge(self, step: int, mean: float, half: float) -> None:
        memory = self.memory
        if mean > memory.get("peak/best", -math.inf):
            await self.keep()
            memory |= {"peak/best": mean, "peak/low": mean - half, "peak/step": float(step), "peak/fallen": 0.0}
        else:
            memory["peak/fallen"] = memory["peak/fallen"] + 1 if mean + half < memory["peak/low"] else 0.0

    @property
    def over(self) -> bool:
        """Whether gold has fallen for good."""
        return self.memory["peak/fallen"] >= self.patience

    def results(self) -> dict[str, float]:
        """What the run's summary says of it; empty where no window came to an end."""
        if "peak/best" not in self.memory:
            return {}
        return {"gold_peak": self.memory["peak/best"], "kept_step": int(self.memory["peak/step"])}
