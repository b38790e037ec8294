"""All rollout workers behind one face."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rewards.types import Task
from workers.ports import Engine
from workers.ray_actors import Actor, call, kill, ready, start_actor, stream
from workers.rollout.worker import RolloutWorker
from workers.types import Generated, Request, Wave

if TYPE_CHECKING:
    from workers.rollout.renderer import Renderer


class RolloutPool:
    """`workers` processes of `cpus` CPUs each. A wave is dealt out round robin, the same way every time."""

    def __init__(self, workers: int, cpus: float, timeout_s: float):
        self.workers, self.cpus, self.timeout_s = workers, cpus, timeout_s
        self.actors: list[Actor] = []

    async def start(self) -> None:
        """Returns when every worker answers. Raises `RunFailed` with the name of the one that does not."""
        names = [f"rollout-{i}" for i in range(self.workers)]
        self.actors = [start_actor(RolloutWorker, name, name=name, cpus=self.cpus) for name in names]
        await asyncio.gather(*(ready(actor, self.timeout_s) for actor in self.actors))

    async def open(self, model_path: str, make_engine: Callable[[str, Renderer], Engine]) -> None:
        """Make every worker's engine; `make_engine` is called in the workers."""
        await self._all("open", model_path, make_engine)

    async def _all(self, method: str, *args: Any) -> list[Any]:
        return await asyncio.gather(*(call(actor, method, *args, timeout_s=self.timeout_s) for actor in self.actors))

    async def render(self, tasks: Sequence[Task]) -> list[tuple[np.ndarray, np.ndarray]]:
        """See `Rollouts.render`."""
        pairs = [(task.messages, task.demonstration or "") for task in tasks]
        return await call(self.actors[0], "render", pairs, timeout_s=self.timeout_s)

    async def run(self, wave: Sequence[Request]) -> AsyncIterator[Generated]:
        """See `Rollouts.run`. Raises `RunFailed` with the name of a worker that died or fell silent."""
        n = len(self.actors)
        shares = [(actor, wave[i::n]) for i, actor in enumerate(self.actors) if wave[i::n]]
        results: asyncio.Queue[Generated | BaseException | None] = asyncio.Queue()
        tasks = [asyncio.create_task(self._pump(actor, share, results)) for actor, share in shares]
        try:
            missing = len(tasks)
            while missing:
                item = await results.get()
                if isinstance(item, BaseException):
                    raise item
                if item is None:
                    missing -= 1
                else:
                    yield item
        finally:
            for task in tasks:
                task.cancel()

    async def _pump(
        self, actor: Actor, share: Sequence[Request], results: asyncio.Queue[Generated | BaseException | None]
    ) -> None:
        try:
            async for item in stream(actor, "run", Wave(tuple(share)), timeout_s=self.timeout_s):
                results.put_nowait(item)
            results.put_nowait(None)
        except Exception as error:  # noqa: BLE001 - carried over to the consumer, which raises it
            results.put_nowait(error)

    async def load(self, weights: Any) -> list[int]:
        """Give every worker the weights (a reference to `Published`); the versions they now hold."""
        return await self._all("load", weights)

    async def close(self) -> None:
        for actor in self.actors:
            kill(actor)
