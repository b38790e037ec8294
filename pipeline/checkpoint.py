"""Checkpoints that a killed run can be resumed from: written whole or not at all, checksummed, the last K kept.

    RUN_DIR/checkpoints/000007/  what the learner wrote  state.json  manifest.json (sha256 of the others)

A checkpoint is written under a temporary name, flushed to the disk and then renamed: there is never half of one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class State:
    """Where the run stands, beside the learner's own state.

    stage     the stage in hand; `step` the next step of it (the data cursor follows from it)
    finished  results of the stages that are done, by name
    files     bytes of the run directory's files at this moment
    failures  the failure budget's window
    memory    what the stage's algorithm carries from step to step
    seconds   what the run has taken so far; `stage_seconds` the stage in hand
    """

    number: int
    stage: str | None
    step: int
    finished: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, int] = field(default_factory=dict)
    failures: list[str | None] = field(default_factory=list)
    seconds: float = 0.0
    stage_seconds: float = 0.0
    memory: dict[str, float] = field(default_factory=dict)


class Checkpoints:
    """The checkpoints of one run directory."""

    def __init__(self, run_dir: Path, keep: int):
        self.folder, self.keep = run_dir / "checkpoints", keep

    async def save(self, state: State, write: Callable[[Path], Awaitable[None]]) -> Path:
        """Write one: `write` puts the learner's files into the directory it is given."""
        self.folder.mkdir(exist_ok=True)
        final, building = self.folder / f"{state.number:06d}", self.folder / f".{state.number:06d}.tmp"
        shutil.rmtree(building, ignore_errors=True)
        shutil.rmtree(final, ignore_errors=True)  # left by a run that was resumed from an earlier one
        building.mkdir()
        await write(building)
        (building / "state.json").write_text(json.dumps(dataclasses.asdict(state), indent=1))
        sums = {path.name: _sha256(path) for path in sorted(building.iterdir())}
        (building / MANIFEST).write_text(json.dumps(sums, indent=1))
        for path in building.iterdir():
            _sync(path)
        _sync(building)
        building.rename(final)
        _sync(self.folder)
        for old in self._all()[: -self.keep]:
            shutil.rmtree(old, ignore_errors=True)
        return final

    def newest(self, warn: Callable[[str], None]) -> tuple[State, Path] | None:
        """The newest whole checkpoint; `warn` hears of damaged ones, which are passed over."""
        for path in reversed(self._all()):
            damage = _damage(path)
            if damage is None:
                return State(**json.loads((path / "state.json").read_text())), path
            warn(f"checkpoint {path.name} is damaged ({damage}); trying the one before it")
        return None

    def _all(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if path.name.isdigit())


def _damage(path: Path) -> str | None:
    """What is wrong with the checkpoint, or None."""
    try:
        sums: dict[str, str] = json.loads((path / MANIFEST).read_text())
        wrong = [name for name, expected in sums.items() if _sha256(path / name) != expected]
    except (OSError, ValueError) as error:
        return str(error)
    return f"checksum of {wrong[0]} is wrong" if wrong else None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
