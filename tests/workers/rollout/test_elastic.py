"""A pool that does with fewer workers than it has places: who comes late, who goes, and who is dealt to."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from rewards.errors import RunFailed
from workers.messages import Generated
from workers.ray_actors import Died, Stalled
from workers.rollout import place, pool
from workers.rollout.pool import RolloutPool

S = 0.02


@dataclass(eq=False)
class Worker:
    """What stands in for a process: it is there, or not yet, or no more."""

    name: str
    there: asyncio.Event = field(default_factory=asyncio.Event)
    dead: asyncio.Event = field(default_factory=asyncio.Event)
    loaded: list[str] = field(default_factory=list)
    wrote: list[int] = field(default_factory=list)


class Cluster:
    """Starts workers, and has room for those of some names."""

    def __init__(self, *room: str):
        self.room, self.workers = set(room), []

    def start(self, cls, *args, name, cpus):
        worker = Worker(name)
        self.workers.append(worker)
        if name in self.room:
            worker.there.set()
        return worker

    def newest(self, name):
        return [worker for worker in self.workers if worker.name == name][-1]

    def lose(self, name):
        self.room.discard(name)
        self.newest(name).dead.set()

    def gain(self, name):
        self.room.add(name)
        self.newest(name).there.set()


async def ready(worker, timeout_s):
    try:
        await asyncio.wait_for(worker.there.wait(), timeout_s)
    except TimeoutError:
        raise Stalled(f"{worker.name} did not start") from None


async def call(worker, method, *args, timeout_s):
    await asyncio.sleep(S / 10)
    if worker.dead.is_set():
        raise Died(f"{worker.name} died: its node left")
    if method == "load":
        worker.loaded.append(args[0])
    return args[0] if method == "load" else None


async def stream(worker, method, wave, timeout_s):
    for request in wave.requests:
        await asyncio.sleep(S)
        if worker.dead.is_set():
            raise Died(f"{worker.name} died: its node left")
        worker.wrote.append(request.group_id)
        yield Generated((SimpleNamespace(id=request.group_id),), S, worker.name)


@pytest.fixture
def make(monkeypatch):
    for module in (place, pool):
        for name, fake in {"ready": ready, "call": call, "stream": stream, "kill": lambda worker: None}.items():
            if hasattr(module, name):
                monkeypatch.setattr(module, name, fake)
    monkeypatch.setattr(place, "PATIENCE_S", S)

    async def opened(cluster, workers, least):
        out = RolloutPool(workers, 1.0, 5 * S, cluster.start, "nothing", least)
        await out.start()
        await out.open("model", None)
        return out

    return opened


async def write(pool, first, count):
    wave = [SimpleNamespace(group_id=first + i) for i in range(count)]
    return sorted([group.id async for generated in pool.run(wave) for group in generated.groups])


def test_it_starts_without_the_late_ones_and_takes_them_in(make):
    async def scenario():
        cluster = Cluster("rollout-0")
        workers = await make(cluster, 3, 1)
        assert workers.present() == 1
        assert await workers.load("v1", "proof") == ["v1"]
        assert await write(workers, 0, 4) == [0, 1, 2, 3]
        await asyncio.sleep(20 * S)  # longer than the time-out: who is spare may take its time
        cluster.gain("rollout-2")
        await asyncio.sleep(3 * S)
        assert workers.present() == 2
        assert cluster.newest("rollout-2").loaded == ["v1"]
        assert await write(workers, 4, 4) == [4, 5, 6, 7]
        assert len(cluster.newest("rollout-2").wrote) == 2
        assert await workers.load("v2", "proof") == ["v2", "v2"]
        await workers.close()

    asyncio.run(scenario())


def test_what_a_lost_node_had_is_written_by_the_others(make):
    async def scenario():
        cluster = Cluster("rollout-0", "rollout-1")
        workers = await make(cluster, 2, 1)
        await asyncio.sleep(2 * S)
        assert workers.present() == 2
        await workers.load("v1", "proof")
        writing = asyncio.create_task(write(workers, 0, 8))
        await asyncio.sleep(1.5 * S)
        cluster.lose("rollout-0")
        assert await writing == list(range(8))
        assert workers.present() == 1
        assert await workers.load("v2", "proof") == ["v2"]  # nobody waits for the lost one
        assert await write(workers, 8, 3) == [8, 9, 10]
        cluster.gain("rollout-0")
        await asyncio.sleep(5 * S)
        assert workers.present() == 2
        assert cluster.newest("rollout-0").loaded == ["v2"]
        assert any("its node left" in line for line in workers.restarts)
        await workers.close()

    asyncio.run(scenario())


def test_fewer_than_the_least_end_the_run(make):
    async def scenario():
        cluster = Cluster("rollout-0", "rollout-1")
        workers = await make(cluster, 2, 1)
        await asyncio.sleep(2 * S)
        await workers.load("v1", "proof")
        cluster.lose("rollout-0")
        cluster.lose("rollout-1")
        with pytest.raises(RunFailed, match=r"rollout-\d could not be opened twice in a row"):
            await asyncio.wait_for(write(workers, 0, 4), 100 * S)
        await workers.close()

    asyncio.run(scenario())


def test_without_the_least_it_does_not_start(make):
    async def scenario():
        with pytest.raises(Stalled, match="rollout-1 did not start"):
            await make(Cluster("rollout-0", "rollout-2"), 3, 2)

    asyncio.run(scenario())
