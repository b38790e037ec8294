"""The hardest questions of a run: tasks none of whose rollouts came out right, with their demonstrations (ReLIFT)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from pipeline.feeds import Batch, OnlineFeed, sequence
from rewards.types import ScoredGroup, Task
from workers.ports import Rollouts
from workers.types import Sample

WAITING = "hardest/"


@dataclass
class WithHardest:
    """Another feed's batches; as soon as `enough` tasks wait, the newest so many are in the batch as demonstrations,
    and wait no longer.

    tasks    the stage's, all with demonstrations
    failure  a rollout that got no more than this failed
    memory   what checkpoints keep: the numbers of the tasks that wait, in their order
    """

    feed: OnlineFeed
    rollouts: Rollouts
    tasks: Sequence[Task]
    enough: int
    failure: float
    memory: dict[str, float]
    numbers: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.numbers = {task.id: number for number, task in enumerate(self.tasks)}

    def start(self) -> None:
        self.feed.start()

    async def stop(self) -> None:
        await self.feed.stop()

    async def release(self) -> None:
        await self.feed.release()

    async def take(self, step: int) -> Batch:
        batch = await self.feed.take(step)
        waiting = [int(self.memory.pop(name)) for name in sorted(self.memory) if name.startswith(WAITING)]
        failed = [self.numbers[scored.group.task.id] for scored in batch.groups if self._failed(scored)]
        waiting = [number for number in waiting if number not in failed] + failed
        chosen: list[int] = []
        if len(waiting) >= self.enough:
            waiting, chosen = waiting[: -self.enough], waiting[-self.enough :]
        self.memory |= {f"{WAITING}{place:09d}": float(number) for place, number in enumerate(waiting)}
        newest = max((sample.version for sample in batch.samples), default=0)
        shown = await self._demonstrations([self.tasks[number] for number in chosen], newest)
        return replace(batch, samples=[*batch.samples, *shown])

    def _failed(self, scored: ScoredGroup) -> bool:
        rewards = [verdict.unshaped for verdict in scored.verdicts if verdict.unshaped is not None]
        return bool(rewards) and max(rewards) <= self.failure

    async def _demonstrations(self, tasks: Sequence[Task], version: int) -> list[Sample]:
        rendered = await self.rollouts.render(tasks) if tasks else []
        # Groups count from 0: these are none of the run's.
        made = [sequence(-1 - i, 0, prompt, answer, None) for i, (prompt, answer) in enumerate(rendered)]
        return [replace(sample, version=version) for sample in made]
