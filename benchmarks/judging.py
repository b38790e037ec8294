"""What judging costs: `.venv/bin/python benchmarks/judging.py` (two cores, about a minute).

1. The panel's own overhead per rollout, with a source that does nothing.
2. One question to an actor through `call`, against Ray's own `await handle.method.remote()`.
3. Math verifications per second over two judge workers, against a bare loop of math-verify on one core: once with
   plain numbers (the short way), once with expressions (math-verify in helper processes).
4. 10,000 items through a source that waits 50 ms, 64 in flight, against the waiting alone.
5. Programs per second in the sandbox, against bare subprocesses of the same interpreter with the same program.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from asyncio.subprocess import PIPE
from dataclasses import dataclass
from typing import Any

import numpy as np

from rewards.panel import Panel, Seat
from rewards.programs import Limits
from rewards.sources.math import Math
from rewards.sources.symbolic import equal
from rewards.types import Group, Message, Rollout, Score, Task, Turn
from workers.judging.pool import JudgePool
from workers.judging.sandbox import Sandbox
from workers.ray_actors import call, kill, ready, start_actor, start_ray, stop_ray

GROUP_SIZE, ROUNDS = 8, 3
WAIT_S = 0.05
# As much as a small set of unit tests: the sandbox's cost is there once per program.
PROGRAM = """
import json, math, re, typing
def add(values): return sum(values)
for _ in range(2000): assert add(range(100)) == 4950
print(add(range(100)))
"""


@dataclass(frozen=True)
class Nothing:
    async def score(self, group: Group, tools: Any) -> list[Score]:
        return [Score(1.0)] * len(group.rollouts)


class Echo:
    async def echo(self, value: int) -> int:
        return value


def group(index: int, texts: list[str], reference: str) -> Group:
    none, logprobs = np.zeros(64, np.int32), np.zeros(64, np.float32)
    turns = (Turn(none, none, logprobs, text, "stop", ((0, 0),)) for text in texts)
    task = Task(str(index), (Message("user", "?"),), reference)
    return Group(index, task, tuple(Rollout(i, (turn,)) for i, turn in enumerate(turns)))


def numbers(n: int) -> list[Group]:
    return [group(i, [f"so #### {i + k % 2:,}" for k in range(GROUP_SIZE)], str(i)) for i in range(n)]


def expressions(n: int) -> list[Group]:
    texts = [[f"so #### \\frac{{{2 * i + 2 + k % 2}}}{{{2 * k + 6}}}" for k in range(GROUP_SIZE)] for i in range(n)]
    return [group(i, texts[i], f"{i + 1}/3") for i in range(n)]


@dataclass(frozen=True)
class Waits:
    """A source that waits 50 ms for each of its items, 64 of them at once: an endpoint's stand-in."""

    async def score(self, group: Group, tools: Any) -> list[Score]:
        await asyncio.gather(*(self._one(tools) for _ in group.rollouts))
        return [Score(1.0)] * len(group.rollouts)

    async def _one(self, places: asyncio.Semaphore) -> None:
        async with places:
            await asyncio.sleep(WAIT_S)


async def waiting(items: int) -> float:
    """Seconds over the ideal: items over 64 in flight, times 50 ms."""
    panel, groups, places = Panel((Seat("waits", Waits()),)), numbers(items // GROUP_SIZE), asyncio.Semaphore(64)
    start = time.perf_counter()
    await asyncio.gather(*(panel.judge(one, places) for one in groups))  # type: ignore[arg-type] - its toolbox
    return (time.perf_counter() - start) / (items / 64 * WAIT_S)


async def programs(n: int) -> tuple[float, float]:
    """Programs per second, two at once: in the sandbox, and as bare subprocesses; in turns of 16."""
    box, text, places = Sandbox(2), PROGRAM, asyncio.Semaphore(2)

    async def bare_run() -> None:
        async with places:
            line = [sys._base_executable, "-I", "-S", "-"]  # type: ignore[attr-defined]
            child = await asyncio.create_subprocess_exec(*line, stdin=PIPE, stdout=PIPE, stderr=PIPE)
            out, _ = await child.communicate(text.encode())
            assert out == b"4950\n"

    async def boxed() -> None:
        assert (await box.run(text, "", Limits())).stdout == "4950\n"

    spent = {boxed: 0.0, bare_run: 0.0}
    for _ in range(n // 16):
        for run in spent:
            start = time.perf_counter()
            await asyncio.gather(*(run() for _ in range(16)))
            spent[run] += time.perf_counter() - start
    return n / spent[boxed], n / spent[bare_run]


async def panel_overhead() -> float:
    """Seconds per rollout."""
    panel, groups = Panel((Seat("nothing", Nothing()),)), numbers(1000)
    start = time.perf_counter()
    for one in groups:
        await panel.judge(one, None)  # type: ignore[arg-type] - never used
    return (time.perf_counter() - start) / len(groups) / GROUP_SIZE


async def round_trips() -> tuple[float, float]:
    """Seconds per question: through `call`, and Ray's own."""
    actor, n = start_actor(Echo, name="echo", cpus=0.5), 1000
    await ready(actor, 60)
    ours, rays = 0.0, 0.0
    for _ in range(n):  # in turns, so that a noisy neighbour hits both
        start = time.perf_counter()
        await call(actor, "echo", 1, timeout_s=10)
        middle = time.perf_counter()
        await actor.handle.echo.remote(1)
        ours, rays = ours + middle - start, rays + time.perf_counter() - middle
    kill(actor)
    return ours / n, rays / n


async def verified(groups: list[Group]) -> tuple[float, float]:
    """Verifications per second over two judge workers, started and warm, and of math-verify in a loop; in turns, each
    side's median."""
    pool = JudgePool(Panel((Seat("math", Math(after="####")),)), workers=2, cpus=1, timeout_s=120)
    await pool.start()
    await pool.judge(groups[:20])
    bare(groups[:20])
    ours, theirs = [], []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        scored = await pool.judge(groups)
        ours.append(time.perf_counter() - start)
        assert all(verdict.failure is None for one in scored.groups for verdict in one.verdicts)
        start = time.perf_counter()
        bare(groups)
        theirs.append(time.perf_counter() - start)
    await pool.close()
    many, one = (len(groups) * GROUP_SIZE / statistics.median(side) for side in (ours, theirs))
    return many, one


def bare(groups: list[Group]) -> None:
    """math-verify in a loop."""
    for one in groups:
        equal([rollout.text.rpartition("####")[2] for rollout in one.rollouts], str(one.task.reference), True)


def main() -> None:
    print(f"panel: {asyncio.run(panel_overhead()) * 1e6:.1f} us a rollout")
    print(f"a source that waits, 64 in flight: {asyncio.run(waiting(10_000)):.2f} times the ideal")
    ours, plain = asyncio.run(programs(64))
    print(f"programs: {ours:.1f} a second in the sandbox, {plain:.1f} as bare subprocesses ({ours / plain:.2f} times)")
    start = time.perf_counter()
    start_ray(4)
    print(f"start_ray: {time.perf_counter() - start:.1f} s")
    ours, rays = asyncio.run(round_trips())
    print(f"round trip: {ours * 1e3:.2f} ms through call, {rays * 1e3:.2f} ms Ray's own")
    for name, groups in (("plain numbers", numbers(1000)), ("expressions", expressions(200))):
        many, one = asyncio.run(verified(groups))
        print(f"{name}: {many:.0f} a second over two judges, {one:.0f} in a bare loop ({many / one:.1f} times)")
    stop_ray()


if __name__ == "__main__":
    main()
