"""Dynamic sampling: places whose group has no signal go to other tasks; order, staleness and determinism hold."""

from __future__ import annotations

import asyncio
import random

import pytest
from fakes import FakeJudges, FakeLearner, FakeRollouts, FakeTransport, task
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_docs import documented

from pipeline.algorithms import Grpo
from pipeline.buffer import Buffer
from pipeline.failures import FailureBudget
from pipeline.feeds import OnlineFeed
from pipeline.loop import Training, train
from pipeline.producer import Producer
from rewards.types import Failure, Group, Score, ScoredGroup, Verdict
from workers.types import Sampling

WAVE, SIZE, STEPS = 3, 2, 5
END = WAVE * STEPS


class Judges(FakeJudges):
    """Of the tasks in `dull` both rollouts are worth the same; of those in `silent` one could not be judged."""

    def __init__(self, delay, dull, silent):
        super().__init__(delay)
        self.dull, self.silent = dull, silent

    def _scored(self, judged: Group) -> ScoredGroup:
        number = int(judged.task.id[1:])
        if number in self.silent:
            failure = Failure("source:s", "error", "no idea")
            return ScoredGroup(judged, (Verdict(1.0, {"s": Score(1.0)}), Verdict(None, {}, failure=failure)))
        rewards = [1.0 if number in self.dull else float(r.index) for r in judged.rollouts]
        return ScoredGroup(judged, tuple(Verdict(r, {"s": Score(r)}) for r in rewards))


def run(resample, dull=frozenset(), silent=frozenset(), max_staleness=0, delay=lambda: 0.0):
    """The steps' batches and metrics, and the requests in the order they were made."""
    asked, out = [], []
    learner, rollouts = FakeLearner(), FakeRollouts(delay)
    attempt = rollouts.run

    def watched(wave):
        asked.extend(wave)
        return attempt(wave)

    rollouts.run = watched

    async def after(step, batch, metrics):
        out.append((step, batch, metrics))
        return 0.0

    async def go():
        buffer = Buffer((max_staleness + 1) * WAVE)
        judges = Judges(delay, dull, silent)
        sampling = Sampling(4, seed=7)
        producer = Producer(buffer, rollouts, judges, task, sampling, SIZE, WAVE, END, resample)
        feed = OnlineFeed(buffer, producer, WAVE, FailureBudget(1.0, window=100))
        feed.start()
        transport = FakeTransport(learner, rollouts)
        try:
            await asyncio.wait_for(
                train(Training(Grpo(group_size=SIZE), feed, learner, transport, 1000, STEPS, after)), 20
            )
        finally:
            await feed.stop()

    asyncio.run(go())
    return out, asked


def learned(out):
    """The task of each place, in the order in which they were learned from."""
    return [(scored.group.id, int(scored.group.task.id[1:])) for _, batch, _ in out for scored in batch.groups]


def test_a_place_goes_to_a_task_beyond_the_stages_end():
    out, asked = run(2, dull={1, 4, END + 4})
    assert learned(out)[:5] == [(0, 0), (1, END + 1), (2, 2), (3, 3), (4, 2 * END + 4)]
    assert [metrics["rollout/resampled"] for _, _, metrics in out] == [1, 2, 0, 0, 0]
    assert all(metrics["reward/groups_without_signal"] == 0 for _, _, metrics in out)
    seeds = {request.sampling.seed for request in asked if request.group_id == 4}
    assert len(seeds) == 3, "the same task in the same place would draw the same rollouts again"
    assert documented("rollout/resampled")


def test_after_so_many_rounds_the_last_group_stays():
    out, _ = run(1, dull={1, END + 1})
    assert learned(out)[1] == (1, END + 1)
    assert out[0][2]["reward/groups_without_signal"] == pytest.approx(1 / 3)


def test_without_it_nothing_changes():
    out, asked = run(0, dull={1, 4})
    assert learned(out) == [(i, i) for i in range(END)]
    assert [request.group_id for request in asked] == list(range(END))
    assert "rollout/resampled" not in out[0][2]


def test_what_could_not_be_judged_is_not_hidden_by_another_task():
    out, _ = run(3, silent={1})
    assert learned(out)[1] == (1, 1)
    assert out[0][2]["reward/failed"] == pytest.approx(1 / 6)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    dull=st.frozensets(st.integers(0, 3 * END)),
    max_staleness=st.integers(0, 2),
    resample=st.integers(1, 3),
)
def test_order_staleness_and_tasks_whatever_finishes_first(seed, dull, max_staleness, resample):
    out, _ = run(resample, dull, max_staleness=max_staleness, delay=random.Random(seed).random)
    expected = []
    for place in range(END):
        rounds = (place + k * END for k in range(resample + 1))
        expected.append((place, next((t for t in rounds if t not in dull), place + resample * END)))
    assert learned(out) == expected
    ages = [step - sample.version for step, batch, _ in out for sample in batch.samples]
    assert 0 <= min(ages) <= max(ages) <= max_staleness
