"""`assay ablate`: everything that can be refused first, then the runs, then one page."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pipeline.assemble import placement_of
from pipeline.check import check
from pipeline.lab.ablation import load_plan
from pipeline.lab.results import Results, digits_of
from pipeline.lab.sweep import Sweep, check_room, conduct, open_sweep, record, start
from pipeline.lab.sweep_progress import SweepProgress
from pipeline.lab.sweep_report import write_sweep_report
from pipeline.progress import duration
from pipeline.rundir import write_json
from pipeline.stores.mlflow import MlflowStore, default_uri
from rewards.errors import Refused, RunFailed

MLFLOW_S = 60.0  # what MLflow has to answer, before the runs start without a parent


def ablate(path: Path, folder: Path | None, console: Console) -> dict[str, Any]:
    """Do the sweep, or what is left of it; its summary. A failed run is reported and ends nothing."""
    began = time.monotonic()
    plan = load_plan(path)
    folder = folder or Path("runs") / plan.name
    tracking = plan.configs[plan.control.folder][plan.ablation.seeds[0]].tracking
    uri = (tracking.uri or default_uri(folder)) if tracking.mlflow else None
    sweep = open_sweep(plan, folder, uri)
    with console.status("checking every cell: data, model and reward sources"):
        _check_cells(sweep)
    record(sweep)
    store = None

    def warn(text: str) -> None:
        console.print(f"[yellow]warning[/] {escape(text)}")

    if uri is not None:
        store = MlflowStore(folder, uri, tracking.experiment, plan.name, warn)
    status = "failed"
    try:
        if any(not run.done for run in sweep.runs):
            start(sweep)
            sweep.parent = _parent(store)
            with SweepProgress(console) as progress:
                conduct(sweep, progress)
        status = "done"
    except KeyboardInterrupt:
        status = "killed"
        raise RunFailed(f"stopped; `assay ablate {path}` goes on where it stands") from None
    finally:
        results = write_sweep_report(folder)
        failed = results.count("failed") + (results.count("missing") if status == "done" else 0)
        summary = {
            "status": "failed" if status == "done" and failed else status,
            "name": plan.name,
            "runs": len(results.runs),
            "done": results.count("done"),
            "failed": failed,
            "seconds": time.monotonic() - began,
            "report": str(folder / "report.html"),
        }
        write_json(folder / "summary.json", summary)
        if store is not None:
            store.finish(str(summary["status"]))
    console.print(table(results))
    console.print(f"{results.count('done')} of {len(results.runs)} runs done, {duration(time.monotonic() - began)}")
    console.print(f"report  {folder / 'report.html'}  (also runs.csv, table.csv, table.tex, figures/)", soft_wrap=True)
    return summary


def _check_cells(sweep: Sweep) -> None:
    """As `assay check` does, with every cell's first seed."""
    plan = sweep.plan
    for cell in plan.cells:
        config = plan.configs[cell.folder][plan.ablation.seeds[0]]
        try:
            check_room(plan, placement_of(config).cpus)
            check(config)
        except Refused as error:
            raise Refused(f"{plan.path}: cell {cell.label}: {error}") from None


def _parent(store: MlflowStore | None) -> str | None:
    """The sweep's own run in MLflow, once there is one."""
    deadline = time.monotonic() + MLFLOW_S
    while store is not None and time.monotonic() < deadline:
        if store.identity is not None:
            return store.identity["run_id"]
        time.sleep(0.1)
    return None


def table(results: Results) -> Table:
    """Every cell's means with their intervals; a star where it differs from the control."""
    out = Table(box=box.SIMPLE_HEAD, title=Text(results.name, "bold"), title_justify="left")
    out.add_column("cell", style="bold")
    for name in results.measures:
        out.add_column(name.replace("_", " "), justify="right")
    for cell in results.cells:
        found = []
        for name in results.measures:
            m, p = cell.means[name], cell.ps[name]
            digits = digits_of(m) if m else 0
            interval = f" [{m.low:.{digits}f}, {m.high:.{digits}f}]" if m and m.n > 1 else ""
            found.append(f"{m.value:.{digits}f}{interval}{'*' if p is not None and p < 0.05 else ''}" if m else "–")
        out.add_row(escape(cell.label), *(escape(text) for text in found))
    return out
