"""A whole GRPO step beside TRL's `GRPOTrainer`, on two cores: `.venv/bin/python -m benchmarks.peers`, or one of its two
kinds of work alone: `... even`, `... ragged` (some minutes).

Same model (Qwen3, 0.3 million weights, 100 characters), prompts, group size, samples, sampling, reward and loss
(token mean, no KL, one update per step). As made, the model ends a sequence with a probability of about 1 in 100 at
every token, and a learning rate of 1e-9 keeps it so:

even    up to 20 tokens, the quickstart's work: 32 prompts x 8
ragged  up to 512 tokens, about 100 on average: 8 prompts x 8

Both get two cores, two threads for whoever is at work (learner and engine take turns), and log nowhere. Medians of the
steps after the fifth; each side runs twice, in turns. TRL's side needs `trl` and `accelerate` beside Assay's packages.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

ALPHABET = "".join(chr(c) for c in range(33, 127)) + "äöüß"
SKIPPED, STEPS = 5, 15
WORK = {"even": (32, 20), "ragged": (8, 512)}


def parity(completions: list[str], **columns: object) -> list[float]:
    """A reward at no cost: whether the text has an even number of characters."""
    return [float(len(text) % 2) for text in completions]


def make(folder: Path) -> None:
    """Model and prompts, the same for both."""
    import numpy as np

    from benchmarks.hands import SIZES
    from workers.models import ModelInit
    from workers.models.create import create

    create(ModelInit("qwen3", SIZES | {"max_position_embeddings": 1024}), [ALPHABET], folder / "model", seed=0)
    rng = np.random.default_rng(0)
    prompts = ["".join(rng.choice(list(ALPHABET), 6)) for _ in range(512)]
    (folder / "tasks.jsonl").write_text("".join(json.dumps({"prompt": p, "reference": "x"}) + "\n" for p in prompts))


def assay(folder: Path, work: str) -> float:
    """Median seconds of a step of `assay run`."""
    prompts, tokens = WORK[work]
    config = {
        "model": {"path": str(folder / "model")},
        "data": {"kind": "files", "path": str(folder / "tasks.jsonl"), "columns": {"prompt": "prompt"}},
        "rollout": {"max_new_tokens": tokens, "max_rows": 256, "cpus": 2},
        "learner": {"lr": 1e-9, "cpus": 2},
        "rewards": {"sources": {"parity": {"kind": "benchmarks.peers:parity"}}},
        "tracking": {"mlflow": False, "samples_per_step": 0},
        "stages": {
            "rl": {
                "kind": "rl", "algorithm": {"kind": "grpo", "group_size": 8}, "steps": STEPS, "groups_per_step": prompts
            }
        },
    }  # fmt: skip
    run_dir = Path(tempfile.mkdtemp(dir=folder)) / "run"
    path = folder / f"{work}.yaml"
    path.write_text(yaml.safe_dump(config))
    command = [Path(sys.executable).with_name("assay"), "run", path, "--run-dir", run_dir]
    subprocess.run([str(part) for part in command], stdout=subprocess.DEVNULL, check=True)
    rows = [json.loads(line)["metrics"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return statistics.median(row["time/step"] for row in rows[SKIPPED:])


def trl(folder: str, work: str) -> None:
    """In a process of its own: prints the seconds of each step as JSON."""
    import time
    import warnings

    warnings.filterwarnings("ignore")
    import datasets
    import torch
    from transformers import TrainerCallback
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    torch.set_num_threads(2)
    prompts, tokens = WORK[work]

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.times = [time.perf_counter()]

        def on_step_end(self, *_: object, **__: object) -> None:
            self.times.append(time.perf_counter())

    clock = Clock()
    knobs = GRPOConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=8 * prompts, num_generations=8,
        max_completion_length=tokens, max_steps=STEPS, learning_rate=1e-9, beta=0.0, temperature=1.0,
        use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none", save_strategy="no",
        logging_steps=1000, disable_tqdm=True, loss_type="dapo", lr_scheduler_type="constant",
    )  # fmt: skip
    data = datasets.load_dataset("json", data_files=f"{folder}/tasks.jsonl", split="train").remove_columns("reference")
    trainer = GRPOTrainer(f"{folder}/model", parity, knobs, data, callbacks=[clock])  # pyright: ignore[reportArgumentType]
    trainer.train()
    pairs = zip(clock.times, clock.times[1:], strict=False)
    print(json.dumps([after - before for before, after in pairs]))


def bare_trl(folder: Path, work: str) -> float:
    command = [sys.executable, "-m", "benchmarks.peers", "trl", str(folder), work]
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True, env=environment
    )
    return statistics.median(json.loads(done.stdout.splitlines()[-1])[SKIPPED:])


def main(works: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder)
        for work in works:
            rounds = [(assay(folder, work), bare_trl(folder, work)) for _ in range(2)]
            told = "; ".join(f"{ours:.3f} s, TRL {theirs:.3f} s, ratio {theirs / ours:.2f}" for ours, theirs in rounds)
            print(f"GRPO step, {work}: {told}", flush=True)


if __name__ == "__main__":
    trl(*sys.argv[2:]) if sys.argv[1:2] == ["trl"] else main(sys.argv[1:] or list(WORK))
