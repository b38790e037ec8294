"""Shares, AUC and calibration of answers that come in tasks, with intervals that know it: those of one task are alike.

A share's interval is Wilson's with the effective number of what was counted: n over how much more the share varies from
task to task than independent draws would (the design effect; Rao and Scott 1992, Dean and Pagano 2015). With one for
each task that is n itself. AUC's is the same, from its variance over tasks (Obuchowski 1997); ECE's is a bootstrap's,
of whole tasks (percentiles).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.lab.statistics import interval, wilson

BINS = 10
RESAMPLES = 1000


def share(right: np.ndarray, task: np.ndarray) -> dict[str, Any] | None:
    """{"value", "interval", "n", "effective"} of bool[n], whose i-th belongs to `task` i64[n]; None of nothing."""
    n = len(right)
    if not n:
        return None
    value = float(right.mean())
    _, place, count = np.unique(task, return_inverse=True, return_counts=True)
    spread = float(np.square(np.bincount(place, right) - value * count).sum()) / n**2
    effective = min(float(n), value * (1 - value) / spread) if spread > 0 else float(len(count))
    return {"value": value, "interval": list(wilson(value * effective, effective)), "n": n, "effective": effective}


def auc(score: np.ndarray, label: np.ndarray, task: np.ndarray) -> dict[str, Any] | None:
    """How likely a good answer's score is above a bad one's, over all tasks; ties count half. Good: above the labels'
    middle. None where all are the same."""
    if not len(label):
        return None
    good = label > (label.min() + label.max()) / 2
    if good.all() or not good.any():
        return None
    n, m = int(good.sum()), int((~good).sum())
    below, among = _places(score, score), np.where(good, _places(score, score[good]), _places(score, score[~good]))
    ahead = np.where(good, (below - among) / m, 1 - (below - among) / n)  # share of the other kind that it is ahead of
    value = float(ahead[good].mean())
    _, place = np.unique(task, return_inverse=True)
    apart = np.where(good, (ahead - value) / n, (ahead - value) / m)
    by_task = np.bincount(place, apart)
    variance = float(by_task @ by_task)
    effective = value * (1 - value) / variance if variance > 0 else float(len(by_task))
    return {"value": value, "interval": list(wilson(value * effective, effective))}


def _places(score: np.ndarray, others: np.ndarray) -> np.ndarray:
    """f64[n]: how many of the others each score is above; equal ones count half."""
    ordered = np.sort(others)
    return (np.searchsorted(ordered, score, "left") + np.searchsorted(ordered, score, "right")) / 2


def ece(p: np.ndarray, right: np.ndarray, of: str, task: np.ndarray) -> dict[str, Any]:
    """Expected calibration error over ten bins: what was said, f64[n], beside what was true, bool[n].

    Of few answers it is above 0 for a calibrated source, too, and so are both ends of its interval.
    """
    place = np.minimum((p * BINS).astype(int), BINS - 1)

    _, whose = np.unique(task, return_inverse=True)
    tasks = int(whose.max()) + 1
    apart = np.bincount(whose * BINS + place, p - right, tasks * BINS).reshape(tasks, BINS)
    sizes = np.bincount(whose)

    def error(counted: np.ndarray) -> np.ndarray:
        """f64[R], where each of R draws counts each task f64[R, tasks] times."""
        return np.abs(counted @ apart).sum(axis=1) / (counted @ sizes)

    drawn = np.random.default_rng(0).multinomial(tasks, np.full(tasks, 1 / tasks), RESAMPLES).astype(float)
    bins = [
        {"said": float(p[place == b].mean()), "was": float(right[place == b].mean()), "n": int((place == b).sum())}
        for b in range(BINS)
        if (place == b).any()
    ]
    found = float(error(np.ones((1, tasks)))[0])
    return {"ece": found, "interval": interval(error(drawn)).tolist(), "of": of, "bins": bins}
