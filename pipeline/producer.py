"""Keeps the buffer full: reserves places, has tasks attempted, has the attempts judged.

A wave is as many groups as one step takes. Groups are judged as they finish, while the rest of the wave is still
being generated.

`resample` is DAPO's dynamic sampling (arXiv 2503.14476, section 3.2): a group whose rewards are all equal teaches
nothing, so its place goes to another task. It stays the same place: groups are handed out in the same order, and since
the task that takes over starts later, never with older weights, the staleness bound holds. All of a wave is judged
before the places without signal are given away, together; which task takes a place over, and what it draws, depends on
the place and the round alone. So a synchronous run repeats.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from pipeline.buffer import Buffer
from pipeline.streams import key
from rewards.errors import RunFailed
from rewards.types import ScoredGroup, Task
from workers.messages import Generated
from workers.ports import Judges, Rollouts
from workers.types import Judged, Request, Sampling


@dataclass
class Clock:
    """Seconds that rollout workers generated and judge workers judged, since they were last read."""

    generate: dict[str, float] = field(default_factory=dict)
    judge: float = 0.0

    def add(self, generated: Generated) -> None:
        self.generate[generated.who] = self.generate.get(generated.who, 0.0) + generated.seconds

    def read(self) -> tuple[float, float]:
        """(generate, judge) seconds; the slowest rollout worker stands for all."""
        out = max(self.generate.values(), default=0.0), self.judge
        self.generate, self.judge = {}, 0.0
        return out


async def attempt(
    rollouts: Rollouts,
    judges: Judges,
    wave: Sequence[Request],
    clock: Clock,
    done: Callable[[Judged], object],
) -> None:
    """Generate and judge one wave; `done` is awaited or called with every lot of judged groups.

    Raises the error at fault, not a group of errors.
    """

    async def judge(generated: Generated) -> None:
        judged = await judges.judge(generated.groups)
        clock.judge += judged.seconds
        if asyncio.iscoroutine(result := done(judged)):
            await result

    try:
        async with asyncio.TaskGroup() as judging:
            async for generated in rollouts.run(wave):
                clock.add(generated)
                judging.create_task(judge(generated))
    except BaseExceptionGroup as errors:
        raise first(errors) from errors


class Producer:
    """Admits tasks `task_at(position)` until `end`, `wave` at a time. Tasks that take a place over come from beyond it;
    `resampled` counts them."""

    def __init__(
        self,
        buffer: Buffer,
        rollouts: Rollouts,
        judges: Judges,
        task_at: Callable[[int], Task],
        sampling: Sampling,
        group_size: int,
        wave: int,
        end: int,
        resample: int = 0,
    ):
        self.buffer, self.rollouts, self.judges, self.task_at = buffer, rollouts, judges, task_at
        self.sampling, self.group_size, self.wave, self.end = sampling, group_size, wave, end
        self.resample, self.resampled = resample, 0
        self.clock = Clock()

    async def run(self) -> None:
        """Returns when everything is produced. Any error ends the buffer's waits with itself."""
        try:
            async with asyncio.TaskGroup() as waves:
                while self.buffer.reserved < self.end:
                    places = await self.buffer.reserve(self.wave)
                    waves.create_task(self._fill(places))
        except ExceptionGroup as errors:
            await self.buffer.fail(first(errors))

    async def _fill(self, places: Sequence[int]) -> None:
        for round_ in range(self.resample):
            if not places:
                return
            places = await self._attempt(places, round_, lambda scored: not _all_equal(scored))
            self.resampled += len(places)
        if places:
            await self._attempt(places, self.resample, lambda scored: True)

    async def _attempt(self, places: Sequence[int], round_: int, keep: Callable[[ScoredGroup], bool]) -> list[int]:
        """Put what is to be kept of the groups attempted; the places that stay empty."""
        empty: list[int] = []

        async def put(judged: Judged) -> None:
            kept = [scored for scored in judged.groups if keep(scored)]
            await self.buffer.put(kept)
            empty.extend({scored.group.id for scored in judged.groups} - {scored.group.id for scored in kept})

        wave = [self._request(place, round_) for place in places]
        await attempt(self.rollouts, self.judges, wave, self.clock, put)
        return sorted(empty)

    def _request(self, place: int, round_: int) -> Request:
        task = self.task_at(place + round_ * self.end)
        if round_ == 0:
            return Request(place, task, self.group_size, self.sampling)
        sampling = replace(self.sampling, seed=key(self.sampling.seed, "resample", round_))
        return Request(place, task, self.group_size, sampling)


def _all_equal(scored: ScoredGroup) -> bool:
    """A group that was judged as a whole, and teaches nothing. One that was not keeps its place, and is counted."""
    return len(scored.worths) == 1 and all(verdict.failure is None for verdict in scored.verdicts)


def first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error to report of a group: one that names a culprit, where there is one."""
    flat: list[BaseException] = []
    stack: list[BaseException] = [errors]
    while stack:
        error = stack.pop()
        if isinstance(error, BaseExceptionGroup):
            stack.extend(error.exceptions)
        else:
            flat.append(error)
    return next((error for error in flat if isinstance(error, RunFailed)), flat[0])
