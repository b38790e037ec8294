"""Where a step's samples come from: `OnlineFeed` (rollouts, judged) or `OfflineFeed` (demonstrations on file)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from pipeline.buffer import Buffer
from pipeline.failures import FailureBudget
from pipeline.metrics import group_metrics
from pipeline.producer import Producer
from pipeline.samples import to_samples
from rewards.types import ScoredGroup, Task
from workers.ports import Rollouts
from workers.types import Sample


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's samples, the groups they came from (none where nothing was rolled out), and how long that took.

    wait      seconds the loop stood waiting for it
    generate  seconds the slowest rollout worker worked on it
    judge     seconds the judge workers worked on it
    """

    samples: list[Sample]
    groups: list[ScoredGroup] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    wait: float = 0.0
    generate: float = 0.0
    judge: float = 0.0


class Feed(Protocol):
    """The loop's side of a source of samples."""

    async def take(self, step: int) -> Batch: ...

    async def release(self) -> None:
        """The weights that learned from the last batch are published."""
        ...


class OnlineFeed:
    """Takes what the producer made; counts what could not be judged against the budget."""

    def __init__(self, buffer: Buffer, producer: Producer, groups_per_step: int, budget: FailureBudget):
        self.buffer, self.producer, self.groups_per_step, self.budget = buffer, producer, groups_per_step, budget
        self.task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self.task = asyncio.create_task(self.producer.run(), name="producer")

    async def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)

    async def take(self, step: int) -> Batch:
        start = time.perf_counter()
        groups = await self.buffer.take(self.groups_per_step)
        wait = time.perf_counter() - start
        self.budget.count(groups)
        generate, judge = self.producer.clock.read()
        return Batch(to_samples(groups), groups, group_metrics(groups), wait, generate, judge)

    async def release(self) -> None:
        await self.buffer.release(self.groups_per_step)


class OfflineFeed:
    """Demonstrations as samples, in the order of their cursor. Each text is tokenized once, while the learner works."""

    def __init__(self, task_at: Callable[[int], Task], rollouts: Rollouts, groups_per_step: int):
        self.task_at, self.rollouts, self.groups_per_step = task_at, rollouts, groups_per_step
        self.rendered: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self.ahead: tuple[int, asyncio.Task[list[Sample]]] | None = None

    async def take(self, step: int) -> Batch:
        start = time.perf_counter()
        step_ahead, samples = self.ahead or (step, self._prepare(step))
        assert step_ahead == step, "steps are taken in order"
        made = await samples
        self.ahead = step + 1, self._prepare(step + 1)
        return Batch(made, wait=time.perf_counter() - start)

    async def release(self) -> None:
        pass

    def _prepare(self, step: int) -> asyncio.Task[list[Sample]]:
        places = range(step * self.groups_per_step, (step + 1) * self.groups_per_step)
        return asyncio.create_task(self._samples(places))

    async def _samples(self, places: range) -> list[Sample]:
        tasks = [self.task_at(place) for place in places]
        fresh = {task.id: task for task in tasks if task.id not in self.rendered}
        if fresh:
            self.rendered.update(zip(fresh, await self.rollouts.render(list(fresh.values())), strict=True))
        return [_demonstration(place, *self.rendered[task.id]) for place, task in zip(places, tasks, strict=True)]


def _demonstration(place: int, prompt: np.ndarray, answer: np.ndarray) -> Sample:
    mask = np.concatenate([np.zeros(len(prompt), bool), np.ones(len(answer), bool)])
    return Sample(place, 0, np.concatenate([prompt, answer]), mask, np.zeros(len(mask), np.float32))
