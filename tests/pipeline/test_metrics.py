"""Means over what was judged, never over failures as if they were zeros."""

from __future__ import annotations

import asyncio

import pytest
from fakes import FakeJudges, FakeRollouts, task

from pipeline.evaluate import evaluate
from pipeline.loop import timing
from pipeline.metrics import group_metrics
from rewards.errors import RunFailed
from rewards.types import Failure, Group, Rollout, Score, ScoredGroup, Turn, Verdict
from workers.types import Sampling


def scored(rewards, costs=None):
    import numpy as np

    turn = Turn(np.zeros(1, np.int32), np.zeros(5, np.int32), np.zeros(5, np.float32), "", "length", ((0, 0),))
    failure = Failure("source:s", "timeout", "slow")
    verdicts = tuple(
        Verdict(r, {"s": Score(r, cost=c)})
        if r is not None
        else Verdict(None, {"s": Score(failure=failure)}, failure=failure)
        for r, c in zip(rewards, costs or [0.0] * len(rewards), strict=True)
    )
    return ScoredGroup(Group(0, task(0), tuple(Rollout(i, (turn,)) for i in range(len(rewards)))), verdicts)


def test_a_failure_is_no_zero():
    metrics = group_metrics([scored([1.0, None, 0.0, 1.0]), scored([1.0, 1.0, None, None])])
    assert metrics["reward/mean"] == pytest.approx(4 / 5)
    assert metrics["reward/failed"] == metrics["reward/source/s/failed"] == pytest.approx(3 / 8)
    assert metrics["reward/groups_without_signal"] == 0.5
    assert metrics["rollout/truncated"] == 1 and metrics["rollout/tokens_mean"] == 5
    assert "reward/source/s/cost" not in metrics


def test_a_mean_over_nothing_is_left_out():
    metrics = group_metrics([scored([None, None])])
    assert metrics["reward/failed"] == 1
    assert "reward/mean" not in metrics and "reward/source/s/mean" not in metrics


def test_costs_add_up():
    assert group_metrics([scored([1.0, 1.0], [0.5, 0.25])])["reward/source/s/cost"] == 0.75


def evaluated(judges, n=10, samples=4):
    progress = []
    found = asyncio.run(
        evaluate([task(i) for i in range(n)], FakeRollouts(), judges, Sampling(4), samples, 2.0, progress.append)
    )
    assert progress[-1] == n
    return found


def test_accuracy_counts_what_was_judged_and_has_an_interval():
    found = evaluated(FakeJudges(fails=frozenset({3})))  # rewards 0, 1, 2, 3: half of them reach 2
    assert (found.accuracy, found.n, found.failed) == (0.5, 36, 4)
    low, high = found.interval
    z2 = 1.959964**2  # Wilson (1927), centre 1/2: half width z/(2(n+z^2)) sqrt(n + z^2)
    assert high - low == pytest.approx((z2 * (36 + z2)) ** 0.5 / (36 + z2), rel=1e-4)
    assert found.metrics()["eval/n"] == 36


def test_nothing_judged_is_no_accuracy():
    with pytest.raises(RunFailed, match="not one of 40 completions could be judged; the first: source:s error"):
        evaluated(FakeJudges(fails=frozenset(range(10))))


def test_where_a_steps_seconds_went():
    from pipeline.feeds import Batch

    metrics = {"time/learn": 3.0, "time/publish": 0.5, "time/transport": 0.25, "learner/tokens": 30.0}
    out = timing(metrics, Batch([], [], {}, wait=5.0, generate=4.0, judge=0.75), step_s=10.0, checkpoint_s=1.0)
    assert out["time/transport"] == pytest.approx(0.25 + 5 - 4.75)
    assert out["time/overhead"] == pytest.approx(10 - 4.75 - 3 - 0.5 - 0.5 - 1)
    assert (out["time/overhead_share"], out["learner/tokens_per_s"]) == (pytest.approx(0.025), 10)
    overlapped = timing(metrics, Batch([], [], {}, wait=1.0, generate=4.0, judge=0.75), step_s=5.0, checkpoint_s=0.0)
    assert overlapped["time/overhead"] == pytest.approx(5 - 1 - 3 - 0.5 - 0.25)
