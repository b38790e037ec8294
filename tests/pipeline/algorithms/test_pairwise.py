"""Advantages from preferences: against brute force, and against GRPO where the preferences are a scalar's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from steps import credited, step
from tiny import fresh

from pipeline.algorithms import Grpo, Pairwise
from pipeline.algorithms.estimators import group_relative, pairwise
from pipeline.algorithms.pairwise import preferences
from rewards.types import Score
from workers.types import Sample, Signals


def brute(d):
    n = len(d)
    total = sum(d[a][b] ** 2 for a in range(n) for b in range(n)) / (2 * n * (n - 1))
    return [sum(d[i]) / n / (total + 1e-6) ** 0.5 for i in range(n)]


def test_the_formula():
    rng = fresh()
    for _ in range(50):
        d = rng.normal(size=(n := int(rng.integers(2, 9)), n)) * 10 ** rng.uniform(-2, 2)
        d = d - d.T
        found = pairwise(d)
        np.testing.assert_allclose(found, brute(d.tolist()), rtol=1e-9, atol=1e-12)
        assert abs(found.sum()) < 1e-9


def test_of_a_scalar_it_is_grpo():
    rng = fresh()
    for _ in range(50):
        rewards = rng.normal(size=int(rng.integers(2, 17))) + 3
        d = rewards[:, None] - rewards[None, :]
        exact = (rewards - rewards.mean()) / np.sqrt(rewards.var(ddof=1) + 1e-6)  # GRPO's 1e-6 stands outside the root
        np.testing.assert_allclose(pairwise(d), exact, rtol=1e-9, atol=1e-12)
        wide = 1e4 * rewards
        np.testing.assert_allclose(pairwise(1e4 * d), group_relative(wide, scale=True), rtol=1e-5, atol=1e-7)
    samples, signals = step(fresh(), weights={"exact": 5e3, "length": 1e3})
    found, taken = credited(Pairwise(), samples, signals)
    theirs, as_many = credited(Grpo(), samples, signals)
    np.testing.assert_allclose(found, theirs, atol=1e-4)
    assert (taken == as_many).all()


def test_preferences_that_go_round_in_a_circle_cancel():
    np.testing.assert_allclose(pairwise(np.array([[0, 1, -1], [-1, 0, 1], [1, -1, 0]], float)), 0)
    assert pairwise(np.zeros((1, 1))).tolist() == [0.0]


def judged(parts, indices=None):
    mask = np.array([False, True, True])
    indices = indices or range(len(parts))
    return [
        Sample(0, i, np.arange(3, dtype=np.int32), mask, mask * -1.0, 0.0, scores={"judge": Score(0.0, parts=p)})
        for i, p in zip(indices, parts, strict=True)
    ]


def test_what_a_judge_of_pairs_says():
    """0 over 2 by 3, told once; 2 over 3 in one order, 3 over 2 in the other; 0 and 3 not compared; 1 is missing."""
    group = judged([{"over_2": 3.0, "over_1": 9.0}, {"over_3": 2.0}, {"over_2": 1.0}], indices=[0, 2, 3])
    expected = np.array([[0, 3, 0], [-3, 0, 0.5], [0, -0.5, 0]])
    np.testing.assert_allclose(preferences(group, "judge"), expected)
    assert preferences(judged([{}, {"elegance": 1.0}]), "judge") is None
    found, _ = Pairwise().credit(group, [Signals()] * 3)
    np.testing.assert_allclose([c.advantage[0] for c in found], brute(expected.tolist()), rtol=1e-5)


def test_a_judge_of_pairs_and_a_scalar_add_up_by_their_weights():
    group = [
        replace(s, reward=2.0 * v, scores={**s.scores, "exact": Score(v, weight=2.0)})
        for s, v in zip(judged([{"over_1": 1.0}, {}]), (0.0, 1.0), strict=True)
    ]
    group = [replace(s, scores={**s.scores, "judge": replace(s.scores["judge"], weight=0.5)}) for s in group]
    found, _ = Pairwise().credit(group, [Signals()] * 2)
    # d_01 = 0.5 * 1 - 2 * 1 = -1.5
    assert float(found[0].advantage[0]) == pytest.approx(-1.5 / 2 / (2 * 1.5**2 / 4 + 1e-6) ** 0.5, rel=1e-5)


def test_a_kl_in_the_reward_is_taken_from_a_rollout_before_it_is_compared():
    """Of 0.5 * k1, by token: 0.5 * (1 + 1) = 1 from the first, nothing from the others; so 3, 1, 0 become 2, 1, 0."""
    values = (3.0, 1.0, 0.0)
    group = [
        replace(s, scores={**s.scores, "exact": Score(v)}, reward=v)
        for s, v in zip(judged([{}, {}, {}]), values, strict=True)
    ]
    near = np.array([-1.0, -1.0], np.float32)
    signals = [Signals(near, near - 1), Signals(near, near), Signals(near, near)]
    found, _ = Pairwise(kl_coefficient=0.5, kl_estimator="k1", kl_in="reward").credit(group, signals)
    expected = brute([[0, 1, 2], [-1, 0, 1], [-2, -1, 0]])
    np.testing.assert_allclose([c.advantage[0] for c in found], expected, rtol=1e-5, atol=1e-7)
