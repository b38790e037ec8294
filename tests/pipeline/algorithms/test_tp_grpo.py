"""TP-GRPO by hand, and what it is without step rewards or without alpha."""

from __future__ import annotations

import numpy as np
from step_samples import credit, sample

from pipeline.algorithms import Grpo, TpGrpo

A = 0.5 / (np.sqrt(1 / 3) + 1e-6)


def test_a_group_by_hand():
    samples = [
        sample(0, 0, 1.0, [1.0, 0.0], [1, 3], own=5),
        sample(0, 1, 1.0, [1.0], [3], own=4),
        sample(0, 2, 0.0, [1.0, 0.0], [0, 2], own=4),
        sample(0, 3, 0.0, own=2),
    ]
    found = [c.advantage for c in credit(TpGrpo(group_size=4, alpha=0.5), samples)]
    wanted = [[A, A, A - 0.25, A - 0.25, A], [A] * 4, [0, -A, -A, -A], [-A, -A]]
    for one, by_hand in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, by_hand, atol=1e-6)


def test_without_steps_it_is_grpo():
    rng = np.random.default_rng()
    samples = [sample(g, i, float(rng.integers(0, 2))) for g in range(6) for i in range(4)]
    ours, grpo = credit(TpGrpo(), samples), credit(Grpo(), samples)
    assert [c.sample for c in ours] == [c.sample for c in grpo]
    for one, other in zip(ours, grpo, strict=True):
        np.testing.assert_allclose(one.advantage, other.advantage, rtol=1e-6)


def test_a_group_that_is_always_right_learns_from_its_wrong_steps():
    samples = [sample(0, i, 1.0, [1.0, float(i > 0)], [1, 5]) for i in range(3)]
    found = [c.advantage.tolist() for c in credit(TpGrpo(group_size=3), samples)]
    assert found == [[0, 0, -1, -1, -1, -1], [0] * 6, [0] * 6]
    assert credit(TpGrpo(group_size=3, alpha=0.0), samples) == []


def test_while_no_answer_is_right_nothing_but_the_outcome_counts():
    samples = [sample(0, i, 0.0, [0.0], [1]) for i in range(3)]
    assert credit(TpGrpo(group_size=3), samples) == []
