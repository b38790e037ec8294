"""The buffer's shelf: groups far from their turn come back as they were, in the order of admission."""

from __future__ import annotations

import asyncio

from fakes import group, task

from pipeline import buffer as room
from pipeline.buffer import Buffer
from rewards.types import Score, ScoredGroup, Verdict
from workers.messages import Shelved
from workers.types import Request, Sampling


def test_groups_far_from_their_turn_wait_on_the_shelf(monkeypatch):
    monkeypatch.setattr(room, "AHEAD", 3)

    async def scenario():
        buffer = Buffer(10)
        await buffer.reserve(10)
        scored = [
            ScoredGroup(
                group(Request(i, task(i), 2, Sampling(4))),
                tuple(Verdict(float(i + k), {"s": Score(1.0)}) for k in range(2)),
            )
            for i in range(10)
        ]
        await buffer.put(scored[5:])
        await buffer.put(scored[:5])
        shelved = [i for i, one in buffer._groups.items() if isinstance(one, Shelved)]
        return sorted(shelved), scored, [*await buffer.take(4), *await buffer.take(6)]

    shelved, scored, taken = asyncio.run(scenario())
    assert shelved == list(range(3, 10))
    for before, after in zip(scored, taken, strict=True):
        assert after.verdicts == before.verdicts
        assert (after.group.id, after.group.task) == (before.group.id, before.group.task)
        for one, two in zip(before.group.rollouts, after.group.rollouts, strict=True):
            assert one.text == two.text
            assert one.turns[0].completion_ids.tolist() == two.turns[0].completion_ids.tolist()
