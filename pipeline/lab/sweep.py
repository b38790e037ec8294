"""A sweep: the runs of a plan, each an ordinary run in a process of its own, as many at once as the budget lets.

    SWEEP/  sweep.json          what it is: axes, cells, control, measures (the report reads it)
            runs/CELL/seed-N/   ordinary run directories; seed-N.failed.txt says why one broke, seed-N.log all it said
            shared/KEY/         stages that several runs have in common, done once
            runs.csv table.csv table.tex figures/*.svg report.html

The sweep starts Ray with the CPUs of its budget, and the runs join it: none starts before Ray has room for its workers.
A run waits while another is at work on a stage that both share. What is done is never done again, so a sweep that was
killed is started anew and goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.assemble import placement_of
from pipeline.config import Config, load_config
from pipeline.lab.ablation import Cell, Plan, identity
from pipeline.lab.cell import Order, configured
from pipeline.lab.shared_stages import SharedStages, shared_keys
from pipeline.lab.sweep_progress import SweepProgress
from pipeline.rundir import write_json
from pipeline.stores.files import read_jsonl
from rewards.errors import Refused
from workers.ray_actors import cluster_cpus, ray_address, start_ray, stop_ray

POLL_S = 0.5
STOP_S = 60.0  # what runs have to make their end when the sweep is stopped
_COMMAND = "from pipeline.cli import main; main(['cell'])"


@dataclass(frozen=True)
class SweepRun:
    """A cell with a seed. `shared`: the stages that another run has too, with their keys."""

    cell: Cell
    seed: int
    config: Config
    folder: Path
    shared: dict[str, str]

    @property
    def label(self) -> str:
        return f"{self.cell.label}, seed {self.seed}"

    @property
    def done(self) -> bool:
        summary = self.folder / "summary.json"
        return summary.exists() and json.loads(summary.read_text())["status"] == "done"

    @property
    def said(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def failure(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.failed.txt")


@dataclass
class Sweep:
    """A plan in its directory."""

    plan: Plan
    folder: Path
    runs: list[SweepRun]
    at_once: int = 1
    parent: str | None = None  # the MLflow run that the others are nested in
    held: dict[asyncio.Task[int], SweepRun] = field(default_factory=dict)

    @property
    def shared(self) -> SharedStages:
        return SharedStages(self.folder / "shared")


def open_sweep(plan: Plan, folder: Path, uri: str | None) -> Sweep:
    """The plan's runs in that directory. Raises `Refused` where it holds something else; writes nothing."""
    record = folder / "sweep.json"
    if record.exists():
        before = json.loads(record.read_text())["base"]
        if before != json.loads(json.dumps(plan.base)):
            key = _first_difference(before, plan.base)
            raise Refused(
                f"sweep directory {folder} belongs to another config ({key} differs); name another with --dir"
            )
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Refused(f"sweep directory {folder} holds something else; name another with --dir")
    order = [(cell, seed) for seed in plan.ablation.seeds for cell in _control_first(plan)]
    configs = [plan.configs[cell.folder][seed] for cell, seed in order]
    runs = [
        SweepRun(
            cell, seed, configured(config, uri), (folder / "runs" / cell.folder / f"seed-{seed}").absolute(), shared
        )
        for (cell, seed), config, shared in zip(order, configs, shared_keys(configs), strict=True)
    ]
    for run in runs:
        path = run.folder / "config.yaml"
        if path.exists() and identity(load_config(path)) != identity(run.config):
            raise Refused(f"{run.folder} holds a run of another config; name another sweep directory with --dir")
    return Sweep(plan, folder, runs)


def _control_first(plan: Plan) -> Sequence[Cell]:
    return [plan.control, *(cell for cell in plan.cells if cell is not plan.control)]


def _first_difference(a: Any, b: Any, path: str = "") -> str:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in [*a, *(key for key in b if key not in a)]:
            if a.get(key) != b.get(key):
                return _first_difference(a.get(key), b.get(key), f"{path}.{key}" if path else key)
    return path


def record(sweep: Sweep) -> None:
    """Write down what the sweep is; from here on the directory is its own."""
    plan = sweep.plan
    sweep.folder.mkdir(parents=True, exist_ok=True)
    sweep.shared.folder.mkdir(exist_ok=True)
    write_json(
        sweep.folder / "sweep.json",
        {
            "name": plan.name,
            "config": str(plan.path.absolute()),
            "axes": {axis: list(values) for axis, values in plan.axes.items()},
            "cells": [{"values": dict(c.values), "label": c.label, "folder": c.folder} for c in plan.cells],
            "control": plan.control.folder,
            "seeds": list(plan.ablation.seeds),
            "measures": {name: measure.model_dump(mode="json") for name, measure in plan.measures.items()},
            "style": plan.ablation.style,
            "base": plan.base,
        },
    )


