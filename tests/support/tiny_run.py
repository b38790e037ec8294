"""A whole run that takes seconds, and the console script to run it with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ASSAY = Path(sys.executable).with_name("assay")

TINY = """
seed: 3
model:
  init:
    config: {hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 2,
             num_key_value_heads: 1, head_dim: 16, tie_word_embeddings: true, max_position_embeddings: 64}
data: {kind: arithmetic, digits: 1, train: 60, held_out: 20}
rollout: {max_new_tokens: 12}
learner: {lr: 3.0e-3}
rewards: {sources: {exact: {kind: exact, after: "."}}}
checkpoints: {every: 2, keep: 2}
tracking: {mlflow: false}
stages:
  warm_start: {kind: sft, steps: 30, groups_per_step: 16}
  before: {kind: evaluate}
  rl: {kind: rl, steps: 7, groups_per_step: 4, algorithm: {kind: grpo, group_size: 4, kl_coefficient: 0.01}}
  after: {kind: evaluate}
"""


def write_config(folder: Path, text: str = TINY) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(text)
    return path


def assay(*args: str | Path, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """Run the console script to its end."""
    return subprocess.run([ASSAY, *map(str, args)], capture_output=True, text=True, timeout=timeout, check=False)


def kill_at(args: list[str | Path], run_dir: Path, stage: str, step: int, timeout: float = 240) -> None:
    """Start a run and SIGKILL its driver as soon as that step of that stage is on file."""
    child = subprocess.Popen([ASSAY, *map(str, args)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + timeout
        while not any(row["stage"] == stage and row["step"] == step for row in metric_rows(run_dir)):
            assert child.poll() is None, f"the run ended before step {step} of {stage}"
            assert time.monotonic() < deadline, "the run took too long"
            time.sleep(0.002)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()


def metric_rows(run_dir: Path) -> list[dict]:
    path = run_dir / "metrics.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def repeatable(run_dir: Path) -> list[tuple[str, int, dict[str, float]]]:
    """The run's metrics without those that measure time."""
    return [
        (row["stage"], row["step"], {k: v for k, v in row["metrics"].items() if not measures_time(k)})
        for row in metric_rows(run_dir)
    ]


def measures_time(name: str) -> bool:
    return name.startswith("time/") or name.endswith(("_per_s", "/latency"))
