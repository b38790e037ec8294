"""What labelled answers say of a reward source: how often it is right, and by what it is led astray.

Everything is computed from `Answers`: one source's scores f64[n] of n answers, NaN where it could not judge. Pairs are
all pairs of one task's answers with different labels; equal scores count as wrong, and as ties.

A warning fires by a test, and states how often it would fire on a source that is free of what it warns of.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.lab.statistics import wilson

LEVEL = 0.01  # of every warning's test
BINS = 10
MARKDOWN = re.compile(r"(?m)^\s*(?:[-*+] |\d+\. |#+ )|\*\*|```|\|")


@dataclass(frozen=True)
class Answers:
    """n answers, one after the other by task.

    task     i64[n], subset [tasks]
    label    f64[n]
    length   f64[n], characters; marks f64[n], signs of markdown
    score    f64[n]
    """

    task: np.ndarray
    subset: Sequence[str]
    label: np.ndarray
    length: np.ndarray
    marks: np.ndarray
    score: np.ndarray


@dataclass(frozen=True)
class Warned:
    """A warning, and how often it fires on a source that does not deserve it: one that `innocent` describes."""

    what: str
    text: str
    false_positive_rate: float
    innocent: str


def marks_of(text: str) -> float:
    """Signs of markdown in a text."""
    return float(len(MARKDOWN.findall(text)))


def pairs_of(answers: Answers) -> tuple[np.ndarray, np.ndarray]:
    """(better, worse) i64[P]: places of every pair that the source judged both of."""
    better, worse = [], []
    for members in _by_task(answers):
        kept = members[~np.isnan(answers.score[members])]
        above = answers.label[kept][:, None] > answers.label[kept][None, :]
        i, j = np.nonzero(above)
        better.append(kept[i])
        worse.append(kept[j])
    return np.concatenate(better or [np.zeros(0, int)]), np.concatenate(worse or [np.zeros(0, int)])


def card(answers: Answers, bounds: tuple[float, float] | None = None) -> dict[str, Any]:
    """Accuracy, AUC, calibration, ties and biases, with intervals; what can't be said is None."""
    better, worse = pairs_of(answers)
    ahead = answers.score[better] - answers.score[worse]
    judged = ~np.isnan(answers.score)
    failed = int((~judged).sum())
    subsets = np.array([answers.subset[t] for t in answers.task[better]])
    out: dict[str, Any] = {
        "answers": len(answers.score),
        "failed": _share(failed, len(answers.score)),
        "pairs": _right(ahead),
        "ties": _share(int((ahead == 0).sum()), len(ahead)),
        "subsets": {name: _right(ahead[subsets == name]) for name in dict.fromkeys(subsets.tolist())},
        "auc": auc(answers.score[judged], answers.label[judged]),
        "calibration": _calibration(answers, judged, ahead, bounds),
        "length_bias": partial(answers, answers.length),
        "format_bias": partial(answers, answers.marks),
        "best_of_n": _best_of_n(answers),
    }
    return out


def _share(k: int, n: int) -> dict[str, Any] | None:
    return {"value": k / n, "interval": list(wilson(k, n)), "n": n} if n else None


def _right(ahead: np.ndarray) -> dict[str, Any] | None:
    return _share(int((ahead > 0).sum()), len(ahead))


def auc(score: np.ndarray, label: np.ndarray) -> float | None:
    """How likely a good answer's score is above a bad one's, over all tasks; ties count half. Good: above the labels'
    middle. None where all are the same."""
    if not len(label):
        return None
    good = label > (label.min() + label.max()) / 2
    if good.all() or not good.any():
        return None
    _, place, count = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[place]
    n, m = int(good.sum()), int((~good).sum())
    return float((ranks[good].sum() - n * (n + 1) / 2) / (n * m))


def _calibration(
    answers: Answers, judged: np.ndarray, ahead: np.ndarray, bounds: tuple[float, float] | None
) -> dict[str, Any] | None:
    """Expected calibration error over ten bins: of the score itself where it is a probability, else of the
    Bradley-Terry probability sigma(margin) that the better of a pair is better."""
    if bounds == (0.0, 1.0):
        label = answers.label[judged]
        return _ece(answers.score[judged], label > 0.5, "score") if len(label) else None
    if not len(ahead):
        return None
    sure = 1 / (1 + np.exp(-np.abs(ahead).clip(0, 50)))
    return _ece(sure, ahead > 0, "margin")


def _ece(p: np.ndarray, right: np.ndarray, of: str) -> dict[str, Any]:
    place = np.minimum((p * BINS).astype(int), BINS - 1)
    bins = [
        {"said": float(p[place == b].mean()), "was": float(right[place == b].mean()), "n": int((place == b).sum())}
        for b in range(BINS)
        if (place == b).any()
    ]
    return {"ece": sum(b["n"] * abs(b["said"] - b["was"]) for b in bins) / len(p), "of": of, "bins": bins}


