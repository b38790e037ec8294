"""Rollout workers that are killed, stopped or broken on purpose: every group comes back, once, and as it would have.

The workers take seconds to start, so most tests share two of them; what one test kills, the pool replaces.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from tiny import ALPHABET, make, published

from rewards.errors import RunFailed
from rewards.types import Message, Task
from workers.ray_actors import call, shared
from workers.rollout.place import RESTARTS
from workers.rollout.pool import RolloutPool
from workers.rollout.served import ServedEngine
from workers.rollout.torch_engine import TorchCore
from workers.types import Published, Request, Sampling

START_S = 120.0
VERSION = 7


class SlowCore(TorchCore):
    """Takes its time for every token, so that there is time to kill it."""

    def step(self):
        time.sleep(0.02)
        return super().step()


def slow_engine(path, renderer):
    return ServedEngine(partial(SlowCore, path, renderer, 6))


class DeadlyCore(TorchCore):
    """Takes its process with it as soon as it is to generate."""

    def step(self):
        os.kill(os.getpid(), signal.SIGKILL)


def deadly_engine(path, renderer):
    return ServedEngine(partial(DeadlyCore, path, renderer, 6))


def no_engine(path, renderer):
    os.kill(os.getpid(), signal.SIGKILL)


WAVE = [
    Request(10 + i, Task(f"task-{i}", (Message("user", ALPHABET[i : i + 5]),)), 2, Sampling(20, seed=5))
    for i in range(12)
]


async def collect(pool):
    return [group async for generated in pool.run(WAVE) for group in generated.groups]


async def pids(pool):
    return [await call(actor, "__ray_call__", lambda _: os.getpid(), timeout_s=START_S) for actor in pool.actors]


def written(groups):
    """{group id: each rollout's token ids and the weights' versions}; every group once."""
    assert set(Counter(group.id for group in groups).values()) == {1}
    return {g.id: [(r.turns[0].completion_ids.tolist(), r.turns[0].versions) for r in g.rollouts] for g in groups}


async def mid_wave(pool, strike):
    """A wave of which some groups are handed over and some are not when `strike` comes."""
    groups = []
    async for generated in pool.run(WAVE):
        if not groups:
            strike()
        groups += generated.groups
    assert len(groups) == len(WAVE)
    return written(groups)


@dataclass
class World:
    runner: asyncio.Runner
    pool: RolloutPool
    path: str
    weights: tuple[Published, Any]  # and a reference to their proof
    undisturbed: dict

    def run(self, work):
        return self.runner.run(work)


async def opened(pool, path, weights):
    await pool.start()
    await pool.open(path, slow_engine)
    assert await pool.load(*weights) == [VERSION] * pool.workers


@pytest.fixture(scope="module")
def world(ray_cluster, tmp_path_factory):
    """Two workers whose weights are not those of the model directory that their engines are opened from."""
    folder = tmp_path_factory.mktemp("world")
    path, other = make(folder / "model"), make(folder / "other", seed=1)
    published_, proof = published(other, VERSION)
    weights = published_, shared(proof)
    pool = RolloutPool(2, 0.5, START_S)
    with asyncio.Runner() as runner:
        try:
            runner.run(opened(pool, path, weights))
            yield World(runner, pool, path, weights, written(runner.run(collect(pool))))
        finally:
            runner.run(pool.close())


def test_undisturbed_nothing_is_restarted(world):
    assert world.undisturbed.keys() == {request.group_id for request in WAVE}
    assert {v for group in world.undisturbed.values() for _, v in group} == {((0, VERSION),)}
    assert world.pool.restarts == []


def test_one_of_two_killed_while_it_generates(world):
    before, old = len(world.pool.restarts), world.run(pids(world.pool))
    found = world.run(mid_wave(world.pool, lambda: os.kill(old[0], signal.SIGKILL)))
    assert found == world.undisturbed
    (line,) = world.pool.restarts[before:]
    assert line.startswith("rollout-0 died: ")
    new = world.run(pids(world.pool))
    assert new[0] not in old and new[1] == old[1]
    assert written(world.run(collect(world.pool))) == world.undisturbed


def test_one_of_two_stopped_is_a_time_out_and_replaced(world):
    before, old = len(world.pool.restarts), world.run(pids(world.pool))
    places = world.pool._places

    def stop():
        os.kill(old[1], signal.SIGSTOP)

    async def scenario():
        for place in places:
            place.timeout_s = 5.0
        waits = asyncio.create_task(mid_wave(world.pool, stop))
        await asyncio.sleep(0.3)
        for place in places:  # what a fresh worker needs to start is not what is tried here
            place.timeout_s = START_S
        return await waits

    assert world.run(scenario()) == world.undisturbed
    assert world.pool.restarts[before:] == ["rollout-1.run gave no answer in 5 s"]
    assert old[1] not in world.run(pids(world.pool))


def test_killed_in_load_the_fresh_one_holds_the_weights(world):
    before, old = len(world.pool.restarts), world.run(pids(world.pool))

    async def scenario():
        os.kill(old[0], signal.SIGSTOP)  # so that it can't have answered
        loads = asyncio.create_task(world.pool.load(*world.weights))
        await asyncio.sleep(0.3)
        assert not loads.done()
        os.kill(old[0], signal.SIGKILL)
        return await loads

    assert world.run(scenario()) == [VERSION, VERSION]
    assert len(world.pool.restarts) == before + 1
    assert written(world.run(collect(world.pool))) == world.undisturbed


def test_the_only_worker_killed_while_it_generates(world):
    async def scenario():
        pool = RolloutPool(1, 0.5, START_S)
        try:
            await opened(pool, world.path, world.weights)
            (pid,) = await pids(pool)
            found = await mid_wave(pool, lambda: os.kill(pid, signal.SIGKILL))
            assert len(pool.restarts) == 1
            return found
        finally:
            await pool.close()

    assert asyncio.run(scenario()) == world.undisturbed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make_engine", "restarts", "message"),
    [
        (
            deadly_engine,
            RESTARTS,
            r"^rollout-0 was replaced 3 times in a row and finished nothing; now: rollout-0 died: ",
        ),
        (no_engine, 1, r"^rollout-0 could not be opened twice in a row: rollout-0 died: "),
    ],
)
@pytest.mark.usefixtures("ray_cluster")
def test_a_worker_that_is_lost_again_and_again_ends_the_run(tmp_path, make_engine, restarts, message):
    path = make(tmp_path)

    async def scenario():
        pool = RolloutPool(1, 0.5, START_S)
        try:
            await pool.start()
            with pytest.raises(RunFailed, match=message):
                await pool.open(path, make_engine)
                await collect(pool)
            assert len(pool.restarts) == restarts
        finally:
            await pool.close()

    asyncio.run(scenario())
