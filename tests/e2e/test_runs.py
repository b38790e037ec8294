"""Whole runs through real actors: what a finished one leaves, an asynchronous one, one whose worker is killed."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import time

import psutil
import pytest
from metric_docs import documented
from tiny_run import ASSAY, assay, metric_rows, write_config

pytestmark = pytest.mark.slow


def test_every_metric_is_explained_and_finite(uninterrupted):
    rows = metric_rows(uninterrupted)
    names = {name for row in rows for name in row["metrics"]}
    assert {"policy/logprob_gap_max", "policy/kl_ref", "time/overhead_share", "learner/nll", "eval/accuracy"} <= names
    assert not [name for name in names if not documented(name)]
    assert all(math.isfinite(value) for row in rows for value in row["metrics"].values())


def test_engine_and_learner_agree_in_every_step(uninterrupted):
    gaps = [r["metrics"]["policy/logprob_gap_max"] for r in metric_rows(uninterrupted) if r["stage"] == "rl"
            and "policy/logprob_gap_max" in r["metrics"]]  # fmt: skip
    assert gaps and max(gaps) < 1e-4


def test_what_a_run_leaves(uninterrupted):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    names = {path.name for path in uninterrupted.iterdir()}
    assert {"config.yaml", "environment.json", "events.jsonl", "report.html", "samples.jsonl", "summary.json"} <= names
    model = AutoModelForCausalLM.from_pretrained(uninterrupted / "model")
    tokenizer = AutoTokenizer.from_pretrained(uninterrupted / "model")
    prompt = tokenizer("1+2=", return_tensors="pt", add_special_tokens=False)
    assert model.generate(**prompt, max_new_tokens=4, do_sample=False).shape[1] <= prompt["input_ids"].shape[1] + 4
    summary = json.loads((uninterrupted / "summary.json").read_text())
    assert list(summary["stages"]) == ["warm_start", "before", "rl", "after"]
    assert all(stage["seconds"] > 0 for stage in summary["stages"].values())
    low, high = summary["stages"]["after"]["interval"]
    assert 0 <= low <= summary["stages"]["after"]["accuracy"] <= high <= 1
    assert summary["stages"]["after"]["n"] == 20


def test_asynchronous_with_two_rollout_workers(tmp_path):
    config, run_dir = write_config(tmp_path), tmp_path / "run"
    done = assay("run", config, "--run-dir", run_dir, "stages.rl.max_staleness=2", "rollout.workers=2")
    assert done.returncode == 0, done.stderr
    rows = [row["metrics"] for row in metric_rows(run_dir) if row["stage"] == "rl"]
    ages = [row["policy/staleness_max"] for row in rows]
    assert len(rows) == 7 and max(ages) <= 2
    assert max(ages) >= 1  # it does run ahead


def test_a_killed_rollout_worker_ends_the_run_with_its_name_and_the_run_resumes(tmp_path):
    config, run_dir = write_config(tmp_path), tmp_path / "run"
    command = [ASSAY, "run", config, "--run-dir", run_dir, "stages.rl.steps=2000", "stages.rl.groups_per_step=32"]
    child = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 200
        while not any(row["stage"] == "rl" for row in metric_rows(run_dir)):
            assert child.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        family = psutil.Process(child.pid).children(recursive=True)
        [worker] = [p for p in family if p.is_running() and "RolloutWorker" in " ".join(p.cmdline())]
        os.kill(worker.pid, signal.SIGKILL)
        _, stderr = child.communicate(timeout=120)
    finally:
        child.kill()
    assert child.returncode == 1
    lines = [line for line in stderr.splitlines() if line.startswith("assay: ")]
    assert len(lines) == 1 and "rollout-0 died" in lines[0] and "Traceback" not in stderr
    assert json.loads((run_dir / "summary.json").read_text())["status"] == "failed"
    assert (run_dir / "error.txt").exists() and (run_dir / "report.html").exists()
