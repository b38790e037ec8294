"""What labelled answers say of a reward source: how often it is right, and by what it is led astray.

Everything is computed from `Answers`: one source's scores f64[n] of n answers, NaN where it could not judge. Pairs are
all pairs of one task's answers with different labels; equal scores count as wrong, and as ties.

Where a task's answers come in styles, plain to embellished (RM-Bench, arXiv 2410.16184), a pair is easy where the
better answer is the more embellished one, hard where the worse one is, else normal.

A warning fires by a test, and states how often it would fire on a source that is free of what it warns of.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.lab.clustered import auc, ece, share
from pipeline.lab.statistics import wilson

LEVEL = 0.01  # of every warning's test
MARKDOWN = re.compile(r"(?m)^\s*(?:[-*+] |\d+\. |#+ )|\*\*|```|\|")


@dataclass(frozen=True)
class Answers:
    """n answers, one after the other by task.

    task     i64[n], subset [tasks]
    label    f64[n]
    length   f64[n], characters; marks f64[n], signs of markdown
    score    f64[n]
    style    i64[n], how embellished an answer is beside others of its task; -1 where nothing says so
    """

    task: np.ndarray
    subset: Sequence[str]
    label: np.ndarray
    length: np.ndarray
    marks: np.ndarray
    score: np.ndarray
    style: np.ndarray | None = None


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
    ahead, task = answers.score[better] - answers.score[worse], answers.task[better]
    judged = ~np.isnan(answers.score)
    subsets = np.array([answers.subset[t] for t in task])
    right = ahead > 0
    return {
        "answers": len(answers.score),
        "failed": share(~judged, answers.task),
        "pairs": share(right, task),
        "ties": share(ahead == 0, task),
        "subsets": {s: share(right[subsets == s], task[subsets == s]) for s in dict.fromkeys(subsets.tolist())},
        "styles": _by_style(answers, better, worse, right),
        "auc": auc(answers.score[judged], answers.label[judged], answers.task[judged]),
        "calibration": _calibration(answers, judged, ahead, task, bounds),
        "length_bias": partial(answers, answers.length, answers.marks),
        "format_bias": partial(answers, answers.marks, answers.length),
        "best_of_n": _best_of_n(answers),
    }


def _by_style(answers: Answers, better: np.ndarray, worse: np.ndarray, right: np.ndarray) -> dict[str, Any] | None:
    if answers.style is None or (answers.style < 0).all():
        return None
    known = (answers.style[better] >= 0) & (answers.style[worse] >= 0)
    lead, task = answers.style[better] - answers.style[worse], answers.task[better]
    kinds = {"easy": lead > 0, "normal": lead == 0, "hard": lead < 0}
    return {name: share(right[known & kind], task[known & kind]) for name, kind in kinds.items()}


def _calibration(
    answers: Answers, judged: np.ndarray, ahead: np.ndarray, task: np.ndarray, bounds: tuple[float, float] | None
) -> dict[str, Any] | None:
    """Expected calibration error over ten bins: of the score itself where it is a probability, else of the
    Bradley-Terry probability sigma(margin) that the better of a pair is better."""
    if bounds == (0.0, 1.0):
        label = answers.label[judged]
        return ece(answers.score[judged], label > 0.5, "score", answers.task[judged]) if len(label) else None
    if not len(ahead):
        return None
    sure = 1 / (1 + np.exp(-np.abs(ahead).clip(0, 50)))
    return ece(sure, ahead > 0, "margin", task)


def partial(answers: Answers, other: np.ndarray, *held: np.ndarray) -> dict[str, Any] | None:
    """Correlation of score and `other` among answers of one task, label and `held` fixed; with its p (Student's t).

    Task means are taken off, then what is fixed by least squares. None where either does not vary beyond that.
    """
    kept = ~np.isnan(answers.score)
    score, wanted, *given = (_within(answers.task[kept], x[kept]) for x in (answers.score, other, answers.label, *held))
    fixed = np.column_stack([x for x in given if x @ x > 0] or [np.zeros((len(score), 0))])
    both = np.column_stack([score, wanted])
    coefficients, _, rank, _ = np.linalg.lstsq(fixed, both, rcond=None)
    left = both - fixed @ coefficients
    free = int(kept.sum()) - len(np.unique(answers.task[kept])) - 1 - int(rank)
    sizes = np.square(left).sum(axis=0)
    if free < 3 or (sizes <= 1e-12 * np.square(both).sum(axis=0)).any():
        return None
    from scipy import stats

    r = float(np.clip(left[:, 0] @ left[:, 1] / math.sqrt(float(sizes.prod())), -1, 1))
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
    return {"value": right / n, "interval": list(wilson(right, n)), "n": n} if n else None


def _by_task(answers: Answers) -> list[np.ndarray]:
    return (
        np.split(np.arange(len(answers.task)), np.flatnonzero(np.diff(answers.task)) + 1) if len(answers.task) else []
    )


def warnings(found: dict[str, Any]) -> list[Warned]:
    """What a card warns of. `keys` and `retest` are the audit's own, where it asked for them."""
    out = []
    pairs = found["pairs"]
    if pairs:
        warned, rate = _chance(*_counted(pairs))
        if warned:
            text = f"no better than chance: {pairs['value']:.1%} of {pairs['n']} pairs, equal scores counted as wrong"
            out.append(Warned("chance", text, rate, "right on 60% of pairs"))
    sides = {"length_bias": ("longer", "shorter", "formatting"), "format_bias": ("more", "less", "length")}
    for name, (more, less, held) in sides.items():
        bias = found[name]
        if bias and bias["p"] < LEVEL:
            side = (more if bias["r"] > 0 else less) + " heavily formatted" * (name == "format_bias")
            text = f"prefers {side} answers of equal label and {held}: partial correlation {bias['r']:+.2f}"
            text += f", p {bias['p']:.0e}" if bias["p"] > 1e-12 else ", p < 1e-12"
            out.append(Warned(name, text, LEVEL, "without such a preference"))
    failed = found["failed"]
    if failed and _above(*_counted(failed), 0.05, LEVEL):
        text = f"could not judge {failed['value']:.1%} of {failed['n']} answers"
        out.append(Warned("failures", text, LEVEL, "failing on 5% of answers"))
    keys = {key: fooled for key, fooled in (found.get("keys") or {}).items() if fooled}
    if opened := {k: one for k, one in keys.items() if _above(*_counted(one), 0.05, LEVEL / len(keys))}:
        worst = sorted(opened.items(), key=lambda item: -item[1]["value"])
        said = ", ".join(f"{key!r} on {one['value']:.0%}" for key, one in worst)
        text = f"takes empty answers for right: {said} of {worst[0][1]['n']} tasks"
        out.append(Warned("master_key", text, LEVEL, "fooled by each on 5% of tasks"))
    for name, what in (("retest", "asked again"), ("order", "shown the answers in another order")):
        changed = found.get(name)
        if changed and changed["value"] > 0:
            text = f"{what}, it scores {changed['value']:.1%} of {changed['n']} answers otherwise"
            out.append(Warned(name, text, 0.0, "whose scores never change"))
    return out


def _counted(found: dict[str, Any]) -> tuple[int, int]:
    """How many of how many draws that are worth as much as independent ones."""
    n = max(1, round(found["effective"]))
    return round(found["value"] * n), n


def _chance(right: int, n: int) -> tuple[bool, float]:
    """Whether accuracy above one half is not shown at LEVEL; and how often that befalls one whose accuracy is 60%."""
    from scipy import stats

    least = int(stats.binom.isf(LEVEL, n, 0.5)) + 1  # from here on it is shown
    return right < least, float(stats.binom.cdf(least - 1, n, 0.6))


def _above(k: int, n: int, rate: float, level: float) -> bool:
    """Whether a share above `rate` is shown."""
    from scipy import stats

    return float(stats.binom.sf(k - 1, n, rate)) < level
