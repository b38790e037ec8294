"""Keeps the buffer full: reserves places, has tasks attempted, has the attempts judged.

A wave is as many groups as one step takes. Groups are judged as they finish, while the rest of the wave is still
being generated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pipeline.buffer import Buffer
from rewards.errors import RunFailed
from rewards.types import Task
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
    """Admits tasks `task_at(position)` until `end`, `wave` at a time."""

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
    ):
        self.buffer, self.rollouts, self.judges, self.task_at = buffer, rollouts, judges, task_at
        self.sampling, self.group_size, self.wave, self.end = sampling, group_size, wave, end
        self.clock = Clock()

    async def run(self) -> None:
        """Returns when everything is produced. Any error ends the buffer's waits with itself."""
        try:
            async with asyncio.TaskGroup() as waves:
                while self.buffer.reserved < self.end:
                    places = await self.buffer.reserve(self.wave)
                    requests = [Request(i, self.task_at(i), self.group_size, self.sampling) for i in places]
                    waves.create_task(
                        attempt(self.rollouts, self.judges, requests, self.clock, lambda j: self.buffer.put(j.groups))
                    )
        except ExceptionGroup as errors:
            await self.buffer.fail(first(errors))


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