def start(sweep: Sweep) -> None:
    """Start Ray (or join the config's cluster) and see how many runs it has room for. Raises `Refused`."""
    budget, first = sweep.plan.ablation.budget, sweep.runs[0].config
    each = max(placement_of(run.config).cpus for run in sweep.runs)
    check_room(sweep.plan, each)
    cpus = budget.cpus or max(os.cpu_count() or 1, math.ceil(each * budget.at_once))
    start_ray(cpus, first.cluster.address)
    sweep.at_once = max(1, min(budget.at_once, int(min(cpus, cluster_cpus()) // each)))


def check_room(plan: Plan, each: float) -> None:
    """Refuses a budget that one run does not fit into."""
    cpus = plan.ablation.budget.cpus
    if cpus and cpus < each:
        raise Refused(f"{plan.path}: ablation.budget.cpus: {cpus}, but the workers of one run ask for {each:g}")


def conduct(sweep: Sweep, progress: SweepProgress) -> None:
    """Do every run that is not done. Raises `KeyboardInterrupt` when stopped, with the runs ended."""
    try:
        asyncio.run(_conduct(sweep, progress))
    finally:
        stop_ray()


async def _conduct(sweep: Sweep, progress: SweepProgress) -> None:
    waiting = [run for run in sweep.runs if not run.done]
    progress.begin(len(sweep.runs), len(sweep.runs) - len(waiting), sweep.at_once)
    try:
        while waiting or sweep.held:
            while len(sweep.held) < sweep.at_once and (run := _next(sweep, waiting)) is not None:
                waiting.remove(run)
                sweep.held[asyncio.create_task(_run(sweep, run))] = run
                progress.started(run.label)
            ended, _ = await asyncio.wait(sweep.held, timeout=POLL_S, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                run = sweep.held.pop(task)
                progress.ended(run.label, _reason(run) if task.result() or not run.done else None)
            progress.seen({run.label: _where(run) for run in sweep.held.values()})
    finally:
        for task in sweep.held:
            task.cancel()
        await asyncio.gather(*sweep.held, return_exceptions=True)


def _next(sweep: Sweep, waiting: Sequence[SweepRun]) -> SweepRun | None:
    """The first run that need not wait for a stage that another is at work on."""
    at_work = {key for run in sweep.held.values() for key in run.shared.values() if not sweep.shared.has(key)}
    return next((run for run in waiting if run.folder.exists() or not at_work & set(run.shared.values())), None)


async def _run(sweep: Sweep, run: SweepRun) -> int:
    """The run in its process, to its end; its exit status."""
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    run.failure.unlink(missing_ok=True)
    tags = {"mlflow.parentRunId": sweep.parent} if sweep.parent else {}
    tags |= {f"axis.{axis}": str(value) for axis, value in run.cell.values.items()}
    tags["mlflow.runName"] = run.label
    name = f"{sweep.plan.name}: {run.label}"
    dump = run.config.model_dump(mode="json")
    order = Order(dump, str(run.folder), name, str(sweep.shared.folder.absolute()), run.shared, tags)
    env = {**os.environ, "RAY_ADDRESS": ray_address()}
    with run.said.open("ab") as said:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _COMMAND, stdin=asyncio.subprocess.PIPE, stdout=said, stderr=said, env=env,
            start_new_session=True,
        )  # fmt: skip
        assert child.stdin is not None
        try:
            child.stdin.write(order.line().encode())  # and it stays open: see cell.py
            await child.stdin.drain()
            status = await child.wait()
        except (BrokenPipeError, ConnectionResetError):
            status = await child.wait()
        except asyncio.CancelledError:
            with contextlib.suppress(ProcessLookupError):
                child.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(child.wait(), STOP_S)
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            raise
    if status:
        run.failure.write_text(_last_words(run, status) + "\n")
    return status


def _last_words(run: SweepRun, status: int) -> str:
    lines = run.said.read_text(errors="replace").splitlines()
    own = [line.removeprefix("assay: ") for line in lines if line.startswith("assay: ")]
    return own[-1] if own else f"its process ended with status {status}; {run.said} holds what it said"


def _reason(run: SweepRun) -> str:
    return run.failure.read_text().strip() if run.failure.exists() else "it ended without a summary"


def _where(run: SweepRun) -> str:
    """Stage and step that the run is at."""
    path = run.folder / "events.jsonl"
    begun = [row["stage"] for row in read_jsonl(path) if row["kind"] == "stage_started"]
    if not begun:
        return "starting"
    steps = getattr(run.config.stages[begun[-1]], "steps", None)
    metrics = run.folder / "metrics.jsonl"
    if steps is None or not metrics.exists():
        return begun[-1]
    with metrics.open("rb") as file:
        file.seek(max(0, metrics.stat().st_size - 8192))
        rows = [line for line in file.read().split(b"\n")[1:] if line.endswith(b"}")]
    at = json.loads(rows[-1]) if rows else {}
    return f"{begun[-1]} {at['step'] + 1 if at.get('stage') == begun[-1] else 0}/{steps}"
