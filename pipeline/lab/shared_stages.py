"""Stages that several runs have in common are run once: kept by what they were made of, taken up by the others.

    FOLDER/KEY/  checkpoints/NNNNNN/  init/  stages/  metrics.jsonl  samples.jsonl      as in a run directory

What is kept is what a run directory holds when the stage has ended, and a run that takes it up goes on as a resumed
one does: to the bit as if it had run the stage itself. The key is a digest of everything the stage depends on: seed,
model, workers, the resolved sections of all stages up to it, the files that they name, and Assay's own source. An entry
is written under another name and then renamed, so there is never half of one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pipeline.checkpoint import Checkpoints
from pipeline.config import Config, Optimizer, Sampling

_LINKED = ("init", "stages")  # written once and never changed in place
_COPIED = ("metrics.jsonl", "samples.jsonl")
# Keys whose values may be folders; a file counts wherever it is named.
_FOLDERS = ("path", "host", "start")


def stage_keys(config: Config) -> dict[str, str]:
    """{stage: digest of all that the run's state at its end depends on}, in the stages' order.

    The tokenizer of a model made from scratch depends on the data of all stages; a stage's policy is kept where a
    later one starts from it.
    """
    dump = config.model_dump(mode="json")
    stages: dict[str, Any] = dump["stages"]
    ground = {
        "source": _source(),
        "seed": config.seed,
        "model": dump["model"],
        "placement": config.cluster.placement,
        "rollout": {key: value for key, value in dump["rollout"].items() if key not in Sampling.model_fields},
        "learner": {key: value for key, value in dump["learner"].items() if key not in Optimizer.model_fields},
        "samples_per_step": config.tracking.samples_per_step,
        "tokenizer": [stage["data"] for stage in stages.values()] if config.model.init else None,
        "starts": sorted({stage["start"] for stage in stages.values() if stage["start"]}),
    }
    digest = hashlib.sha256(_text(ground))
    out = {}
    for name, stage in stages.items():
        digest.update(_text({name: stage}))
        out[name] = digest.copy().hexdigest()[:24]
    return out


def shared_keys(configs: Sequence[Config]) -> list[dict[str, str]]:
    """Of each run, the stages that another of them has too, with their keys: always its first ones."""
    keys = [stage_keys(config) for config in configs]
    times = Counter(key for one in keys for key in one.values())
    return [{name: key for name, key in one.items() if times[key] > 1} for one in keys]


@dataclass(frozen=True)
class SharedStages:
    """The stages kept in one folder."""

    folder: Path

    def has(self, key: str) -> bool:
        return (self.folder / key).is_dir()

    def keep(self, key: str, run_dir: Path) -> None:
        """Keep what the run's newest checkpoint, made at the stage's end, stands on. Kept already: nothing to do."""
        if self.has(key):
            return
        newest = Checkpoints(run_dir, 1).newest(lambda text: None)
        assert newest is not None, "a stage ends with a checkpoint"
        state, checkpoint = newest
        building = self.folder / f".{key}.{os.getpid()}"
        shutil.rmtree(building, ignore_errors=True)
        _link(checkpoint, building / "checkpoints" / checkpoint.name)
        for name in _LINKED:
            if (run_dir / name).exists():
                _link(run_dir / name, building / name)
        for name in _COPIED:
            with (run_dir / name).open("rb") as source, (building / name).open("wb") as copy:
                copy.write(source.read(state.files[name]))
                copy.flush()
                os.fsync(copy.fileno())
        try:
            building.rename(self.folder / key)
        except OSError:  # another process was first
            shutil.rmtree(building)

    def take(self, key: str, run_dir: Path) -> None:
        """Make the directory one of a run that has just ended the stage. What lies there is removed."""
        shutil.rmtree(run_dir, ignore_errors=True)
        _link(self.folder / key / "checkpoints", run_dir / "checkpoints")
        for name in _LINKED:
            if (self.folder / key / name).exists():
                _link(self.folder / key / name, run_dir / name)
        for name in _COPIED:
            shutil.copyfile(self.folder / key / name, run_dir / name)


def _link(source: Path, target: Path) -> None:
    """The folder once more, of the same bytes on the disk where that can be."""
    shutil.copytree(source, target, copy_function=_linked)


def _linked(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _text(value: Mapping[str, Any]) -> bytes:
    return json.dumps([value, _files(value)], sort_keys=True, default=str).encode()


def _files(value: Any) -> dict[str, Any]:
    """Every file or folder that the value names, with what tells whether it has changed."""
    return {text: stamp for key, text in _strings(value) if (stamp := _stamp(key, text)) is not None}


def _strings(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every string in it, after the key it stands under."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, one in value.items():
            yield from _strings(one, str(name))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _strings(one, key)


def _stamp(key: str, text: str) -> Any:
    if re.fullmatch(r"[\w.]+:\w+", text):  # an import path
        module = Path(*text.partition(":")[0].split(".")).with_suffix(".py")
        found = [file for folder in (Path.cwd(), *sys.path) if (file := Path(folder) / module).is_file()]
        return hashlib.sha256(found[0].read_bytes()).hexdigest() if found else None
    if len(text) > 1000 or "\0" in text or not text.strip() or not Path(text).exists():
        return None
    if not (Path(text).is_file() or key.endswith(_FOLDERS)):
        return None  # a dot or a slash is a folder, too, and mostly means something else
    paths = [Path(text)] if Path(text).is_file() else sorted(p for p in Path(text).rglob("*") if p.is_file())
    return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]


@cache
def _source() -> str:
    """A digest of Assay's code."""
    digest = hashlib.sha256()
    for package in ("pipeline", "workers", "rewards"):
        spec = find_spec(package)
        assert spec is not None and spec.submodule_search_locations
        root = Path(spec.submodule_search_locations[0])
        for path in sorted(root.rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()
