"""What judging costs: `.venv/bin/python benchmarks/judging.py` (two cores, about a minute).

1. The panel's own overhead per rollout, with a source that does nothing.
2. One question to an actor through `call`, against Ray's own `await handle.method.remote()`.
3. Math verifications per second over two judge workers, against a bare loop of math-verify on one core: once with
   plain numbers (the short way), once with expressions (math-verify in helper processes).
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from rewards.panel import Panel, Seat
from rewards.sources.math import Math
from rewards.sources.symbolic import equal
from rewards.types import Group, Message, Rollout, Score, Task, Turn
from workers.judging.pool import JudgePool
from workers.ray_actors import call, kill, ready, start_actor, start_ray, stop_ray

GROUP_SIZE = 8


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


async def pooled(groups: list[Group]) -> float:
    """Verifications per second over two judge workers, started and warm."""
    pool = JudgePool(Panel((Seat("math", Math(after="####")),)), workers=2, cpus=1, timeout_s=120)
    await pool.start()
    await pool.judge(groups[:20])
    start = time.perf_counter()
    scored = await pool.judge(groups)
    seconds = time.perf_counter() - start
    await pool.close()
    assert all(verdict.failure is None for one in scored for verdict in one.verdicts)
    return len(groups) * GROUP_SIZE / seconds


def bare(groups: list[Group]) -> float:
    """Verifications per second of math-verify in a loop."""
    for one in groups[:20]:
        equal([one.rollouts[0].text.rpartition("####")[2]], str(one.task.reference), True)
    start = time.perf_counter()
    for one in groups:
        equal([rollout.text.rpartition("####")[2] for rollout in one.rollouts], str(one.task.reference), True)
    return len(groups) * GROUP_SIZE / (time.perf_counter() - start)


def main() -> None:
    print(f"panel: {asyncio.run(panel_overhead()) * 1e6:.1f} us a rollout")
    start = time.perf_counter()
    start_ray(4)
    print(f"start_ray: {time.perf_counter() - start:.1f} s")
    ours, rays = asyncio.run(round_trips())
    print(f"round trip: {ours * 1e3:.2f} ms through call, {rays * 1e3:.2f} ms Ray's own")
    for name, groups in (("plain numbers", numbers(400)), ("expressions", expressions(400))):
        many, one = asyncio.run(pooled(groups)), bare(groups)
        print(f"{name}: {many:.0f} a second over two judges, {one:.0f} in a bare loop ({many / one:.1f} times)")
    stop_ray()


if __name__ == "__main__":
    main()
