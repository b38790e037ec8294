"""Step rewards: by hand, against brute force in float64, and in the places where they belong."""

from __future__ import annotations

import numpy as np
import pytest
from step_samples import credit, sample

from pipeline.algorithms import Grpo, OnlineDpo, Ppo, Rloo
from workers.types import Signals


def test_a_group_by_hand():
    samples = [
        sample(0, 0, 1.0, [0.5, -0.25], [1, 3], own=5),  # to come: 0.25, -0.25; the last token is in no step
        sample(0, 1, 0.0, [0.75], [2], own=4),  # 0.75
        sample(0, 2, 0.0, [0.5, 0.25, 0.5], [0, 1, 2], own=3),  # 1.25, 0.75, 0.5
        sample(0, 3, 1.0, own=2),  # no steps at all
    ]
    found = [c.advantage for c in credit(Grpo(group_size=4, scale=False), samples)]
    # outcomes less their mean: 0.5, -0.5, -0.5, 0.5; means to come: (0.25 + 0.75 + 1.25) / 3, (-0.25 + 0.75) / 2, 0.5
    np.testing.assert_allclose(found[0], [0.0, 0.0, 0.0, 0.0, 0.5], atol=1e-6)
    np.testing.assert_allclose(found[1], [-0.5, -0.5, -0.5, -0.5], atol=1e-6)
    np.testing.assert_allclose(found[2], [0.0, 0.0, -0.5], atol=1e-6)
    np.testing.assert_allclose(found[3], [0.5, 0.5], atol=1e-6)
    scale = np.sqrt(1 / 3 + (0.25 + 0.25 + 0 + 0 + 0.25 + 0.25) / 6) + 1e-6
    squares = [-0.5, -0.5, 0.0, 0.5, 0.5, 0.0]
    assert np.mean(np.square(squares)) == pytest.approx(1 / 6)
    scaled = [c.advantage for c in credit(Grpo(group_size=4), samples)]
    for plain, one in zip(found, scaled, strict=True):
        np.testing.assert_allclose(one, plain / scale, atol=1e-6)


def brute(samples):
    """Token by token, in plain loops."""
    out = []
    judged = [s for s in samples if s.steps is not None]
    outcomes = [s.reward for s in samples]
    squares = []
    for s in samples:
        row = []
        ends = [] if s.step_ends is None else s.step_ends.tolist()
        for token in range(int(s.mask.sum())):
            step = next((k for k, end in enumerate(ends) if token <= end), None)
            part = 0.0
            if step is not None:
                come = [float(np.float64(o.steps[step:]).sum()) for o in judged if len(o.steps) > step]
                part = float(np.float64(s.steps[step:]).sum()) - sum(come) / len(come)
            row.append(s.reward - sum(outcomes) / len(outcomes) + part)
        out.append(row)
        for step in range(len(ends)):
            come = [float(np.float64(o.steps[step:]).sum()) for o in judged if len(o.steps) > step]
            squares.append((float(np.float64(s.steps[step:]).sum()) - sum(come) / len(come)) ** 2)
    scale = np.sqrt(np.var(outcomes, ddof=1) + (np.mean(squares) if squares else 0)) + 1e-6
    return [np.array(row) / scale for row in out]


def test_random_groups_against_brute_force(seed=None):
    rng = np.random.default_rng(seed)
    for _ in range(50):
        samples = []
        for i in range(int(rng.integers(2, 7))):
            own = int(rng.integers(1, 12))
            k = int(rng.integers(0, own + 1))
            ends = np.sort(rng.choice(own, k, replace=False))
            steps = (rng.normal(size=k), ends) if k else (None, None)
            samples.append(sample(0, i, float(rng.integers(0, 2)), *steps, own=own))
        found = credit(Grpo(), samples)
        if not found:
            continue
        for c, wanted in zip(found, brute(samples), strict=True):
            np.testing.assert_allclose(c.advantage, wanted, rtol=1e-4, atol=1e-5)


def test_equal_outcomes_and_different_steps_are_signal_and_equal_steps_are_none():
    equal = [sample(0, i, 1.0, [0.1, 0.2], [1, 3]) for i in range(3)]
    assert credit(Grpo(group_size=3), equal) == []
    other = [*equal[:2], sample(0, 2, 1.0, [0.1, 0.9], [1, 3])]
    assert len(credit(Grpo(group_size=3), other)) == 3


def test_a_step_that_others_do_not_have_gains_nothing():
    """More steps than the others: they are compared with nothing, so writing them is not rewarded."""
    short = [sample(0, i, 0.0, [1.0], [1]) for i in range(3)]
    long = sample(0, 3, 0.0, [0.0, 1.0, 1.0], [1, 2, 3])
    *_, found = credit(Grpo(group_size=4, scale=False), [*short, long])
    np.testing.assert_allclose(found.advantage, [0.75, 0.75, 0.0, 0.0, 0.0, 0.0], atol=1e-6)


def test_ppo_has_them_in_their_places():
    steps = sample(0, 0, 1.0, [0.5, -0.25, 0.25], [1, 3, 3], own=5)
    values = Signals(value=np.zeros(5, np.float32))
    advantages, returns = Ppo()._gae(steps, values)
    np.testing.assert_allclose(advantages, [1.5, 1.5, 1.0, 1.0, 1.0])
    np.testing.assert_allclose(returns, advantages)


def test_algorithms_of_whole_responses_count_them_in():
    samples = [sample(0, 0, 1.0, [0.5], [1]), sample(0, 1, 0.0, [0.25, 0.25], [1, 2])]
    found = credit(Rloo(group_size=2), samples)
    np.testing.assert_allclose([c.advantage[0] for c in found], [1.0, -1.0])
    worse = [sample(0, 0, 1.0, [-2.0], [1]), sample(0, 1, 0.0, [0.0], [1])]
    labels = {c.sample.index: c.label for c in credit(OnlineDpo(), worse)}
    assert labels[1] > labels[0]
