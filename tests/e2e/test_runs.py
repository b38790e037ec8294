"""Whole runs through real actors: what a finished one leaves, an asynchronous one, and those with a worker killed."""

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


def kill_one(command, run_dir, kind):
    """Start a run and SIGKILL one of its workers of this kind once RL is under way; the driver's child process."""
    child = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 200
        while not any(row["stage"] == "rl" for row in metric_rows(run_dir)):
            assert child.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        family = psutil.Process(child.pid).children(recursive=True)
        workers = [p for p in family if p.is_running() and kind in " ".join(p.cmdline())]
        os.kill(workers[0].pid, signal.SIGKILL)
        _, stderr = child.communicate(timeout=120)
    finally:
        child.kill()
    return child.returncode, stderr


def test_a_killed_learner_ends_the_run_with_its_name(tmp_path):
    config, run_dir = write_config(tmp_path), tmp_path / "run"
    command = [ASSAY, "run", config, "--run-dir", run_dir, "stages.rl.steps=2000", "stages.rl.groups_per_step=32"]
    status, stderr = kill_one(command, run_dir, "LearnerWorker")
    assert status == 1
    lines = [line for line in stderr.splitlines() if line.startswith("assay: ")]
    assert len(lines) == 1 and "learner died" in lines[0] and "Traceback" not in stderr
    assert json.loads((run_dir / "summary.json").read_text())["status"] == "failed"
    assert (run_dir / "error.txt").exists() and (run_dir / "report.html").exists()


@pytest.mark.parametrize(("engine", "workers"), [("torch", 2), ("vllm", 1)])
def test_a_run_outlives_a_killed_rollout_worker(tmp_path, engine, workers):
    config, run_dir = write_config(tmp_path), tmp_path / "run"
    command = [ASSAY, "run", config, "--run-dir", run_dir, "stages.rl.steps=30", "stages.rl.groups_per_step=16"]
    if engine == "vllm":  # its kernels want heads of 32
        command += ["rollout.engine=vllm", "rollout.engine_args={max_model_len: 64}", "model.init.config.head_dim=32"]
    status, stderr = kill_one(
        [*command, f"rollout.workers={workers}", f"stages.rl.max_staleness={workers - 1}"], run_dir, "RolloutWorker"
    )
    assert status == 0, stderr
    rows = [row for row in metric_rows(run_dir) if row["stage"] == "rl"]
    assert [row["step"] for row in rows] == list(range(30))
    steps = [row["metrics"] for row in rows]
    assert sum(step["rollout/restarts"] for step in steps) == 1
    assert {step["reward/failed"] for step in steps} == {0.0}
    assert max(step["policy/staleness_max"] for step in steps) <= workers - 1
    if workers == 1:  # always in step: what the fresh worker writes with is what the learner holds
        gaps = [step["policy/logprob_gap_max"] for step in steps if "policy/logprob_gap_max" in step]
        assert gaps and max(gaps) < 1e-4
    events = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    (event,) = [event for event in events if event["kind"] == "rollout_restarted"]
    assert event["text"].startswith("rollout-") and " died: " in event["text"] and event["stage"] == "rl"
    assert event["text"] in (run_dir / "report.html").read_text()
