"""Which page `assay report` writes: a run's, a sweep's, or one that compares runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline import rundir
from pipeline.lab.compare import MAX_RUNS, write_comparison
from pipeline.lab.report import write_report
from pipeline.lab.sweep_report import write_sweep_report
from rewards.errors import Refused


def write(folders: Sequence[Path], to: Path) -> Path:
    """The page's path. Raises `Refused` for what is no run and no sweep, and writes nothing then."""
    if len(folders) == 1 and (folders[0] / "sweep.json").exists():
        write_sweep_report(folders[0])
        return folders[0] / "report.html"
    for folder in folders:
        if (folder / "sweep.json").exists():
            raise Refused(f"{folder} is a sweep, which has a page of its own; name runs, or that sweep alone")
        rundir.check_holds_run(folder)
    if len(folders) == 1:
        return write_report(folders[0])
    real = [folder.resolve() for folder in folders]
    twice = next((folder for folder, at in zip(folders, real, strict=True) if real.count(at) > 1), None)
    if twice is not None:
        raise Refused(f"{twice} is named twice")
    if len(folders) > MAX_RUNS:
        raise Refused(f"{len(folders)} runs, expected at most {MAX_RUNS}: more curves can't be told apart")
    if not to.absolute().parent.is_dir():
        raise Refused(f"--to {to}: {to.absolute().parent} is no directory")
    return write_comparison(folders, to)
