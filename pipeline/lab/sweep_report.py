"""A sweep as one self-contained page, and as the files that go into a paper: CSV, LaTeX, SVG."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pipeline.lab.figures import draw, themed
from pipeline.lab.page import write_page
from pipeline.lab.results import CellResult, Results, digits_of, read_results, runs_csv, table_csv, table_tex

SHOWN_P = 0.05


def write_sweep_report(folder: Path) -> Results:
    """Write runs.csv, table.csv, table.tex, figures/ and report.html anew, of what there is so far."""
    results = read_results(folder)
    figures = draw(results, folder / "figures")
    tables = {"runs.csv": runs_csv(results), "table.csv": table_csv(results), "table.tex": table_tex(results)}
    for name, text in tables.items():
        (folder / name).write_text(text)
    sweep = json.loads((folder / "sweep.json").read_text())
    values = {
        "results": results,
        "sections": [_section(results, name, figures) for name in results.measures],
        "failed": [(cell, run) for cell, run in results.runs if run.status == "failed"],
        "seconds": sum(run.seconds or 0.0 for _, run in results.runs),
        "config": sweep["config"],
        "base": json.dumps(sweep["base"], indent=1),
        "latex": tables["table.tex"],
        "intervals": len(results.seeds) > 1,
    }
    write_page(folder / "report.html", "sweep.html.j2", {}, values)
    return results


def _section(results: Results, name: str, figures: dict[str, str]) -> dict[str, Any]:
    measure = results.measures[name]
    how = {"last": "", "reaches": f", steps until it reaches {measure.level}"}.get(measure.over, f", {measure.over}")
    window = f", mean of {measure.window} steps" if measure.window > 1 else ""
    rows = [_row(cell, name, cell is results.cells[results.control]) for cell in results.cells]
    shown = [Markup(themed(figures[key])) for key in (name, f"{name}_course") if key in figures]
    return {"name": name.replace("_", " "), "what": f"{measure.metric}{how}{window}", "rows": rows, "figures": shown}


def _row(cell: CellResult, name: str, control: bool) -> dict[str, Any]:
    m, d, p = cell.means[name], cell.differences[name], cell.ps[name]
    digits = digits_of(m) if m else 3
    row: dict[str, Any] = {"label": cell.label, "control": control, "n": m.n if m else 0, "of": len(cell.runs)}
    row["mean"] = f"{m.value:.{digits}f}" if m else "–"
    row["interval"] = f"[{m.low:.{digits}f}, {m.high:.{digits}f}]" if m and m.n > 1 else ""
    row["difference"] = f"{d.value:+.{digits}f}" if d else ""
    row["compared"] = f"[{d.low:+.{digits}f}, {d.high:+.{digits}f}]" if d and d.low is not None else ""
    row["p"] = "" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"
    row["sure"] = p is not None and p < SHOWN_P
    row["up"] = bool(d and d.value > 0)
    return row
