"""Where a stage's numbers go: stores, progress, and whoever makes the next checkpoint."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from pipeline.config import Config
from pipeline.failures import FailureBudget
from pipeline.feeds import Batch
from pipeline.gap import GapRule
from pipeline.progress import Progress
from pipeline.rundir import sample_rows
from pipeline.stores.ports import RunStore


@dataclass
class Recorder:
    """Where a stage's numbers go, and who hears that a step is done (for the next checkpoint).

    restarts  the rollout workers' list of who was replaced and why; it grows, and its first `told` lines are on file
    workers   how many rollout workers are up
    steps     how many the stage in hand has taken
    memory    what the stage carries from step to step; checkpoints keep it
    """

    config: Config
    store: RunStore
    progress: Progress
    stepped: Callable[[str, int, list[str | None], dict[str, float]], Awaitable[float]]
    last: dict[str, float]
    restarts: Sequence[str]
    workers: Callable[[], int]
    told: int = 0
    steps: int = 0
    memory: dict[str, float] = field(default_factory=dict)

    async def step(
        self,
        stage: str,
        budget: FailureBudget | None,
        gap: GapRule | None,
        step: int,
        batch: Batch,
        metrics: dict[str, float],
    ) -> float:
        """After each step of a stage that learns; the seconds a checkpoint took."""
        replaced = self.replaced(stage)
        if budget is not None:
            metrics = {**metrics, "rollout/restarts": float(replaced), "rollout/workers": float(self.workers())}
        self.last, self.steps = metrics, step + 1
        self.store.metrics(stage, step, metrics)
        rows = sample_rows(stage, step, batch.groups, self.config.tracking.samples_per_step)
        if rows:
            self.store.samples(rows)
        self.progress.step(step, metrics)
        if gap and (warning := gap.check(step, metrics)):
            self.store.event("warning", warning, stage)
            self.progress.note(f"{stage}: {warning}")
        return await self.stepped(stage, step + 1, list(budget.reasons) if budget else [], dict(self.memory))

    def replaced(self, stage: str) -> int:
        """How many rollout workers were replaced since it was last asked; each is an event of the run."""
        lines = self.restarts[self.told :]
        for line in lines:
            self.store.event("rollout_restarted", f"{line}; a fresh worker took its name", stage)
        self.told += len(lines)
        return len(lines)
