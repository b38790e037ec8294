"""Which curves a report shows: from the lines of metrics.jsonl and samples.jsonl to plain data for the page.

A chart whose metrics a stage does not have is left out; a metric that no chart here names gets one of its own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

MAX_POINTS = 1500  # per curve
TIMES = (
    "generate",
    "judge",
    "learn",
    "publish",
    "transport",
    "checkpoint",
    "overhead",
)  # the parts of time/step, stacked

NOT_PARTS = {"step", "wait", "overhead_share"}  # the whole, and what lies across the parts


@dataclass(frozen=True)
class Chart:
    """One chart: `metrics` are names, where "*" stands for one part of a name and becomes the curve's label."""

    title: str
    note: str
    metrics: tuple[str, ...]
    form: str = "number"  # number, share or log: how the y axis reads
    band: tuple[str, str] | None = None  # metrics of the lower and the upper edge


CHARTS = (
    Chart("Reward", "Mean over the step's samples.", ("reward/mean",)),
    Chart("Reward by source", "Mean score of each source, before weights and shaping.", ("reward/source/*/mean",)),
    Chart(
        "Accuracy",
        "On held-out tasks, with its 95% interval.",
        ("eval/accuracy",),
        "share",
        ("eval/accuracy_low", "eval/accuracy_high"),
    ),
    Chart("Reward spread", "Standard deviation over the step's samples.", ("reward/std",)),
    Chart("Loss", "What the learner minimised.", ("learner/loss",)),
    Chart("Entropy", "Of the policy's next token, in nats; falls as it makes up its mind.", ("policy/entropy",)),
    Chart("Gradient norm", "Before clipping.", ("learner/grad_norm",)),
    Chart("Completion length", "Tokens, mean over the step's samples.", ("rollout/tokens_mean",)),
    Chart("Truncated", "Share of samples that hit the length limit.", ("rollout/truncated",), "share"),
    Chart(
        "Log-prob gap",
        "|learner − rollout| per token; near rounding error when both hold the same weights.",
        ("policy/logprob_gap_max", "policy/logprob_gap_mean"),
        "log",
    ),
    Chart(
        "Failures and dead groups",
        "Share of scores that failed, by source; share of groups whose rewards are all equal.",
        ("reward/source/*/failed", "reward/groups_without_signal"),
        "share",
    ),
    Chart("KL to the reference", "Nats per token.", ("policy/kl_ref",)),
    Chart("Clipped", "Share of tokens whose ratio was clipped.", ("policy/clipped",), "share"),
    Chart("Throughput", "Generated tokens per second.", ("rollout/tokens_per_s",)),
    Chart("Learning rate", "", ("learner/lr",)),
    Chart("Tokens learned from", "Per step.", ("learner/tokens",)),
)

Curve = tuple[list[int], list[float]]  # steps, values
Curves = dict[str, Curve]


def curves(lines: Iterable[Mapping[str, Any]]) -> Curves:
    """{metric: (steps, values)} of one stage's lines; null values are gaps and left out."""
    found: Curves = {}
    for line in lines:
        for name, value in line["metrics"].items():
            if value is not None:
                steps, values = found.setdefault(name, ([], []))
                steps.append(line["step"])
                values.append(value)
    return found


def charts(found: Curves) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The charts of the table above that this stage has, and one for each metric left over.

    `flat` marks a chart of curves that never move: the page names their values and draws nothing.
    """
    drawn = {name: curve for name, curve in found.items() if len(curve[0]) > 1}
    known, claimed = [], {name for name in found if name.startswith("time/")}
    for chart in CHARTS:
        matches = _matches(chart, drawn)
        band = chart.band if chart.band and set(chart.band) <= set(drawn) else ()
        claimed.update(band, (name for name, _ in matches))
        if matches:
            known.append(
                _chart(chart, [_series(label, drawn[name]) for name, label in matches], [drawn[b] for b in band])
            )
    rest = [Chart(name, "", (name,)) for name in sorted(set(drawn) - claimed)]
    return known, [_chart(chart, [_series("", drawn[chart.title])], []) for chart in rest]


def _chart(chart: Chart, series: list[dict[str, Any]], band: list[Curve]) -> dict[str, Any]:
    flat = all(min(curve["y"]) == max(curve["y"]) for curve in series)
    return {**asdict(chart), "series": series, "band": [_series("", edge) for edge in band], "flat": flat}


def timing(found: Curves) -> dict[str, Any] | None:
    """Seconds of each step by part, with each part's share of the whole stage; None without time/step."""
    if "time/step" not in found:
        return None
    total = sum(found["time/step"][1])
    others = sorted({name.split("/")[1] for name in found if name.startswith("time/")} - {*TIMES, *NOT_PARTS})
    parts = []
    for part in (*TIMES, *others):
        curve = found.get(f"time/{part}")
        if curve and any(curve[1]):
            seconds = sum(curve[1])
            parts.append({**_series(part, curve), "seconds": seconds, "share": seconds / total if total else 0.0})
    return {"parts": parts, "step": _series("step", found["time/step"]), "seconds": total}