def partial(answers: Answers, other: np.ndarray) -> dict[str, Any] | None:
    """Correlation of score and `other` among answers of one task, the label held fixed; with its p (Student's t).

    Task means are taken off, then the label by least squares. None where either does not vary.
    """
    kept = ~np.isnan(answers.score)
    columns = [_within(answers.task[kept], x[kept]) for x in (answers.score, other, answers.label)]
    score, other_, label = columns
    if label @ label > 0:
        score, other_ = (x - label * (label @ x) / (label @ label) for x in (score, other_))
    free = int(kept.sum()) - len(np.unique(answers.task[kept])) - 1 - int(label @ label > 0)
    size = math.sqrt(float(score @ score) * float(other_ @ other_))
    if free < 3 or size < 1e-12 * (1 + abs(float(other @ other))):
        return None
    from scipy import stats

    r = float(np.clip(score @ other_ / size, -1, 1))
    t = abs(r) * math.sqrt(free / max(1e-300, 1 - r * r))
    return {"r": r, "p": float(2 * stats.t.sf(t, free)), "n": int(kept.sum())}


def _within(task: np.ndarray, x: np.ndarray) -> np.ndarray:
    _, place, count = np.unique(task, return_inverse=True, return_counts=True)
    return x - (np.bincount(place, x) / count)[place]


def _best_of_n(answers: Answers) -> dict[str, Any] | None:
    """How often the answer of a task with three or more that the source likes best has the best label."""
    right, n = 0.0, 0
    for members in _by_task(answers):
        kept = members[~np.isnan(answers.score[members])]
        if len(kept) > 2 and np.ptp(answers.label[kept]) > 0:
            top = kept[answers.score[kept] == answers.score[kept].max()]
            right += float((answers.label[top] == answers.label[kept].max()).mean())
            n += 1
    return {"value": right / n, "n": n} if n else None


def _by_task(answers: Answers) -> list[np.ndarray]:
    return (
        np.split(np.arange(len(answers.task)), np.flatnonzero(np.diff(answers.task)) + 1) if len(answers.task) else []
    )


def warnings(found: dict[str, Any]) -> list[Warned]:
    """What a card warns of. `keys` and `retest` are the audit's own, where it asked for them."""
    out = []
    pairs = found["pairs"]
    if pairs:
        warned, rate = _chance(round(pairs["value"] * pairs["n"]), pairs["n"])
        if warned:
            text = f"no better than chance: {pairs['value']:.1%} of {pairs['n']} pairs, equal scores counted as wrong"
            out.append(Warned("chance", text, rate, "right on 60% of pairs"))
    for name, what in (("length_bias", "longer"), ("format_bias", "more heavily formatted")):
        bias = found[name]
        if bias and bias["p"] < LEVEL:
            side = what if bias["r"] > 0 else f"less {what.replace('longer', 'long').removeprefix('more ')}"
            text = f"prefers {side} answers of equal label: partial correlation {bias['r']:+.2f}, p {bias['p']:.0e}"
            out.append(Warned(name, text, LEVEL, "without such a preference"))
    failed = found["failed"]
    if failed and _above(round(failed["value"] * failed["n"]), failed["n"], 0.05, LEVEL):
        text = f"could not judge {failed['value']:.1%} of {failed['n']} answers"
        out.append(Warned("failures", text, LEVEL, "failing on 5% of answers"))
    for key, share in (found.get("keys") or {}).items():
        if share and _above(round(share["value"] * share["n"]), share["n"], 0.05, LEVEL / len(found["keys"])):
            text = f"takes the empty answer {key!r} for right on {share['value']:.0%} of {share['n']} tasks"
            out.append(Warned("master_key", text, LEVEL, "fooled by each on 5% of tasks"))
    for name, what in (("retest", "asked again"), ("order", "shown the answers in another order")):
        share = found.get(name)
        if share and share["value"] > 0:
            text = f"{what}, it scores {share['value']:.1%} of {share['n']} answers otherwise"
            out.append(Warned(name, text, 0.0, "whose scores never change"))
    return out


def _chance(right: int, n: int) -> tuple[bool, float]:
    """Whether accuracy above one half is not shown at LEVEL; and how often that befalls one whose accuracy is 60%."""
    from scipy import stats

    least = int(stats.binom.isf(LEVEL, n, 0.5)) + 1  # from here on it is shown
    return right < least, float(stats.binom.cdf(least - 1, n, 0.6))


def _above(k: int, n: int, rate: float, level: float) -> bool:
    """Whether a share above `rate` is shown."""
    from scipy import stats

    return float(stats.binom.sf(k - 1, n, rate)) < level
