"""The loop, its producer and its buffer: order, the staleness bound, failures; with fakes for all processes."""

from __future__ import annotations

import asyncio
import random

import pytest
from fakes import FakeJudges, FakeLearner, FakeRollouts, FakeTransport, task
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.algorithms import Grpo
from pipeline.buffer import Buffer
from pipeline.failures import FailureBudget
from pipeline.feeds import Batch, OnlineFeed
from pipeline.loop import Training, train
from pipeline.producer import Producer
from rewards.errors import RunFailed
from workers.types import Sampling

WAVE, SIZE = 3, 2


class World:
    """One RL stage on fakes."""

    def __init__(self, steps=4, max_staleness=0, start=0, delay=lambda: 0.0, fails=frozenset(), fails_at=None):
        self.rollouts = FakeRollouts(delay, version=start, fails_at=fails_at)
        self.judges = FakeJudges(delay, fails)
        self.learner = FakeLearner(version=start)
        self.steps: list[tuple[int, Batch, dict[str, float]]] = []
        self.buffer = Buffer((max_staleness + 1) * WAVE, start * WAVE)
        producer = Producer(self.buffer, self.rollouts, self.judges, task, Sampling(4), SIZE, WAVE, end=steps * WAVE)
        self.budget = FailureBudget(0.5, window=4 * WAVE * SIZE)
        self.feed = OnlineFeed(self.buffer, producer, WAVE, self.budget)
        transport = FakeTransport(self.learner, self.rollouts)
        self.training = Training(Grpo(group_size=SIZE), self.feed, self.learner, transport, 1000, steps, self._after)
        self.start = start

    async def _after(self, step, batch, metrics):
        self.steps.append((step, batch, metrics))
        return 0.0

    def run(self):
        async def go():
            self.feed.start()
            try:
                await asyncio.wait_for(train(self.training, self.start), 20)
            finally:
                await self.feed.stop()

        asyncio.run(go())
        return self


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), max_staleness=st.integers(0, 3), steps=st.integers(1, 8))
def test_groups_come_in_admission_order_and_never_staler_than_allowed(seed, max_staleness, steps):
    world = World(steps, max_staleness, delay=random.Random(seed).random).run()
    taken = [scored.group.id for _, batch, _ in world.steps for scored in batch.groups]
    assert taken == list(range(steps * WAVE))
    for step, batch, metrics in world.steps:
        ages = [step - sample.version for sample in batch.samples]
        assert min(ages) >= 0
        assert max(ages) <= max_staleness
        assert metrics["policy/staleness_max"] == max(ages)


def test_staleness_is_used_when_it_is_allowed():
    ages = [metrics["policy/staleness_max"] for _, _, metrics in World(6, max_staleness=2).run().steps]
    assert max(ages) == 2


def test_a_stage_taken_up_at_a_step_goes_on_with_its_tasks():
    world = World(steps=5, start=3).run()
    assert [step for step, _, _ in world.steps] == [3, 4]
    assert [s.group.id for _, batch, _ in world.steps for s in batch.groups] == list(range(9, 15))


def test_what_could_not_be_judged_is_counted_and_not_learned_from():
    world = World(steps=3, fails=frozenset({1, 4})).run()
    assert [metrics["reward/failed"] for _, _, metrics in world.steps] == pytest.approx([1 / 3, 1 / 3, 0])
    learned = [{sample.group for sample in batch.samples} for _, batch, _ in world.steps]
    assert learned == [{0, 2}, {3, 5}, {6, 7, 8}]
    rows = [len(batch.lengths) for plan in world.learner.plans for u in plan.updates for batch in u.shards[0]]
    assert rows == [4, 4, 6]


def test_a_judge_that_stays_silent_ends_the_run_by_the_budget():
    with pytest.raises(RunFailed, match=r"16 of the last 24 rollouts could not be judged.*source:s error: no idea"):
        World(steps=8, fails=frozenset(range(4, 24))).run()


@pytest.mark.parametrize("max_staleness", [0, 2])
def test_a_dead_producer_ends_the_wait_with_its_error(max_staleness):
    with pytest.raises(RuntimeError, match="the engine broke"):
        World(steps=6, max_staleness=max_staleness, fails_at=7).run()


def test_a_step_without_any_signal_is_still_a_step():
    world = World(steps=2)
    world.judges._scored = lambda g: type(FakeJudges()._scored(g))(g, FakeJudges()._scored(g).verdicts[:1] * SIZE)
    world.run()
    assert [metrics["reward/groups_without_signal"] for _, _, metrics in world.steps] == [1, 1]
    assert [len(plan.updates) for plan in world.learner.plans] == [0, 0]
    assert world.rollouts.version == 2


def test_the_buffer_makes_the_producer_wait():
    async def go():
        buffer = Buffer(4)
        assert list(await buffer.reserve(3)) == [0, 1, 2]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(buffer.reserve(2), 0.05)
        await buffer.release(1)
        assert list(await buffer.reserve(2)) == [3, 4]
        await buffer.fail(RunFailed("rollout-0 died"))
        for wait in (buffer.take(1), buffer.reserve(1)):
            with pytest.raises(RunFailed, match="rollout-0 died"):
                await wait

    asyncio.run(go())
