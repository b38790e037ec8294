"""One run of a sweep, in a process of its own: an ordinary run that begins after the stages that others have done.

The sweep writes one line of JSON to its standard input and then holds that pipe open: when it closes, the sweep is
gone, and this process ends at once, as if killed. The next sweep finds what it left, as `assay resume` would.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from pipeline import driver, rundir
from pipeline.assemble import tasks_of
from pipeline.checkpoint import State
from pipeline.config import Config, parse_config
from pipeline.lab.shared_stages import SharedStages
from pipeline.stores.files import read_jsonl


@dataclass(frozen=True)
class Order:
    """What one run of a sweep is to do.

    shared  the stages that it has in common with other runs, with their keys in `folder`, in order
    tags    of its run in MLflow
    """

    config: Mapping[str, Any]
    run_dir: str
    name: str
    folder: str
    shared: Mapping[str, str]
    tags: Mapping[str, str]

    def line(self) -> str:
        return json.dumps(asdict(self)) + "\n"


def received() -> Order:
    """The order on standard input; from then on this process lives only as long as the one that wrote it."""
    order = Order(**json.loads(sys.stdin.readline()))

    def watch() -> None:
        sys.stdin.read()
        os._exit(1)

    threading.Thread(target=watch, name="watch", daemon=True).start()
    return order


@contextlib.contextmanager
def alone(run_dir: Path) -> Iterator[None]:
    """Waits for a process of a sweep before that is still on its way out of this directory."""
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    with (run_dir.parent / f".{run_dir.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def prepared(order: Order, console: Console) -> tuple[driver.Run, tuple[State, Path] | None]:
    """The run as it is to go on: from its own last checkpoint, from the last shared stage that is kept, or anew."""
    config, run_dir, shared = (
        parse_config(dict(order.config), order.name),
        Path(order.run_dir),
        SharedStages(Path(order.folder)),
    )
    begun = (run_dir / "config.yaml").exists()
    kept = [key for key in order.shared.values() if shared.has(key)]
    if not begun:  # what can be refused was, before the sweep began
        if kept:
            shared.take(kept[-1], run_dir)
        else:
            shutil.rmtree(run_dir, ignore_errors=True)
        rundir.create(run_dir, config, order.name)

    def keep(stage: str) -> None:
        if stage in order.shared:
            shared.keep(order.shared[stage], run_dir)

    run = driver.Run(config, run_dir, order.name, tasks_of(config), console, order.tags, keep)
    newest = run.checkpoints.newest(lambda text: run.files.event("warning", text))
    if newest is None:
        run.files.rewind({"metrics.jsonl": 0, "samples.jsonl": 0})
        return run, None
    if newest[0].stage is None and newest[0].finished:
        keep(list(newest[0].finished)[-1])  # killed before it had handed it on
    if kept and not begun:
        run.files.event("stages_shared", f"{', '.join(newest[0].finished)}: taken from {order.folder}/{kept[-1]}")
        _tell_mlflow(run)
    return run, newest


def _tell_mlflow(run: driver.Run) -> None:
    """What the shared stages measured belongs to this run too."""
    if run.mlflow is not None:
        for row in read_jsonl(run.run_dir / "metrics.jsonl"):
            run.mlflow.metrics(row["stage"], row["step"], {k: v for k, v in row["metrics"].items() if v is not None})


def configured(config: Config, uri: str | None) -> Config:
    """The config with that MLflow store, where it names none."""
    tracking = config.tracking
    if not tracking.mlflow or tracking.uri or uri is None:
        return config
    return config.model_copy(update={"tracking": tracking.model_copy(update={"uri": uri})})
