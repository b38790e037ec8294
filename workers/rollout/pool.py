"""All rollout workers behind one face.

    wave --round robin--> shares --> worker --> groups, as they finish
                                       | dies, or gives no answer in time
                                       v
                            what it had not handed over is dealt to the workers that are up,
                            or waits for the fresh one; nothing is handed over twice

A sample's random stream depends on (seed, group, index) alone: whoever writes it, it comes out the same, up to the
rounding of another batch and to the weights that are then held. A worker that still answers ends the run with what
it raised: its engine broke, and would again.

A pool that does with fewer workers than it has places (`least`) starts with those, loses nodes and takes in new ones:
a wave goes to the workers that are there, and who comes later opens its engine with the weights last published.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from rewards.errors import RunFailed
from rewards.types import Task
from workers.messages import Generated, Wave
from workers.ray_actors import Actor, Died, Stalled, start_actor, stream
from workers.rollout.place import MakeEngine, Place
from workers.rollout.worker import TORCH
from workers.types import Request


@dataclass(frozen=True)
class _Lost:
    """What a worker that had to be replaced had not handed over."""

    place: Place
    requests: list[Request]


_Result = Generated | _Lost | BaseException


class RolloutPool:
    """`workers` processes of `cpus` CPUs each. A wave is dealt out round robin, the same way every time.

    start     starts them where they are to sit (see `workers.placement`)
    module    what their engines are imported from
    least     as many must be there; the others come when there is room for them
    restarts  one line for each worker that had to be replaced so far: who it was, and why
    """

    def __init__(
        self,
        workers: int,
        cpus: float,
        timeout_s: float,
        start: Callable[..., Actor] = start_actor,
        module: str = TORCH,
        least: int | None = None,
    ):
        self.workers, self.cpus, self.timeout_s = workers, cpus, timeout_s
        self.least = least or workers
        self._begun = False
        self._start_actor, self._module = start, module
        self.restarts: list[str] = []
        self._places: list[Place] = []

    @property
    def actors(self) -> list[Actor]:
        """The processes as they are now."""
        return [place.actor for place in self._places]

    async def start(self) -> None:
        """Returns when the first `least` workers answer. Raises `RunFailed` with the name of the one that does not."""
        rest = (self.cpus, self.timeout_s, self.restarts.append, self._start_actor, self._module)
        self._places = [Place(f"rollout-{i}", *rest, partial(self._spare, i)) for i in range(self.workers)]
        await asyncio.gather(*(place.ready() for place in self._places[: self.least]))

    def present(self) -> int:
        """How many workers are up."""
        return sum(place.up for place in self._places)

    def _spare(self, i: int) -> bool:
        """Whether the pool can do without place `i`: until the run has begun, without the last ones."""
        others = sum(place.up for place in self._places if place is not self._places[i])
        return others >= self.least if self._begun else i >= self.least

    async def _present(self) -> Sequence[Place]:
        """Who is dealt to: everyone, or those that are up where the pool does with fewer; waits for as many."""
        if self.least == self.workers:
            return self._places
        while self.present() < self.least:
            down = [place for place in self._places if not place.up]
            await asyncio.wait([place.opening for place in down], return_when=asyncio.FIRST_COMPLETED)
            for place in down:
                if place.opening.done():
                    place.opening.result()
        return [place for place in self._places if place.up]

    async def open(self, model_path: str, make_engine: MakeEngine) -> None:
        """Make every worker's engine; `make_engine` is called in the workers."""
        opening = [place.open(model_path, make_engine) for place in self._places]
        await asyncio.gather(*map(asyncio.shield, opening[: self.least]))
        self._begun = True

    async def render(self, tasks: Sequence[Task]) -> list[tuple[np.ndarray, np.ndarray]]:
        """See `Rollouts.render`."""
        pairs = [(task.messages, task.demonstration or "") for task in tasks]
        first = next((place for place in self._places if place.up), self._places[0])
        return await first.ask("render", pairs)

    async def step_ends(self, answers: Sequence[tuple[np.ndarray, Sequence[int]]]) -> list[np.ndarray]:
        """See `Rollouts.step_ends`."""
        return await self._places[0].ask("step_ends", answers)

    async def run(self, wave: Sequence[Request]) -> AsyncIterator[Generated]:
        """See `Rollouts.run`: every group once, whoever dies or falls silent meanwhile.

        Raises `RunFailed` with the worker's name where its engine broke, or one after the other was lost.
        """
        results: asyncio.Queue[_Result] = asyncio.Queue()
        pumps: set[asyncio.Task[None]] = set()

        def deal(requests: Sequence[Request], places: Sequence[Place]) -> None:
            shares = [(place, requests[i :: len(places)]) for i, place in enumerate(places)]
            pumps.update(asyncio.create_task(_pump(place, share, results)) for place, share in shares if share)

        missing = {request.group_id for request in wave}
        deal(wave, await self._present())
        try:
            while missing:
                match await results.get():
                    case _Lost(place, requests):
                        others = [other for other in self._places if other.up]
                        deal(requests, others or ([place] if self.least == self.workers else await self._present()))
                    case Generated() as generated:
                        missing -= {group.id for group in generated.groups}
                        yield generated
                    case error:
                        raise error
        finally:
            for pump in pumps:
                pump.cancel()

    async def load(self, weights: Any, proof: Any) -> list[int]:
        """Give every worker the weights (references to `Published` and to its `Proof`); the versions they now hold.

        A worker that dies or stalls over it is replaced; so every worker there is, or comes later, holds them.
        """
        held = await asyncio.gather(*(place.load(weights, proof) for place in self._places))
        return [version for version in held if version is not None]

    async def sleep(self) -> None:
        """Every engine gives its device's memory back, until it is given weights again (see `workers.turns`)."""
        await asyncio.gather(*(place.ask("sleep") for place in self._places))

    async def close(self) -> None:
        await asyncio.gather(*(place.close() for place in self._places))


async def _pump(place: Place, share: Sequence[Request], results: asyncio.Queue[_Result]) -> None:
    """Have one worker write these groups; what it lost, or the error it raised, comes last."""
    left = {request.group_id: request for request in share}
    try:
        if place.absent:
            return results.put_nowait(_Lost(place, list(share)))
        actor = await place.worker()
        try:
            async for item in stream(actor, "run", Wave(tuple(share)), timeout_s=place.timeout_s):
                place.fruitful()
                for group in item.groups:
                    del left[group.id]
                results.put_nowait(item)
        except (Died, Stalled) as error:
            place.replace(actor, error)
            return results.put_nowait(_Lost(place, list(left.values())))
        if left:
            raise RunFailed(f"{place.name} finished without {len(left)} of its {len(share)} groups")
    except Exception as error:  # noqa: BLE001 - carried over to the consumer, which raises it
        results.put_nowait(error)
