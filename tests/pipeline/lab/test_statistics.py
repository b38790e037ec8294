"""Means, paired differences and Holm's correction, against scipy and against hand-made cases."""

from __future__ import annotations

import itertools
import secrets

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pipeline.lab.statistics import bootstrap, holm, interval, mean, paired, wilson


def fresh() -> np.random.Generator:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    return np.random.default_rng(seed)


def test_a_bootstrap_interval_is_that_of_all_resamples():
    """Of three numbers there are 27 resamples: the quantiles of their means are known."""
    x = sorted(fresh().normal(size=3).tolist())
    means = [np.mean(drawn) for drawn in itertools.product(x, repeat=3)]
    found = mean(x)
    assert (found.low, found.high) == pytest.approx((min(means), max(means)))  # 1/27 lies above 2.5%
    assert (found.value, found.n) == (pytest.approx(np.mean(x)), 3)


def test_a_bootstrap_interval_agrees_with_scipys():
    x = fresh().normal(size=30)
    found = mean(x.tolist())
    theirs = stats.bootstrap((x,), np.mean, method="percentile", rng=1, n_resamples=20_000).confidence_interval
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.05)


def test_order_does_not_matter_and_few_numbers_are_no_trouble():
    x = fresh().normal(size=5)
    assert mean(x.tolist()) == mean(x[::-1].tolist())
    assert mean([]) is None
    alone = mean([2.0])
    assert (alone.value, alone.low, alone.high, alone.n, alone.deviation) == (2.0, 2.0, 2.0, 1, 0.0)


def test_paired_is_students_t_on_the_seeds_that_both_have():
    rng = fresh()
    a, b = ({seed: float(rng.normal()) for seed in range(6)} for _ in range(2))
    del a[4], b[0]
    seeds = [1, 2, 3, 5]
    theirs = stats.ttest_rel([a[s] for s in seeds], [b[s] for s in seeds])
    low, high = theirs.confidence_interval()
    found = paired(a, b)
    assert (found.p, found.low, found.high) == pytest.approx((theirs.pvalue, low, high))
    assert found.n == 4


def test_paired_without_spread_or_without_pairs():
    assert paired({0: 1.0}, {1: 1.0}) is None
    alone = paired({0: 1.0}, {0: 0.5})
    assert (alone.value, alone.low, alone.p, alone.n) == (0.5, None, None, 1)
    assert paired({0: 1.0, 1: 1.0}, {0: 0.5, 1: 0.5}).p == 0
    assert paired({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0}).p == 1


def test_holm_on_the_textbooks_case():
    # Holm by hand: 0.01 * 4, 0.02 * 3, then 0.03 * 2 is not below what came before it, nor is 0.04.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([None, 0.5, 0.9]) == pytest.approx([None, 1.0, 1.0])
    assert holm([]) == []


def test_holm_refuses_what_the_closed_test_refuses():
    """Holm is the closed test by Bonferroni: a hypothesis falls when every set that holds it does."""
    ps = fresh().uniform(0, 0.2, size=4).tolist()
    sets = [s for n in range(1, 5) for s in itertools.combinations(range(4), n)]
    closed = [max(min(1.0, min(ps[j] for j in s) * len(s)) for s in sets if i in s) for i in range(4)]
    assert holm(ps) == pytest.approx(closed)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 5000), st.data())
def test_wilson_is_scipys(n, data):
    right = data.draw(st.integers(0, n))
    expected = stats.binomtest(right, n).proportion_ci(0.95, method="wilson")
    assert wilson(right, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_a_share_of_nothing_may_be_anything():
    assert wilson(0, 0) == (0.0, 1.0)


def test_a_bootstraps_interval_is_students_for_a_mean():
    x = np.random.default_rng(3).normal(2, 1, 400)
    low, high = interval(bootstrap(lambda places: x[places].mean(keepdims=True), 400))[:, 0]
    error = x.std() / 20
    assert low == pytest.approx(x.mean() - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(x.mean() + 1.96 * error, abs=0.15 * error)


def test_blocks_of_a_bootstrap_widen_what_neighbours_share():
    x = np.repeat(np.random.default_rng(4).normal(size=40), 10)
    widths = [np.ptp(interval(bootstrap(lambda p: x[p].mean(keepdims=True), 400, block=b))) for b in (1, 20)]
    assert 2 < widths[1] / widths[0] < 4.5
