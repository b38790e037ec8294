"""What 10,000 judged groups in flight cost the driver: `.venv/bin/python -m benchmarks.memory`.

An actor hands over groups as a rollout worker does, 8 rollouts of 200 tokens each, and they wait in the buffer with a
verdict each. Printed: the bytes of their arrays, which stay in Ray's object store, and the growth of the driver's
resident memory, shared pages included and without them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import psutil

from pipeline.buffer import Buffer
from rewards.types import Group, Message, Rollout, Score, ScoredGroup, Task, Turn, Verdict
from workers.messages import Generated
from workers.ray_actors import kill, ready, start_actor, start_ray, stop_ray, stream

GROUPS, SIZE, TOKENS, LOT = 10_000, 8, 200, 32


class Source:
    """Hands over lots of groups; their texts are as long as their ids."""

    async def run(self) -> AsyncIterator[Generated]:
        rng = np.random.default_rng(0)
        for first in range(0, GROUPS, LOT):
            groups = (self._group(rng, i) for i in range(first, min(first + LOT, GROUPS)))
            yield Generated(tuple(groups), 0.0, "source")

    def _group(self, rng: np.random.Generator, id: int) -> Group:
        prompt = rng.integers(0, 99, 20).astype(np.int32)
        turns = (
            Turn(
                prompt, rng.integers(0, 99, TOKENS).astype(np.int32), rng.random(TOKENS).astype(np.float32),
                f"{id:>{TOKENS}}", "stop", ((0, 0),),
            )
            for _ in range(SIZE)
        )  # fmt: skip
        rollouts = tuple(Rollout(index, (turn,)) for index, turn in enumerate(turns))
        return Group(id, Task(f"task-{id}", (Message("user", "47+38="),), "85"), rollouts)


async def main() -> None:
    source = start_actor(Source, name="source", cpus=1)
    await ready(source, 60)
    buffer, process = Buffer(GROUPS), psutil.Process()
    await buffer.reserve(GROUPS)
    before = process.memory_full_info()
    arrays = 0
    async for generated in stream(source, "run", timeout_s=60):
        scored = []
        for group in generated.groups:
            turns = [rollout.turns[0] for rollout in group.rollouts]
            arrays += sum(turn.completion_ids.nbytes + turn.logprobs.nbytes for turn in turns)
            scored.append(ScoredGroup(group, tuple(Verdict(1.0, {"exact": Score(1.0)}) for _ in turns)))
        await buffer.put(scored)
    after = process.memory_full_info()
    grown, own = (after.rss - before.rss) / 1e6, (after.uss - before.uss) / 1e6
    print(
        f"{GROUPS:,} groups of {SIZE} rollouts of {TOKENS} tokens: arrays {arrays / 1e6:.0f} MB; the driver grew by "
        f"{grown:.0f} MB resident, {own:.0f} MB of it its own, {own * 1e6 / GROUPS / SIZE:.0f} bytes a rollout",
        flush=True,
    )
    kill(source)


if __name__ == "__main__":
    start_ray(2)
    asyncio.run(main())
    stop_ray()
