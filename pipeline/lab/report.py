"""One run as one self-contained page: RUN_DIR/report.html.

Reads whatever the run directory holds so far (a failed or a running run has a page too), computes the curves in
`charts.py` and renders `report.html.j2` with its style, its script and Plotly inlined: no network is asked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.lab import charts
from pipeline.lab.gold_chart import best_of_n_chart, gold_chart
from pipeline.lab.page import charted, number, percent, write_page
from pipeline.lab.reading import compared
from pipeline.stores.files import read_jsonl, spread

MAX_SAMPLES = 600
NEAR = 5  # steps whose gold scores are one number
MAX_SAMPLE_BYTES = 3_000_000  # of text, over all samples shown
PROBLEMS = ("warning", "failed", "judge_restarted", "rollout_restarted")  # the kinds of events to be shown
MAX_TEXT = 4000  # characters of one prompt, completion, reference or explanation


@dataclass(frozen=True)
class Run:
    """What a run directory says; empty where a file is not there (yet)."""

    directory: Path
    summary: Mapping[str, Any]
    environment: Mapping[str, Any]
    config: str
    metrics: Sequence[Mapping[str, Any]]
    samples: Sequence[Mapping[str, Any]]
    events: Sequence[Mapping[str, Any]]

    @classmethod
    def read(cls, directory: Path) -> Run:
        def load(name: str) -> dict[str, Any]:
            path = directory / name
            return json.loads(path.read_text()) if path.exists() else {}

        config = directory / "config.yaml"
        lines = {name: read_jsonl(directory / f"{name}.jsonl") for name in ("metrics", "samples", "events")}
        text = config.read_text() if config.exists() else ""
        return cls(directory, load("summary.json"), load("environment.json"), text, **lines)

    @cached_property
    def curves(self) -> dict[str, charts.Curves]:
        """{stage: {metric: (steps, values)}} in the order of the run."""
        by_stage: dict[str, list[Mapping[str, Any]]] = {}
        for line in self.metrics:
            by_stage.setdefault(line["stage"], []).append(line)
        return {stage: charts.curves(lines) for stage, lines in by_stage.items()}

    @cached_property
    def stages(self) -> list[dict[str, Any]]:
        """Every stage that began: name, kind, seconds, results; from the summary, else from events."""
        if self.summary.get("stages"):
            return [{"name": name, **stage} for name, stage in self.summary["stages"].items()]
        spans: dict[str, list[float]] = {}
        for row in (*self.events, *self.metrics):
            if row.get("stage"):
                spans.setdefault(row["stage"], []).append(row["time"])
        return [{"name": name, "kind": "", "seconds": max(ts) - min(ts)} for name, ts in spans.items()]

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """Each evaluate stage's accuracy with its interval; of a run without any, that of its reward models."""
        found = [stage for stage in self.stages if stage.get("accuracy") is not None]
        return [stage for stage in found if stage.get("kind") in ("evaluate", "")] or found


def write_report(run_dir: Path) -> Path:
    """Renders the run's page and puts it in place whole. Returns its path."""
    run = Run.read(run_dir)
    sections = [section for name in run.curves if (section := _section(run, name))]
    sections += [_best_of_n(stage, chart) for stage in run.stages if (chart := best_of_n_chart(stage))]
    evaluations = [stage["name"] for stage in run.evaluations]
    shown = compared(_samples(run.samples, evaluations[-2:]), evaluations)
    more = [key for key in ("disagreeing", "changed") if any(key in row for row in shown)]
    values = {
        "run": run,
        "tiles": _tiles(run),
        "strip": _strip(run),
        "sections": sections,
        "tables": {name: charts.table(found) for name, found in run.curves.items()},
        "problems": [event for event in run.events if event["kind"] in PROBLEMS],
        "start": min((event["time"] for event in run.events), default=0.0),
        "sample_count": len(run.samples),
        "orders": ["latest", "best", "worst", *more],
        "shown_text": f"{len(shown):,}"
        + (f" of {len(run.samples):,} logged, evenly over steps" if len(shown) < len(run.samples) else ""),
    }
    return write_page(run_dir / "report.html", "report.html.j2", charted(sections, shown), values)


