"""Where a step's samples come from: `OnlineFeed` (rollouts, judged) or `OfflineFeed` (answers on file)."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from pipeline.buffer import Buffer
from pipeline.failures import FailureBudget
from pipeline.metrics import group_metrics
from pipeline.producer import Producer
from pipeline.samples import to_samples
from pipeline.shaping import Shaping
from rewards.types import Rated, Score, ScoredGroup, Task
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
    """Takes what the producer made, shapes what is shaped over whole steps, counts what could not be judged against the
    budget. `measures` says more about a step's groups than every run wants to know."""

    def __init__(
        self,
        buffer: Buffer,
        producer: Producer,
        groups_per_step: int,
        budget: FailureBudget,
        measures: Callable[[Sequence[ScoredGroup]], dict[str, float]] = lambda groups: {},
        shaping: Shaping | None = None,
    ):
        self.buffer, self.producer, self.groups_per_step, self.budget = buffer, producer, groups_per_step, budget
        self.measures, self.shaping = measures, shaping
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
        shaped: dict[str, float] = {}
        if self.shaping is not None:
            groups, shaped = self.shaping(step, groups)
        metrics = group_metrics(groups) | shaped | self.measures(groups)
        if self.producer.resample:
            metrics["rollout/resampled"] = float(self.producer.resampled)
            self.producer.resampled = 0
        return Batch(to_samples(groups), groups, metrics, wait, generate, judge)

    async def release(self) -> None:
        await self.buffer.release(self.groups_per_step)


Answers = Callable[[Task], Sequence[Rated]]


def demonstration(task: Task) -> Sequence[Rated]:
    """For SFT: the one answer to imitate; nothing compares it, its rating says nothing."""
    return (Rated(str(task.demonstration), math.nan),)


def answers(task: Task) -> Sequence[Rated]:
    """For algorithms that compare: every rated answer."""
    return task.answers


class OfflineFeed:
    """Answers on file as samples, in the order of their cursor; those to one task are a group. Each text is tokenized
    once, while the learner works.

    mismatched  also every answer's prompt with the next task's answer in its place, unrated (KTO's, and ties)
    steps       with the labels of their steps
    """

    def __init__(
        self,
        task_at: Callable[[int], Task],
        answers_of: Answers,
        rollouts: Rollouts,
        groups_per_step: int,
        mismatched: bool = False,
        steps: bool = False,
    ):
        self.task_at, self.answers_of, self.rollouts = task_at, answers_of, rollouts
        self.groups_per_step, self.mismatched, self.steps = groups_per_step, mismatched, steps
        self.step_ends: dict[tuple[str, int], np.ndarray] = {}
        self.rendered: dict[tuple[str, int], tuple[np.ndarray, np.ndarray]] = {}
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

    async def stop(self) -> None:
        """The step that is made ahead is not waited for."""
        if self.ahead is not None:
            self.ahead[1].cancel()
            await asyncio.gather(self.ahead[1], return_exceptions=True)

    def _prepare(self, step: int) -> asyncio.Task[list[Sample]]:
        places = range(step * self.groups_per_step, (step + 1) * self.groups_per_step)
        return asyncio.create_task(self.samples(places))

    async def samples(self, places: range) -> list[Sample]:
        """The samples of these places, tokenized where they were not yet."""
        tasks = [self.task_at(place) for place in places]
        await self._render(tasks)
        out = []
        for number, (place, task) in enumerate(zip(places, tasks, strict=True)):
            found = self.answers_of(task)
            out += [self._sample(place, i, task, one) for i, one in enumerate(found)]
            if self.mismatched:
                other = tasks[(number + 1) % len(tasks)]
                prompt = self.rendered[task.id, 0][0]
                foreign = [self.rendered[other.id, i][1] for i in range(len(self.answers_of(other)))]
                out += [sequence(place, len(found) + i, prompt, answer, None) for i, answer in enumerate(foreign)]
        return out

    def _sample(self, place: int, index: int, task: Task, one: Rated) -> Sample:
        made = sequence(place, index, *self.rendered[task.id, index], None if math.isnan(one.rating) else one.rating)
        if one.attributes:
            made = replace(made, scores={name: Score(value) for name, value in one.attributes.items()})
        if not self.steps:
            return made
        return replace(made, steps=np.array(one.steps, np.float32), step_ends=self.step_ends[task.id, index])

    async def _render(self, tasks: Sequence[Task]) -> None:
        fresh = {
            (task.id, i): replace(task, demonstration=one.text, answers=(), meta={})
            for task in tasks
            for i, one in enumerate(self.answers_of(task))
            if (task.id, i) not in self.rendered
        }
        if fresh:
            self.rendered.update(zip(fresh, await self.rollouts.render(list(fresh.values())), strict=True))
        if fresh and self.steps:
            ends = {(task.id, i): one.ends for task in tasks for i, one in enumerate(self.answers_of(task))}
            placed = [(self.rendered[place][1], ends[place]) for place in fresh]
            self.step_ends.update(zip(fresh, await self.rollouts.step_ends(placed), strict=True))


def sequence(group: int, index: int, prompt: np.ndarray, answer: np.ndarray, reward: float | None) -> Sample:
    """A prompt with an answer on file; the answer's tokens count as the policy's own."""
    mask = np.concatenate([np.zeros(len(prompt), bool), np.ones(len(answer), bool)])
    return Sample(group, index, np.concatenate([prompt, answer]), mask, None, reward)
