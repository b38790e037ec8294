"""Gao's laws recovered from noisy curves, the best-of-n estimator against brute force, and peaks that are refused."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.lab.overoptimization import Law, Unfitted, best_of_n, best_of_n_kl, fit, fit_best_of_n, order_weights

RL_AB = [(0.5, 0.2), (1.0, 0.45), (0.3, 0.15)]
BON_AB = [(0.8, 0.2), (0.5, 0.1)]


def law_of(form, a, b, d, noise, start=0.4, seed=0, **rest):
    rng = np.random.default_rng(seed)
    terms = a - b * np.log(d) if form == "rl" else a - b * d
    found = fit(form, d, start + d * terms + noise * rng.normal(size=len(d)), **rest)
    assert isinstance(found, Law)
    return found


@pytest.mark.parametrize(("form", "ab"), [("rl", ab) for ab in RL_AB] + [("best_of_n", ab) for ab in BON_AB])
@pytest.mark.parametrize("start", [0.4, None])
def test_the_law_is_recovered_from_a_noisy_curve(form, ab, start):
    a, b = ab
    d = np.linspace(0.05, 8, 150) if form == "rl" else np.linspace(0.1, 4.5, 150)
    inside = []
    for seed in range(30):
        found = law_of(form, a, b, d, 0.03, start=0.4, seed=seed) if start is None else None
        found = found or _given_start(form, a, b, d, seed)
        assert found.a == pytest.approx(a, rel=0.1)
        assert found.b == pytest.approx(b, rel=0.1)
        peak = np.exp(a / b - 1) if form == "rl" else a / (2 * b)
        assert found.named and found.peak == pytest.approx(peak, rel=0.1)
        assert found.gain == pytest.approx(b * peak if form == "rl" else a**2 / (4 * b), rel=0.1)
        inside.append(found.b_interval[0] <= b <= found.b_interval[1])
    assert np.mean(inside) > 0.8, "a 95% interval holds the truth"


def _given_start(form, a, b, d, seed):
    rng = np.random.default_rng(seed)
    terms = a - b * np.log(d) if form == "rl" else a - b * d
    found = fit(form, d, 0.4 + d * terms + 0.03 * rng.normal(size=len(d)), start=0.4)
    assert isinstance(found, Law)
    assert found.start == 0.4
    return found


def test_the_curve_goes_through_the_points():
    d = np.linspace(0.1, 5, 60)
    found = law_of("rl", 0.5, 0.2, d, 0.0)
    assert np.allclose(found.curve(d), 0.4 + d * (0.5 - 0.2 * np.log(d)), atol=1e-9)


def test_a_peak_outside_the_data_is_refused():
    peak = np.exp(0.5 / 0.2 - 1)  # 4.48
    beyond = law_of("rl", 0.5, 0.2, np.linspace(0.05, 2.5, 100), 0.02)
    assert not beyond.named
    assert beyond.refusal.startswith("no peak can be named")
    inside = law_of("rl", 0.5, 0.2, np.linspace(0.05, 2 * peak, 100), 0.02)
    assert inside.named and inside.refusal == ""


def test_a_peak_whose_interval_leaves_the_data_is_refused():
    named = [law_of("rl", 0.5, 0.2, np.linspace(0.05, 5.0, 25), 0.25, seed=seed).named for seed in range(30)]
    assert np.mean(named) < 0.2
    refusals = {law_of("rl", 0.5, 0.2, np.linspace(0.05, 5.0, 25), 0.25, seed=s).refusal for s in range(5)}
    assert all("no peak can be named" in text or text == "" for text in refusals)


def test_a_curve_that_only_rises_has_none():
    found = law_of("best_of_n", 0.5, -0.05, np.linspace(0.1, 3, 50), 0.01)
    assert found.peak is None and found.gain is None and not found.named
    assert "the fitted curve has none" in found.refusal


@pytest.mark.parametrize("n", [0, 1, 4])
def test_too_few_points_are_no_guess(n):
    d = np.arange(1.0, n + 1)
    found = fit("rl", [0.0, 0.0, *d, np.nan], [0.4, 0.4, *d, 1.0])
    assert isinstance(found, Unfitted)
    assert found.reason == f"no peak can be named: {n} distances above 0, expected 5 or more"


def test_equal_distances_are_one_point():
    assert isinstance(fit("rl", [1.0] * 50, list(np.random.default_rng(0).random(50))), Unfitted)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.floats(-3, 3)), min_size=2, max_size=7), st.data())
def test_best_of_n_is_the_mean_over_all_subsets(pool, data):
    """Brute force over every subset, ties broken by lot."""
    proxy, gold = np.array(pool, float).T
    points = best_of_n([(proxy, gold)])
    assert [p.n for p in points] == [n for n in (1, 2, 4) if n < len(pool)] + [len(pool)]
    for point in points:
        golds, proxies = [], []
        for subset in combinations(range(len(pool)), point.n):
            best = max(proxy[list(subset)])
            golds.append(np.mean([gold[i] for i in subset if proxy[i] == best]))
            proxies.append(best)
        assert point.gold == pytest.approx(np.mean(golds), abs=1e-9)
        assert point.proxy == pytest.approx(np.mean(proxies), abs=1e-9)
        assert point.d == pytest.approx(np.sqrt(best_of_n_kl(point.n)))


def drawn(rng, tasks, samples=32):
    """Pools whose proxy first goes along with gold, and against it where it is high."""
    for _ in range(tasks):
        gold = rng.normal(0.4 + 0.2 * rng.normal(), 0.5, samples)
        yield gold + rng.standard_t(2, samples), gold


def test_the_law_of_best_of_n_is_that_of_the_curve_with_intervals_over_tasks():
    rng = np.random.default_rng(4)
    found = list(drawn(rng, 40))
    law, points = fit_best_of_n(found), best_of_n(found)
    assert isinstance(law, Law)
    plain = fit("best_of_n", [p.d for p in points], [p.gold for p in points], start=points[0].gold)
    assert isinstance(plain, Law)
    assert (law.a, law.b, law.start, law.points) == pytest.approx((plain.a, plain.b, points[0].gold, 5))
    whole = fit_best_of_n(list(drawn(rng, 4000)))
    assert isinstance(whole, Law)
    inside = []
    for _ in range(60):
        one = fit_best_of_n(list(drawn(rng, 60)))
        assert isinstance(one, Law)
        inside += [one.a_interval[0] < whole.a < one.a_interval[1], one.b_interval[0] < whole.b < one.b_interval[1]]
    assert np.mean(inside) > 0.85


def test_a_law_of_best_of_n_needs_more_than_sixteen_samples():
    rng = np.random.default_rng(5)
    few = fit_best_of_n(list(drawn(rng, 30, samples=16)))
    assert isinstance(few, Unfitted) and few.reason == "no peak can be named: 4 distances above 0, expected 5 or more"
    assert isinstance(fit_best_of_n([]), Unfitted)


def test_weights_are_probabilities_even_for_large_pools():
    for size, n in ((5, 1), (5, 5), (1000, 37), (20000, 512)):
        weights = order_weights(size, n)
        assert weights.sum() == pytest.approx(1.0)
        assert (weights[: n - 1] == 0).all()


def test_several_tasks_count_alike():
    one, other = (np.array([0.0, 1.0]), np.array([0.0, 1.0])), (np.array([0.0, 1, 2, 3]), np.full(4, 5.0))
    assert [p.gold for p in best_of_n([one, other])] == pytest.approx([(0.5 + 5) / 2, (1 + 5) / 2])
    assert best_of_n([]) == best_of_n([(np.array([1.0]), np.array([1.0]))]) == []