def _section(run: Run, stage: str) -> dict[str, Any] | None:
    """The curves of a stage that took steps; None for one that did not."""
    found = run.curves[stage]
    known, rest = charts.charts(found)
    if not known and not rest:
        return None
    samples = [row for row in run.samples if row["stage"] == stage]
    kind = next((s["kind"] for s in run.stages if s["name"] == stage), "")
    steps = max(max(xs) for xs, _ in ([found["learner/loss"]] if "learner/loss" in found else found.values())) + 1
    beside = [s for s in run.stages if s["name"] == stage and s.get("accuracy") is not None]
    return {
        "stage": stage,
        "kind": kind,
        "steps": steps,
        "held_out": beside[0] if beside else None,
        "charts": known + charts.repetition(samples),
        "rest": rest,
        "timing": charts.timing(found),
        "maps": charts.distributions(samples),
        "gold": gold_chart(found),
    }


def _best_of_n(stage: Mapping[str, Any], chart: dict[str, Any]) -> dict[str, Any]:
    """The section of an evaluation that drew several samples for a task."""
    empty: dict[str, Any] = {"charts": [], "rest": [], "maps": [], "timing": None, "held_out": None}
    return {"stage": stage["name"], "kind": stage.get("kind", ""), "steps": 0, "gold": chart, **empty}


def _tiles(run: Run) -> list[dict[str, str]]:
    """The headline numbers of the last stage that was rewarded, or else of the last stage with steps."""
    training = [(name, found) for name, found in run.curves.items() if "learner/loss" in found]
    rewarded = [(name, found) for name, found in training if "reward/mean" in found] or training
    if not rewarded:
        return []
    name, found = rewarded[-1]
    tiles = []
    if "reward/mean" in found:
        values = found["reward/mean"][1]
        tiles.append(
            {"name": "Final reward", "value": number(values[-1]), "note": f"{number(values[0])} at the first step"}
        )
    steps, losses = found["learner/loss"]
    tiles.append({"name": "Steps", "value": f"{steps[-1] + 1:,}", "note": f"in stage {name}"})
    if "gold/mean" in found:
        tiles.insert(1, _gold_tile(found["gold/mean"][1]))
    elif "rollout/tokens_per_s" in found:
        speed = found["rollout/tokens_per_s"][1]
        tiles.append(
            {"name": "Tokens/s", "value": number(sum(speed) / len(speed)), "note": "generated, mean over steps"}
        )
    else:
        tiles.append(
            {"name": "Final loss", "value": number(losses[-1]), "note": f"{number(losses[0])} at the first step"}
        )
    if "time/overhead" in found and "time/step" in found:
        share = sum(found["time/overhead"][1]) / sum(found["time/step"][1])
        tiles.append({"name": "Overhead", "value": percent(share), "note": "of step time: orchestration"})
    return tiles


def _gold_tile(scores: Sequence[float]) -> dict[str, str]:
    means = [sum(scores[i : i + NEAR]) / len(scores[i : i + NEAR]) for i in range(max(1, len(scores) - NEAR + 1))]
    return {
        "name": "Gold score",
        "value": number(means[-1]),
        "note": f"{number(max(means))} at its highest, mean of {NEAR} steps",
    }


def _strip(run: Run) -> list[dict[str, Any]]:
    """The stages as parts of the run's time; what lies outside them comes first."""
    inside = sum(stage["seconds"] for stage in run.stages)
    total = max(run.summary.get("seconds", inside), inside) or 1.0
    around = {"name": "start and end", "kind": "around", "seconds": total - inside}
    parts = ([around] if around["seconds"] > 0.005 * total else []) + run.stages
    return [{**part, "share": part["seconds"] / total} for part in parts]


def _samples(rows: Sequence[Mapping[str, Any]], whole: Sequence[str]) -> list[dict[str, Any]]:
    """As many as a page can hold, with long texts cut in the middle: those of the stages named in `whole` first, then
    the others', evenly over stages and steps."""
    first = spread([row for row in rows if row["stage"] in whole], MAX_SAMPLES // 2)
    kept = {id(row) for row in first}
    kept |= {id(row) for row in spread([r for r in rows if r["stage"] not in whole], MAX_SAMPLES - len(first))}
    cut = [_cut(row) for row in rows if id(row) in kept]
    size = sum(len(json.dumps(row)) for row in cut)
    return cut if size <= MAX_SAMPLE_BYTES else [dict(r) for r in spread(cut, int(len(cut) * MAX_SAMPLE_BYTES / size))]


def _cut(value: Any) -> Any:
    if isinstance(value, str) and len(value) > MAX_TEXT:
        left, right = MAX_TEXT * 5 // 8, MAX_TEXT * 3 // 8
        return f"{value[:left]}\n[… {len(value) - left - right:,} characters …]\n{value[-right:]}"
    if isinstance(value, Mapping):
        return {key: _cut(item) for key, item in value.items()}
    return charts.rounded(value) if isinstance(value, float) else value
