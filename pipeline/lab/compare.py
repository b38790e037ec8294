"""Several runs on one page: what differs in their configs, what came of them, and their curves over each other."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.lab import charts
from pipeline.lab.page import charted, write_page
from pipeline.lab.report import Run
from pipeline.yaml_files import read_yaml

MAX_RUNS = 24


def write_comparison(folders: Sequence[Path], path: Path) -> Path:
    """The page of these runs at that path; links to their own reports are relative to it."""
    runs = [Run.read(folder) for folder in folders]
    names = labels(folders)
    stages = list(dict.fromkeys(stage for run in runs for stage in run.curves))
    sections = [section for stage in stages if (section := _section(runs, names, stage))]
    evaluated = list(dict.fromkeys(stage["name"] for run in runs for stage in run.evaluations))
    values = {
        "runs": [
            {
                "name": name,
                "status": run.summary.get("status", "unfinished"),
                "seed": run.summary.get("seed"),
                "seconds": run.summary.get("seconds"),
                "report": _relative(run.directory / "report.html", path.parent),
                "accuracy": {stage["name"]: stage for stage in run.evaluations},
            }
            for name, run in zip(names, runs, strict=True)
        ],
        "evaluated": evaluated,
        "differences": differences([read_yaml(folder / "config.yaml") for folder in folders]),
        "sections": sections,
    }
    return write_page(path, "compare.html.j2", charted(sections, []), values)


def labels(folders: Sequence[Path]) -> list[str]:
    """Each run's directory by as few of its last parts as tell them apart."""
    full = [folder.resolve().parts for folder in folders]
    for n in range(1, max(map(len, full)) + 1):
        short = ["/".join(parts[-n:]) for parts in full]
        if len(set(short)) == len(set(full)):
            return short
    return ["/".join(parts) for parts in full]


def differences(configs: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """(key path, each run's value) of every key that is not the same in all of them."""
    flat = [_flat(config) for config in configs]
    keys = dict.fromkeys(key for one in flat for key in one)
    rows = [(key, [one.get(key, "–") for one in flat]) for key in keys if not key.startswith("tracking.")]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _flat(tree: Any, path: str = "") -> dict[str, str]:
    if not isinstance(tree, dict) or not tree:
        return {path: str(tree)}
    return {
        key: text
        for name, part in tree.items()
        for key, text in _flat(part, f"{path}.{name}" if path else name).items()
    }


def _section(runs: Sequence[Run], names: Sequence[str], stage: str) -> dict[str, Any] | None:
    """The stage's curves, one chart per metric, a curve per run."""
    found = [run.curves.get(stage, {}) for run in runs]
    drawn = []
    for chart in charts.CHARTS:
        for wanted in chart.metrics:
            metrics = sorted({name for one in found for name in one if charts.named(wanted, name)})
            drawn += [_chart(chart, metric, found, names) for metric in metrics]
    drawn = [one for one in drawn if one["series"] and not one["flat"]]
    return {"stage": stage, "charts": drawn} if drawn else None


def _chart(chart: charts.Chart, metric: str, found: Sequence[charts.Curves], names: Sequence[str]) -> dict[str, Any]:
    curves = {name: one[metric] for name, one in zip(names, found, strict=True) if len(one.get(metric, ([],))[0]) > 1}
    places = {name: i for i, name in enumerate(names)}
    title = chart.title if len(chart.metrics) == 1 and "*" not in chart.metrics[0] else metric
    return charts.overlaid(title, chart.note, chart.form, curves, places)


def _relative(target: Path, start: Path) -> str:
    return Path(os.path.relpath(target.resolve(), start.resolve())).as_posix()
