"""Workers as Ray actors: answers, streams, errors as they were raised, names on what stalls or dies."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from rewards.errors import Refused, RunFailed
from workers.ray_actors import Died, Stalled, call, kill, ready, start_actor, stream

pytestmark = pytest.mark.usefixtures("ray_cluster")


class Worker:
    def __init__(self, fault: str = "") -> None:
        if fault:
            raise Refused(f"{fault} is not possible")
        self.cancelled = False

    async def echo(self, value, twice=False):
        return value * 2 if twice else value

    async def environment(self):
        return os.getpid(), os.environ["OMP_NUM_THREADS"], os.environ.get("COLOUR"), sys.path

    async def page_faults(self):
        """Of work that needs 24 MB for a moment, done before."""
        faults = []
        for _ in range(5):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            del (lambda: [np.ones(1 << 20) for _ in range(3)])()[:]
            faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
        return faults[-1]

    async def fail(self, kind):
        raise {
            "run": RunFailed("no way on"),
            "user": Refused("line 3"),
            "other": KeyError("k"),
            "time": TimeoutError("t"),
        }[kind]

    async def sleep(self):
        await asyncio.sleep(1e6)

    async def count(self, n, pause=0.0, fail_at=-1):
        try:
            for i in range(n):
                if i == fail_at:
                    raise RunFailed(f"item {i}")
                yield i
                await asyncio.sleep(pause)
        except asyncio.CancelledError:
            self.cancelled = True
            raise

    async def was_cancelled(self):
        return self.cancelled


@pytest.fixture(scope="module")
def worker(ray_cluster):
    actor = start_actor(Worker, name="worker-0", cpus=0.5, env={"COLOUR": "blue"})
    asyncio.run(ready(actor, 60))
    yield actor
    kill(actor)


def test_answers_with_its_environment(worker):
    assert asyncio.run(call(worker, "echo", 21, twice=True, timeout_s=10)) == 42
    pid, threads, colour, paths = asyncio.run(call(worker, "environment", timeout_s=10))
    assert (pid != os.getpid(), threads, colour) == (True, "1", "blue")
    assert str(Path.cwd()) in paths
    assert asyncio.run(call(worker, "page_faults", timeout_s=10)) < 600  # 6,144 where memory goes back and forth


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("run", RunFailed, "no way on"),
        ("user", Refused, "line 3"),
        ("other", KeyError, "'k'"),
        ("time", TimeoutError, "t"),
    ],
)
def test_an_error_comes_out_as_it_was_raised(worker, kind, error, message):
    with pytest.raises(error) as raised:
        asyncio.run(call(worker, "fail", kind, timeout_s=10))
    assert type(raised.value) is error
    assert str(raised.value) == message


def test_a_stall_has_a_name(worker):
    with pytest.raises(Stalled, match=r"^worker-0\.sleep gave no answer in 0\.2 s$"):
        asyncio.run(call(worker, "sleep", timeout_s=0.2))


def test_a_death_has_a_name_and_a_reason():
    async def scenario():
        actor = start_actor(Worker, name="rollout-1", cpus=0)
        pid, *_ = await call(actor, "environment", timeout_s=60)
        asked = asyncio.create_task(call(actor, "sleep", timeout_s=60))
        await asyncio.sleep(0.2)
        os.kill(pid, signal.SIGKILL)
        start = time.perf_counter()
        with pytest.raises(Died, match=r"^rollout-1 died: .+") as died:
            await asked
        assert "\n" not in str(died.value)
        assert time.perf_counter() - start < 5
        with pytest.raises(Died, match=r"^rollout-1 died: "):
            await call(actor, "echo", 1, timeout_s=10)

    asyncio.run(scenario())


def test_an_error_in_the_constructor_is_told():
    actor = start_actor(Worker, "flying", name="worker-1", cpus=0)
    with pytest.raises(Died, match=r"^worker-1 died: .*Refused: flying is not possible$"):
        asyncio.run(ready(actor, 60))


def test_an_actor_that_finds_no_place_says_what_it_asked_for():
    actor = start_actor(Worker, name="learner-0", cpus=64)
    with pytest.raises(
        Stalled, match=r"learner-0 did not start in 1 s: it asks for 64 CPUs and 0 GPUs, the cluster has"
    ):
        asyncio.run(ready(actor, 1.0))
    kill(actor)


def test_streams_item_by_item(worker):
    async def collect(*args, timeout_s=10.0):
        seen = []
        try:
            async for item in stream(worker, "count", *args, timeout_s=timeout_s):
                seen.append((item, time.perf_counter()))
        except RunFailed as error:
            seen.append((str(error), 0.0))
        return seen

    items = asyncio.run(collect(4, 0.2))
    assert [i for i, _ in items] == [0, 1, 2, 3]
    assert items[-1][1] - items[0][1] > 0.4  # they came one by one
    assert [i for i, _ in asyncio.run(collect(4, 0.0, 2))] == [0, 1, "item 2"]
    assert [i for i, _ in asyncio.run(collect(2, 5.0, timeout_s=0.5))] == [0, "worker-0.count gave no answer in 0.5 s"]


def test_leaving_a_stream_cancels_it(worker):
    async def first():
        items = stream(worker, "count", 1000, 0.05, timeout_s=10)
        item = await anext(items)
        await items.aclose()
        for _ in range(100):
            if await call(worker, "was_cancelled", timeout_s=10):
                return item
            await asyncio.sleep(0.05)
        return "never cancelled"

    assert asyncio.run(first()) == 0
