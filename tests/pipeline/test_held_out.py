"""How often a reward model is right, by hand."""

import numpy as np
import pytest

from pipeline.held_out import first_errors, judged, rating_error
from workers.types import Sample


def samples(*groups):
    ids, mask = np.arange(3, dtype=np.int32), np.arange(3) > 1
    return [Sample(g, i, ids, mask, None, rating) for g, group in enumerate(groups) for i, rating in enumerate(group)]


def test_every_ranked_pair_counts_once_and_a_tie_is_wrong():
    rated = samples([1, 0], [0, 1], [3, 2, 1], [1, 1], [1, 0])
    rewards = np.array([0.5, -0.5, 1.0, 0.0, 3.0, 1.0, 2.0, 9.0, 0.0, 0.25, 0.25], np.float32)
    found = judged(rated, rewards)
    # right, wrong, right right wrong, no pair, a tie
    assert found is not None
    assert (found.accuracy, found.n) == (3 / 6, 6)
    assert found.margin == pytest.approx((1 - 1 + 2 + 1 - 1 + 0) / 6)
    assert found.interval == pytest.approx((0.187616, 0.812384), abs=1e-5)
    assert found.metrics()["eval/accuracy_low"] == found.interval[0]


def test_without_a_pair_there_is_no_accuracy():
    assert judged(samples([1.0], [2.0, 2.0]), np.zeros(3, np.float32)) is None


def stepped(*labels):
    ids, mask = np.arange(3, dtype=np.int32), np.arange(3) > 1
    return [Sample(i, 0, ids, mask, None, 1.0, np.array(one, np.float32)) for i, one in enumerate(labels)]


def test_the_first_wrong_step_has_to_be_named():
    samples_ = stepped([1, 0, 0], [1, 1], [0.2, 0.9], [1, 1, 1])
    called = [np.array(one, bool) for one in ([1, 0, 1], [1, 1], [1, 0], [1, 1, 0])]
    found = first_errors(samples_, called)
    assert found is not None
    # right (what comes after does not matter), right, named the second, named one where there is none
    assert (found.accuracy, found.n) == (2 / 4, 4)
    assert found.baseline == 2 / 4, "two of four have no wrong step"
    assert found.steps == pytest.approx(6 / 10)
    assert found.interval[0] < 0.5 < found.interval[1]
    assert first_errors([], []) is None


def test_ratings_beside_their_mean():
    rated = samples([4.0], [2.0], [0.0])
    found = rating_error(rated, np.array([3.0, 2.0, 1.0]))
    assert (found.error, found.n, found.explained) == (pytest.approx(2 / 3), 3, pytest.approx(1 - 2 / 8))
    assert rating_error(samples([1.0], [1.0]), np.zeros(2)).explained == 0.0
