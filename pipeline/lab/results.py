"""What a sweep found: every run's numbers, every cell's mean and interval, and how it differs from the control.

Read from the sweep's directory alone, at any moment: of a sweep that goes on, what there is so far.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.lab.measures import Measure, value_of
from pipeline.lab.statistics import Difference, Mean, holm, mean, paired


@dataclass(frozen=True)
class RunResult:
    """One run. `status` is done, failed, or missing (not begun, or not at its end); `error` says why it failed."""

    seed: int
    folder: Path
    status: str
    error: str
    seconds: float | None
    values: Mapping[str, float | None]


@dataclass(frozen=True)
class CellResult:
    """One cell. By measure: its mean over seeds, its difference from the control, and p corrected for the number of
    cells; the control and a cell without numbers have none."""

    label: str
    values: Mapping[str, Any]
    runs: Sequence[RunResult]
    means: Mapping[str, Mean | None]
    differences: Mapping[str, Difference | None]
    ps: Mapping[str, float | None]

    def numbers(self, measure: str) -> dict[int, float]:
        """By seed, of the runs that are done and have one."""
        return numbers(self.runs, measure)


@dataclass(frozen=True)
class Results:
    """A whole sweep; `cells[control]` is what the others are compared with."""

    folder: Path
    name: str
    axes: Mapping[str, Sequence[Any]]
    seeds: Sequence[int]
    measures: Mapping[str, Measure]
    style: str
    cells: Sequence[CellResult]
    control: int

    @cached_property
    def runs(self) -> list[tuple[CellResult, RunResult]]:
        return [(cell, run) for cell in self.cells for run in cell.runs]

    def count(self, status: str) -> int:
        return sum(run.status == status for _, run in self.runs)


def numbers(runs: Sequence[RunResult], measure: str) -> dict[int, float]:
    return {run.seed: value for run in runs if (value := run.values[measure]) is not None}


def read_results(folder: Path) -> Results:
    """Of the sweep in that directory."""
    sweep = json.loads((folder / "sweep.json").read_text())
    measures = {name: Measure.model_validate(given) for name, given in sweep["measures"].items()}
    runs = [
        [_run(folder / "runs" / cell["folder"] / f"seed-{seed}", seed, measures) for seed in sweep["seeds"]]
        for cell in sweep["cells"]
    ]
    control = next(i for i, cell in enumerate(sweep["cells"]) if cell["folder"] == sweep["control"])
    differences: dict[str, list[Difference | None]] = {}
    ps: dict[str, list[float | None]] = {}
    for name in measures:
        by_seed = [numbers(of_cell, name) for of_cell in runs]
        found = [None if i == control else paired(one, by_seed[control]) for i, one in enumerate(by_seed)]
        differences[name], ps[name] = found, holm([one.p if one else None for one in found])
    cells = [
        CellResult(
            cell["label"],
            cell["values"],
            runs[i],
            {name: mean(list(numbers(runs[i], name).values())) for name in measures},
            {name: differences[name][i] for name in measures},
            {name: ps[name][i] for name in measures},
        )
        for i, cell in enumerate(sweep["cells"])
    ]
    return Results(folder, sweep["name"], sweep["axes"], sweep["seeds"], measures, sweep["style"], cells, control)


def _run(folder: Path, seed: int, measures: Mapping[str, Measure]) -> RunResult:
    path, failure = folder / "summary.json", folder.with_name(f"{folder.name}.failed.txt")
    summary = json.loads(path.read_text()) if path.exists() else {}
    status = "done" if summary.get("status") == "done" else "failed" if failure.exists() else "missing"
    error = failure.read_text().strip() if status == "failed" else ""
    values = {name: value_of(folder, measure) if status == "done" else None for name, measure in measures.items()}
    return RunResult(seed, folder, status, error, summary.get("seconds"), values)


def runs_csv(results: Results) -> str:
    """A row per run: its cell, its seed, how it ended, what was measured."""
    rows: list[list[Any]] = [[*results.axes, "seed", "status", *results.measures]]
    for cell, run in results.runs:
        rows.append([*cell.values.values(), run.seed, run.status, *(_plain(run.values[m]) for m in results.measures)])
    return _csv(rows)


def table_csv(results: Results) -> str:
    """A row per cell and measure: mean, interval, difference from the control with its interval, corrected p."""
    head = ["measure", "n", "mean", "low", "high", "deviation"]
    rows: list[list[Any]] = [[*results.axes, *head, "difference", "difference_low", "difference_high", "p_holm"]]
    for cell in results.cells:
        for name in results.measures:
            m, d = cell.means[name], cell.differences[name]
            found = [m.value, m.low, m.high, m.deviation] if m else [None] * 4
            compared = [d.value, d.low, d.high] if d else [None] * 3
            numbers_ = [_plain(x) for x in (*found, *compared, cell.ps[name])]
            rows.append([*cell.values.values(), name, m.n if m else 0, *numbers_])
    return _csv(rows)


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.8g}"


_TEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
}


def tex(text: str) -> str:
    """The text as LaTeX would print it."""
    return "".join(_TEX.get(c, c) for c in text)


def table_tex(results: Results) -> str:
    """A booktabs table: a row per cell, mean and interval of every measure, a star where Holm's p is below 0.05."""
    columns = "l" * len(results.axes) + "r" * len(results.measures)
    head = " & ".join(tex(name.replace("_", " ")) for name in (*results.axes, *results.measures))
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head + r" \\", r"\midrule"]
    for cell in results.cells:
        axes = [tex(str(value)) for value in cell.values.values()]
        lines.append(" & ".join([*axes, *(_tex_number(cell, name) for name in results.measures)]) + r" \\")
    seeds = len(results.seeds)
    note = (
        f"% {results.name}: mean over {seeds} seeds with 95% bootstrap interval; "
        "* differs from the control (paired t, Holm, p < 0.05)"
    )
    return "\n".join([note, *lines, r"\bottomrule", r"\end{tabular}", ""])


def _tex_number(cell: CellResult, name: str) -> str:
    m, p = cell.means[name], cell.ps[name]
    if m is None:
        return "--"
    star = "^{*}" if p is not None and p < 0.05 else ""
    if m.n == 1:
        return f"${m.value:.3g}{star}$"
    digits = digits_of(m)
    return f"${m.value:.{digits}f}{star}$ {{\\small [{m.low:.{digits}f}, {m.high:.{digits}f}]}}"


def digits_of(m: Mean) -> int:
    """Decimals that show the interval to two places: three for shares, none for counts in the hundreds."""
    size = max(abs(m.value), abs(m.low), abs(m.high))
    return 3 if size < 10 else 1 if size < 100 else 0