def distributions(samples: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """How the rewards and the lengths of one stage's samples spread at each step; [] where the samples are too few."""
    maps = []
    for key, title, note in (
        ("reward", "Rewards", "Share of the step's logged samples in each range of reward."),
        ("tokens", "Lengths", "Share of the step's logged samples in each range of tokens."),
    ):
        points = [(row["step"], row[key]) for row in samples if row.get(key) is not None]
        steps = sorted({step for step, _ in points})
        if len(steps) >= 4 and len(points) >= 4 * len(steps):
            maps.append({"title": title, "note": note, **_histogram(points, steps)})
    return maps


def repetition(samples: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """How much of their text the stage's logged samples repeat, by step: one chart, or none where the steps are few."""
    found: dict[int, list[float]] = {}
    for row in samples:
        if row.get("completion"):
            found.setdefault(row["step"], []).append(repeated(row["completion"]))
    if len(found) < 4:
        return []
    steps = sorted(found)
    curve = steps, [sum(found[step]) / len(found[step]) for step in steps]
    note = "Share of the logged samples' runs of four words (of short texts: characters) that stood there before."
    return [_chart(Chart("Repetition", note, (), "share"), [_series("", curve)], [])]


def repeated(text: str, n: int = 4) -> float:
    """The share of a text's n-grams that occurred earlier in it: of its words, or, of a text with fewer than eight
    words, of its characters."""
    words = text.split()
    parts: Sequence[str] = words if len(words) >= 8 else text
    grams = [tuple(parts[i : i + n]) for i in range(len(parts) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def table(found: Curves) -> list[dict[str, Any]]:
    """First, last, lowest and highest value of every metric, with a trend to draw (0 to 1, at most 60 points)."""
    rows = []
    for name in sorted(found):
        values = found[name][1]
        low, high = min(values), max(values)
        thin = [values[i] for i in _evenly(len(values), 60)]
        trend = [(value - low) / (high - low) if high > low else 0.5 for value in thin]
        rows.append({"name": name, "first": values[0], "last": values[-1], "low": low, "high": high, "trend": trend})
    return rows


def named(wanted: str, name: str) -> bool:
    """Whether a chart's name for metrics means this one."""
    return re.fullmatch(re.escape(wanted).replace(r"\*", "(.+)"), name) is not None


def overlaid(
    title: str, note: str, form: str, found: Mapping[str, Curve], colours: Mapping[str, int]
) -> dict[str, Any]:
    """One metric of several runs in one chart; a run keeps its colour in all of them."""
    series = [{**_series(name, curve), "colour": colours[name]} for name, curve in found.items()]
    return _chart(Chart(title, note, (), form), series, [])


def _matches(chart: Chart, names: Iterable[str]) -> list[tuple[str, str]]:
    """(metric, label) of every metric that the chart names, in the chart's order."""
    found = []
    for wanted in chart.metrics:
        pattern = re.compile(re.escape(wanted).replace(r"\*", "(.+)"))
        for name in sorted(names):
            if match := pattern.fullmatch(name):
                found.append((name, match[1] if match.groups() else _label(chart, name)))
    return found


def _label(chart: Chart, name: str) -> str:
    """What tells the chart's curves apart: nothing where there is one, else the end of the name."""
    return "" if len(chart.metrics) == 1 else name.split("/", 1)[1].replace("_", " ").removeprefix("logprob gap ")


def _series(label: str, curve: Curve) -> dict[str, Any]:
    kept = _evenly(len(curve[0]), MAX_POINTS)
    return {"name": label, "x": [curve[0][i] for i in kept], "y": [rounded(curve[1][i]) for i in kept]}


def _evenly(n: int, limit: int) -> list[int]:
    """At most `limit` indices out of n, the first and the last among them."""
    return list(range(n)) if n <= limit else [round(i * (n - 1) / (limit - 1)) for i in range(limit)]


def _histogram(points: list[tuple[int, float]], steps: list[int]) -> dict[str, Any]:
    """At most 40 columns of steps, each summing to 1; a row per value where these are few, else 12 rows of ranges."""
    width = math.ceil(len(steps) / 40)
    columns = [steps[i : i + width] for i in range(0, len(steps), width)]
    column = np.searchsorted([c[0] for c in columns], [step for step, _ in points], side="right") - 1
    values = np.array([value for _, value in points], dtype=float)
    distinct = np.unique(values)
    if len(distinct) <= 6:
        row, labels = np.searchsorted(distinct, values), [f"{value:.4g}" for value in distinct]
        y: list[Any] = labels
    else:
        # The longest hundredth goes to the top row: a few outliers would leave the others one row.
        edges = np.linspace(distinct[0], max(np.quantile(values, 0.99), distinct[1]), 13)
        row = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, 11)
        labels = [f"{low:.3g} to {high:.3g}" for low, high in pairwise(edges)]
        if distinct[-1] > edges[-1]:
            labels[-1] = f"{edges[-2]:.3g} to {distinct[-1]:.3g}"
        y = [rounded(float(low + high) / 2) for low, high in pairwise(edges)]
    counts = np.zeros((len(y), len(columns)))
    np.add.at(counts, (row, column), 1)
    return {
        "x": [f"{c[0]}–{c[-1]}" if width > 1 else str(c[0]) for c in columns],
        "y": y,
        "labels": labels,
        "z": [[rounded(float(share)) for share in shares] for shares in counts / counts.sum(axis=0)],
    }


def rounded(value: float) -> float:
    """Six significant digits: what a reader of a chart can use, at half the bytes."""
    return float(f"{value:.6g}") if math.isfinite(value) else value
