"""What 10,000 judged groups in flight cost the driver: `.venv/bin/python -m benchmarks.memory`.

An actor hands over groups as a rollout worker does, 4 or 8 rollouts of 200 tokens each, and they wait in the buffer
with a verdict each. Printed: the bytes of their arrays, which stay in Ray's object store, and how much the driver's
resident memory grows, with and without the pages that it shares.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator

import numpy as np
import psutil

from pipeline.buffer import Buffer
from rewards.types import Group, Message, Rollout, Score, ScoredGroup, Task, Turn, Verdict
from workers.messages import Generated
from workers.ray_actors import kill, ready, start_actor, start_ray, stop_ray, stream

GROUPS, SIZES, TOKENS, LOT = 10_000, (4, 8), 200, 32


class Source:
    """Hands over lots of groups; their texts are as long as their ids."""

    async def run(self, size: int) -> AsyncIterator[Generated]:
        rng = np.random.default_rng(0)
        for first in range(0, GROUPS, LOT):
            groups = (self._group(rng, i, size) for i in range(first, min(first + LOT, GROUPS)))
            yield Generated(tuple(groups), 0.0, "source")

    def _group(self, rng: np.random.Generator, id: int, size: int) -> Group:
        prompt = rng.integers(0, 99, 20).astype(np.int32)
        turns = (
            Turn(
                prompt, rng.integers(0, 99, TOKENS).astype(np.int32), rng.random(TOKENS).astype(np.float32),
                f"{id:>{TOKENS}}", "stop", ((0, 0),),
            )
            for _ in range(size)
        )  # fmt: skip
        rollouts = tuple(Rollout(index, (turn,)) for index, turn in enumerate(turns))
        return Group(id, Task(f"task-{id}", (Message("user", "47+38="),), "85"), rollouts)


async def main(size: int) -> None:
    source = start_actor(Source, name="source", cpus=1)
    await ready(source, 60)
    buffer, process = Buffer(GROUPS), psutil.Process()
    await buffer.reserve(GROUPS)
    before = process.memory_full_info()
    arrays = 0
    async for generated in stream(source, "run", size, timeout_s=60):
        scored = []
        for group in generated.groups:
            turns = [rollout.turns[0] for rollout in group.rollouts]
            arrays += sum(turn.completion_ids.nbytes + turn.logprobs.nbytes for turn in turns)
            scored.append(ScoredGroup(group, tuple(Verdict(1.0, {"exact": Score(1.0)}) for _ in turns)))
        await buffer.put(scored)
    after = process.memory_full_info()
    grown, own = (after.rss - before.rss) / 1e6, (after.uss - before.uss) / 1e6
    print(
        f"{GROUPS:,} groups of {size} rollouts of {TOKENS} tokens: arrays {arrays / 1e6:.0f} MB; the driver grew by "
        f"{grown:.0f} MB resident, {own:.0f} MB of it its own, {own * 1e6 / GROUPS / size:.0f} bytes a rollout",
        flush=True,
    )
    kill(source)


if __name__ == "__main__":
    if sys.argv[1:]:
        start_ray(2)
        asyncio.run(main(int(sys.argv[1])))
        stop_ray()
    else:
        for size in SIZES:  # a process each, for memory that was used once is not given back
            subprocess.run([sys.executable, "-m", "benchmarks.memory", str(size)], check=True)
