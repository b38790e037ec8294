"""Figures of a sweep, as SVG that can be printed, and that a page shows in its own colours, light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.lab.measures import Measure, course
from pipeline.lab.results import CellResult, Results

# What the page gives its own colours: ink, faint ink, lines; then the series. Saved as they stand, for paper.
COLOURS = ("#1f6f8b", "#c07f1d", "#5a8a4a", "#b3544a", "#75659f", "#7b7871")
_INK, _FAINT, _LINE = "#1d1c1b", "#8b877e", "#e5e2dd"
_THEME = {_INK: "var(--ink)", _FAINT: "var(--faint)", _LINE: "var(--line)"} | {
    colour: f"var(--c{i})" for i, colour in enumerate(COLOURS)
}
_MARKS = ("o", "s", "^", "D", "v", "P")


def draw(results: Results, folder: Path) -> dict[str, str]:
    """One figure per measure, and one of every measure that has a course over steps; {name: SVG}, saved too."""
    import matplotlib

    matplotlib.use("svg")
    folder.mkdir(parents=True, exist_ok=True)
    out: dict[str, str] = {}
    for name, measure in results.measures.items():
        if any(cell.means[name] for cell in results.cells):
            out[name] = _saved(_over_axis(results, name) if _numeric(results) else _dots(results, name), folder, name)
        courses = _courses(results, measure)
        if courses:
            out[f"{name}_course"] = _saved(_course(courses, measure), folder, f"{name}_course")
    return out


def themed(svg: str) -> str:
    """For inlining: the page's colours in place of the printed ones, ids that meet no other figure's."""
    svg = svg[svg.index("<svg") :]
    for colour, variable in _THEME.items():
        svg = svg.replace(colour, variable)
    return re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)


def _numeric(results: Results) -> str | None:
    """The axis of numbers that lines go over, where there is one with three values or more."""
    if results.style == "dots":
        return None
    least = 2 if results.style == "lines" else 3
    for axis, values in results.axes.items():
        if len(values) >= least and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
            return axis
    return None


def _canvas(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"axes.edgecolor": _FAINT, "axes.linewidth": 0.8}):
        figure = Figure(figsize=(width, height), layout="constrained")
        ax = figure.subplots()
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(colors=_INK, color=_FAINT, labelsize=9, width=0.8)
    ax.set_axisbelow(True)
    figure.patch.set_alpha(0)
    ax.patch.set_alpha(0)
    return figure, ax


def _words(text: str) -> str:
    return text.replace("_", " ")


def _control_band(results: Results, name: str, ax: Any, horizontal: bool) -> None:
    """The control's mean and interval right across the figure."""
    m = results.cells[results.control].means[name]
    if m is None:
        return
    line, band = (ax.axhline, ax.axhspan) if horizontal else (ax.axvline, ax.axvspan)
    band(m.low, m.high, color=_FAINT, alpha=0.16, linewidth=0)
    line(
        m.value,
        color=_FAINT,
        linewidth=1,
        linestyle=(0, (4, 3)),
        label=f"control: {results.cells[results.control].label}",
    )


def _over_axis(results: Results, name: str) -> Any:
    """Mean and interval over the numeric axis, a line for every value of the other axes."""
    axis = _numeric(results)
    assert axis is not None
    figure, ax = _canvas(5.6, 3.4)
    _control_band(results, name, ax, horizontal=True)
    groups: dict[tuple[Any, ...], list[CellResult]] = {}
    for cell in results.cells:
        groups.setdefault(tuple(v for a, v in cell.values.items() if a != axis), []).append(cell)
    others = [a for a in results.axes if a != axis]
    for i, (key, cells) in enumerate(groups.items()):
        points = sorted((float(c.values[axis]), c) for c in cells if c.means[name]) if cells else []
        means = [(x, m) for x, c in points if (m := c.means[name])]
        if not means:
            continue
        x, colour = np.array([x for x, _ in means]), COLOURS[i % len(COLOURS)]
        y = np.array([m.value for _, m in means])
        errors = np.array([[m.value - m.low, m.high - m.value] for _, m in means]).T
        label = ", ".join(f"{a} {v}" for a, v in zip(others, key, strict=True)) or None
        style = {"marker": _MARKS[i % len(_MARKS)], "markersize": 4.5, "linewidth": 1.5, "capsize": 2.5}
        ax.errorbar(x, y, errors.clip(0), color=colour, label=label, elinewidth=1, **style)
        for at, cell in points:
            values = list(cell.numbers(name).values())
            ax.plot([at] * len(values), values, ".", color=colour, alpha=0.4, markersize=4, linewidth=0)
    ax.set_xlabel(_words(axis), color=_INK)
    ax.set_ylabel(_words(name), color=_INK)
    ax.grid(axis="y", color=_LINE, linewidth=0.8)
    _legend(ax)
    return figure


