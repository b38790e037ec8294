"""Which rollouts an algorithm picks out of a group, by hand."""

from __future__ import annotations

import numpy as np

from pipeline.algorithms import Dpo, OnlineDpo, Rejection
from workers.types import Sample, Signals


def sample(group, index, reward, own=2):
    mask = np.arange(2 + own) >= 2
    return Sample(group, index, np.arange(2 + own, dtype=np.int32), mask, np.zeros(2 + own, np.float32), reward)


def groups(*rewards):
    return [sample(g, i, reward, own=i + 1) for g, group in enumerate(rewards) for i, reward in enumerate(group)]


def credit(algorithm, samples):
    return algorithm.credit(samples, [Signals()] * len(samples))[0]


def test_online_dpo_pairs_the_first_of_the_best_with_the_first_of_the_worst():
    samples = groups([0.5, 1.0, 0.0, 1.0, 0.0], [2.0, 2.0], [0.0, 0.25])
    found = credit(OnlineDpo(group_size=5), samples)
    assert [(c.bundle, c.sample.index, c.label) for c in found] == [(0, 1, 1.0), (0, 2, 0.0), (2, 1, 0.25), (2, 0, 0.0)]
    assert [c.mass for c in found] == [0.5] * 4
    assert [c.weight.tolist() for c in found[:2]] == [[1, 1], [1, 1, 1]]


def test_length_normalised_scores_are_means():
    found = credit(OnlineDpo(loss=Dpo(length_normalised=True)), groups([0.0, 1.0]))
    assert [c.weight.tolist() for c in found] == [[0.5, 0.5], [1.0]]


def test_rejection_learns_from_the_first_of_the_best():
    found = credit(Rejection(group_size=3), groups([0.0, 1.0, 1.0], [0.0, 0.0, 0.0], [1.0, 1.0], [0.5, 0.0]))
    assert [(c.sample.group, c.sample.index) for c in found] == [(0, 1), (3, 0)]
    assert [c.mass for c in found] == [2.0, 1.0]
    assert all(c.weight.tolist() == [1.0] * len(c.weight) and c.bundle is None for c in found)


def test_nothing_to_compare_is_no_credit():
    for algorithm in (OnlineDpo(), Rejection(), Dpo()):
        assert credit(algorithm, groups([1.0], [0.5, 0.5])) == []
        assert credit(algorithm, []) == []
