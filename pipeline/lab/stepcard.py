"""What answers with a label for each step say of a judge of steps.

The share of steps on whose side of the middle it is, the AUC of its step scores, and how often it names the first wrong
step of an answer, or that there is none (ProcessBench, arXiv 2412.06559: the harmonic mean of that share among answers
with a wrong step and among answers without one is its F1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.lab.clustered import auc, share
from pipeline.lab.labelled import Labelled
from rewards.types import Score

MIDDLE = 0.5  # of what a step's label may be


def step_card(
    rows: Sequence[Labelled], scores: Sequence[Sequence[Score]], bounds: tuple[float, float] | None
) -> dict[str, Any] | None:
    """None where no answer has labelled steps, or the source judged none of them by steps.

    A source whose steps end elsewhere than the labelled ones is not compared on that answer: `elsewhere` counts it.
    Without bounds a source has no middle, so only the AUC can be said.
    """
    found = [
        (task, np.array(row.steps[i]) > MIDDLE, score, row.ends[i])
        for task, (row, given) in enumerate(zip(rows, scores, strict=True))
        for i, score in enumerate(given)
        if row.steps and row.steps[i] and score.steps is not None
    ]
    if not found:
        return None
    kept = [
        (t, y, np.asarray(s.steps, float)) for t, y, s, ends in found if s.ends is not None and tuple(s.ends) == ends
    ]
    out: dict[str, Any] = {
        "answers": len(kept),
        "elsewhere": len(found) - len(kept),
        "steps": sum(len(k[1]) for k in kept),
    }
    if not kept:
        return out | {"right": None, "auc": None, "first_wrong": None, "none_wrong": None, "f1": None}
    task = np.concatenate([np.full(len(labels), t) for t, labels, _ in kept])
    labels = np.concatenate([labels for _, labels, _ in kept])
    values = np.concatenate([values for _, _, values in kept])
    out["auc"] = auc(values, labels.astype(float), task)
    if bounds is None:
        return out | {"right": None, "first_wrong": None, "none_wrong": None, "f1": None}
    out["right"] = share((values > sum(bounds) / 2) == labels, task)
    named = np.array([_first(labels) == _first(values > sum(bounds) / 2) for _, labels, values in kept])
    sound, whose = np.array([labels.all() for _, labels, _ in kept]), np.array([t for t, _, _ in kept])
    wrong, none = share(named[~sound], whose[~sound]), share(named[sound], whose[sound])
    out |= {"first_wrong": wrong, "none_wrong": none, "f1": None}
    if wrong and none:
        both = wrong["value"] + none["value"]
        out["f1"] = 2 * wrong["value"] * none["value"] / both if both else 0.0
    return out


def _first(right: np.ndarray) -> int:
    """The first wrong step; -1 where there is none."""
    return -1 if right.all() else int(np.argmin(right))
