"""The run directory's own memory: append-only JSONL that a resumed run can rewind.

    metrics.jsonl   {"stage", "step", "time", "metrics": {name: number or null}}
    samples.jsonl   one sample a line, as given
    events.jsonl    {"time", "kind", "text", "stage"?}

A checkpoint keeps `position()`; on resume `rewind` cuts off what was written after it, so that no step stands in a
file twice. Events are not rewound: they did happen, and the warnings before a crash are the ones to read.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rewards.errors import RunFailed

_REWOUND = ("metrics.jsonl", "samples.jsonl")


class FileStore:
    """Writes each line with one system call, so that a killed process loses nothing but a machine's last seconds.

    Safe to call from several threads (MLflow's thread reports its troubles as events).
    """

    def __init__(self, run_dir: Path) -> None:
        self._lock = threading.Lock()
        self._files = {name: _open(run_dir / name) for name in (*_REWOUND, "events.jsonl")}

    def params(self, params: Mapping[str, Any]) -> None:
        """Nothing to do: the run directory holds config.yaml."""

    def metrics(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        numbers = {name: _finite(value) for name, value in metrics.items()}
        self._append("metrics.jsonl", {"stage": stage, "step": step, "time": time.time(), "metrics": numbers})

    def samples(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._append("samples.jsonl", *rows)

    def event(self, kind: str, text: str, stage: str | None = None) -> None:
        where = {"stage": stage} if stage else {}
        self._append("events.jsonl", {"time": time.time(), "kind": kind, "text": text, **where})

    def finish(self, status: str) -> None:
        with self._lock:
            for file in self._files.values():
                os.fsync(file)
                file.close()

    def position(self) -> dict[str, int]:
        """Bytes of each rewindable file, all of them on the disk when this returns."""
        with self._lock:
            for file in self._files.values():
                os.fsync(file)
            return {name: os.fstat(self._files[name].fileno()).st_size for name in _REWOUND}

    def rewind(self, position: Mapping[str, int]) -> None:
        """Forgets what was written after `position()`. Raises RunFailed where a file is shorter than that."""
        with self._lock:
            for name, end in position.items():
                file = self._files[name]
                size = os.fstat(file.fileno()).st_size
                if size < end:
                    raise RunFailed(f"{name}: holds {size} bytes, the checkpoint was made at {end}")
                os.ftruncate(file.fileno(), end)

    def _append(self, name: str, *rows: Mapping[str, Any]) -> None:
        lines = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
        with self._lock:
            self._files[name].write(lines.encode("utf-8", "replace"))


def _open(path: Path):
    """The file for appending; a line that a killed process left half written is cut off."""
    file = path.open("a+b", buffering=0)
    tail, end = b"", file.seek(0, os.SEEK_END)
    while end and b"\n" not in tail:
        start = max(0, end - 65536)
        file.seek(start)
        tail, end = file.read(end - start), start
    os.ftruncate(file.fileno(), end + tail.rfind(b"\n") + 1)
    return file


def _finite(value: float) -> float | None:
    """JSON has no nan and no infinity: they are stored as null."""
    return float(value) if math.isfinite(value) else None


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Every whole line of the file, of a run that is still writing too; nothing where there is no file."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        return [json.loads(line) for line in file if line.endswith(b"\n")]


def spread(rows: Iterable[Mapping[str, Any]], limit: int) -> list[Mapping[str, Any]]:
    """At most `limit` rows in their order, shared evenly among the (stage, step) pairs.

    Of each pair the first rows, so that the attempts at one task stay together.
    """
    places: dict[tuple[Any, Any], list[int]] = {}
    rows = list(rows)
    for i, row in enumerate(rows):
        places.setdefault((row["stage"], row["step"]), []).append(i)
    kept: list[int] = []
    # The smallest buckets first: what they don't use is shared among the rest.
    buckets = sorted(places.values(), key=len)
    for i, bucket in enumerate(buckets):
        share = (limit - len(kept)) // (len(buckets) - i)
        kept += bucket[:share]
    return [rows[i] for i in sorted(kept)]