def _dots(results: Results, name: str) -> Any:
    """A row per cell: every run a faint dot, the mean a full one with its interval."""
    cells = [cell for cell in results.cells if cell.means[name]]
    figure, ax = _canvas(6.4, 0.9 + 0.36 * len(cells))
    _control_band(results, name, ax, horizontal=False)
    for row, cell in enumerate(reversed(cells)):
        m = cell.means[name]
        assert m is not None
        colour = COLOURS[5] if cell is results.cells[results.control] else COLOURS[0]
        values = list(cell.numbers(name).values())
        ax.plot(values, [row] * len(values), "o", color=colour, alpha=0.35, markersize=4, linewidth=0)
        ax.plot([m.low, m.high], [row, row], "-", color=colour, linewidth=2)
        ax.plot([m.value], [row], "o", color=colour, markersize=6.5)
    ax.set_yticks(range(len(cells)), [cell.label for cell in reversed(cells)])
    ax.set_ylim(-0.6, len(cells) - 0.4)
    ax.set_xlabel(_words(name), color=_INK)
    ax.grid(axis="x", color=_LINE, linewidth=0.8)
    return figure


def _legend(ax: Any) -> None:
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, fontsize=8.5, labelcolor=_INK)


Course = tuple[str, list[int], np.ndarray]  # cell, steps, f[seeds, steps]


def _courses(results: Results, measure: Measure) -> list[Course]:
    out = []
    for cell in results.cells:
        found = [course(run.folder, measure) for run in cell.runs if run.status == "done"]
        found = [(steps, values) for steps, values in found if len(steps) > 1]
        if found:
            n = min(len(steps) for steps, _ in found)
            out.append((cell.label, found[0][0][:n], np.array([values[:n] for _, values in found])))
    return out


def _course(courses: Sequence[Course], measure: Measure) -> Any:
    """Each cell's mean over its seeds at every step, with the range of the seeds."""
    figure, ax = _canvas(5.6, 3.4)
    for i, (label, steps, values) in enumerate(courses):
        colour, dash = COLOURS[i % len(COLOURS)], ("-", "--", ":", "-.")[i // len(COLOURS) % 4]
        ax.fill_between(steps, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.12, linewidth=0)
        ax.plot(steps, values.mean(axis=0), dash, color=colour, linewidth=1.5, label=label)
    if measure.level is not None:
        ax.axhline(measure.level, color=_FAINT, linewidth=1, linestyle=(0, (4, 3)))
    ax.set_xlabel("step", color=_INK)
    ax.set_ylabel(_words(measure.metric.partition("/")[2]), color=_INK)
    ax.grid(axis="y", color=_LINE, linewidth=0.8)
    if len(courses) <= 12:
        _legend(ax)
    return figure


def _saved(figure: Any, folder: Path, name: str) -> str:
    from matplotlib import rc_context

    text = io.StringIO()
    # Text stays text; equal figures are equal files.
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}
    with rc_context(settings):
        figure.savefig(text, format="svg", metadata={"Date": None}, transparent=True)
    svg = text.getvalue()
    (folder / f"{re.sub(r'[^0-9A-Za-z_.-]+', '_', name)}.svg").write_text(svg)
    return svg
