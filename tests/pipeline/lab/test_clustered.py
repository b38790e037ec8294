"""Intervals of answers that come in tasks: as wide as what is alike within a task makes them, and no wider."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pipeline.lab.clustered import auc, ece, share
from pipeline.lab.statistics import wilson


def test_one_for_each_task_is_wilsons():
    right = np.random.default_rng(0).random(80) < 0.7
    found = share(right, np.arange(80))
    assert found is not None
    assert (found["value"], found["n"]) == (right.mean(), 80)
    assert found["interval"] == pytest.approx(wilson(right.sum(), 80))


@pytest.mark.parametrize("rate", [0.4, 1.0])
def test_what_is_said_nine_times_over_counts_once(rate):
    right = np.random.default_rng(1).random(60) < rate
    once, often = share(right, np.arange(60)), share(np.repeat(right, 9), np.repeat(np.arange(60), 9))
    assert once and often
    assert often["n"] == 540 and often["effective"] == pytest.approx(60)
    assert often["interval"] == pytest.approx(once["interval"])
    assert share(np.zeros(0, bool), np.zeros(0, int)) is None


def test_the_share_of_alike_answers_lies_in_its_interval():
    """Tasks of nine pairs that are easy or hard as a whole; a plain Wilson interval often misses."""
    rng, inside, naive = np.random.default_rng(2), [], []
    task = np.repeat(np.arange(100), 9)
    for _ in range(300):
        right = rng.random(900) < rng.beta(0.7, 0.3, 100)[task]
        low, high = (share(right, task) or {})["interval"]
        inside.append(low <= 0.7 <= high)
        low, high = wilson(int(right.sum()), 900)
        naive.append(low <= 0.7 <= high)
    assert np.mean(inside) > 0.91
    assert np.mean(naive) < 0.7


def test_auc_is_mann_whitneys():
    rng = np.random.default_rng(2)
    label, score = rng.integers(0, 2, 400), rng.integers(0, 6, 400).astype(float)
    u = stats.mannwhitneyu(score[label == 1], score[label == 0]).statistic
    found = auc(score, label.astype(float), np.arange(400))
    assert found is not None
    assert found["value"] == pytest.approx(u / ((label == 1).sum() * (label == 0).sum()))
    assert auc(score, np.ones(400), np.arange(400)) is None


def test_aucs_interval_holds_the_truth():
    """Two normal distributions one apart: the AUC is Phi(1 / sqrt 2). Answers of a task share an error."""
    rng, truth, inside = np.random.default_rng(3), stats.norm.cdf(1 / np.sqrt(2)), []
    task, label = np.repeat(np.arange(60), 4), np.tile([0.0, 1, 0, 1], 60)
    for _ in range(60):
        score = label + np.sqrt(0.5) * (rng.normal(size=60)[task] + rng.normal(size=240))
        low, high = (auc(score, label, task) or {})["interval"]
        inside.append(low <= truth <= high)
        assert 0.02 < high - low < 0.3
    assert np.mean(inside) >= 0.88


def test_calibration_by_hand_and_its_interval():
    said, right = np.repeat([0.25, 0.85], 200), np.zeros(400, bool)
    right[:100] = right[200:360] = True  # a half, and four fifths
    found = ece(said, right, "score", np.arange(400))
    assert found["ece"] == pytest.approx((0.25 + 0.05) / 2)
    low, high = found["interval"]
    assert low < 0.15 < high and high - low < 0.12
    assert [b["n"] for b in found["bins"]] == [200, 200]
