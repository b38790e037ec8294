"""What is read off a run: a result of its summary, or a metric's course over the steps of a stage, as one number."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import model_validator

from pipeline.config import Config, EvaluateStage, RlStage
from pipeline.knobs import Knobs
from pipeline.sections import Count
from pipeline.stores.files import read_jsonl
from rewards.errors import Refused, nearest

# What stands in a stage's results, beside its metrics; and which groups of metrics a kind of stage has.
_RESULTS = {
    "evaluate": ("accuracy", "n", "failed", "seconds"),
    "reward_model": ("accuracy", "margin", "n", "loss", "steps", "seconds"),
    "rl": ("reward", "steps", "seconds"),
}
_GROUPS = {
    "evaluate": ("eval", "reward", "rollout", "judge"),
    "reward_model": ("eval", "learner", "time"),
    "sft": ("learner", "policy", "time"),
    "preference": ("learner", "policy", "time"),
}


class Measure(Knobs):
    """One number of a run."""

    metric: str
    """STAGE/metric: a result of the stage in summary.json, or a metric of metrics.jsonl."""
    over: Literal["last", "first", "mean", "max", "min", "reaches"] = "last"
    """How the steps become one number; reaches: the steps until it is at least `level`."""
    window: Count = 1
    """Steps of the moving mean that is taken first."""
    level: float | None = None
    """What `reaches` waits for."""

    @model_validator(mode="after")
    def _levelled(self) -> Measure:
        if (self.level is None) == (self.over == "reaches"):
            raise ValueError("level: belongs to `over: reaches`, and to nothing else")
        return self


def check_measure(measure: Measure, config: Config, where: str) -> None:
    """Refuses a metric that no stage of the config writes."""
    stage, _, metric = measure.metric.partition("/")
    if not metric:
        raise Refused(f"{where}: found {measure.metric!r}, expected STAGE/metric; stages: {', '.join(config.stages)}")
    if stage not in config.stages:
        raise Refused(f"{where}: {measure.metric!r}: no stage {stage!r}; {nearest(stage, config.stages)}")
    section = config.stages[stage]
    results = _RESULTS.get(section.kind, ("loss", "steps", "seconds"))
    if metric in results:
        return
    groups = _GROUPS.get(section.kind)
    told = f"{where}: no stage writes {measure.metric!r}"
    if groups and metric.partition("/")[0] not in groups:
        raise Refused(f"{told}: results of this {section.kind} stage are {', '.join(results)}, metrics {_all(groups)}")
    if not any(pattern.fullmatch(metric) for pattern in _patterns()):
        raise Refused(f"{told}; {nearest(metric, [*results, *_names()])}")
    source = re.fullmatch(r"reward/source/([^/]+)/\w+", metric)
    if source and isinstance(section, RlStage | EvaluateStage) and source[1] not in section.rewards.sources:
        raise Refused(f"{told}: unknown source {source[1]!r}; {nearest(source[1], section.rewards.sources)}")


def _all(groups: Sequence[str]) -> str:
    return ", ".join(f"{group}/..." for group in groups)


def value_of(run_dir: Path, measure: Measure) -> float | None:
    """The measured number; None where the run has none (it failed before, or the level was not reached)."""
    stage, _, metric = measure.metric.partition("/")
    path = run_dir / "summary.json"
    results = json.loads(path.read_text())["stages"].get(stage, {}) if path.exists() else {}
    if isinstance(results.get(metric), int | float):
        return float(results[metric])
    steps, values = course(run_dir, measure)
    if not steps:
        return None
    if measure.over == "reaches":
        return next((float(s + 1) for s, v in zip(steps, values, strict=True) if v >= (measure.level or 0.0)), None)
    of: Mapping[str, Any] = {"last": lambda v: v[-1], "first": lambda v: v[0], "mean": np.mean, "max": max, "min": min}
    return float(of[measure.over](values))


def course(run_dir: Path, measure: Measure) -> tuple[list[int], list[float]]:
    """The metric over the stage's steps, after the moving mean: each step's over the `window` steps that end with it,
    from the first step that has so many."""
    stage, _, metric = measure.metric.partition("/")
    found = [
        (row["step"], row["metrics"][metric])
        for row in read_jsonl(run_dir / "metrics.jsonl")
        if row["stage"] == stage and row["metrics"].get(metric) is not None
    ]
    steps, values = [step for step, _ in found], [value for _, value in found]
    if measure.window > 1 and len(values) >= measure.window:
        values = np.convolve(values, np.ones(measure.window) / measure.window, "valid").tolist()
        steps = steps[measure.window - 1 :]
    return steps, values


@cache
def _names() -> list[str]:
    """The metrics that pipeline/README.md explains, as it writes them; a word in capitals stands for any one part."""
    text = (files("pipeline") / "README.md").read_text()
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("|")]
    return [name for row in rows for name in re.findall(r"`([a-z]+/[^`]+)`", row)]


@cache
def _patterns() -> list[re.Pattern[str]]:
    return [re.compile(re.sub(r"[A-Z]+", "[^/]+", re.escape(name))) for name in _names()]
