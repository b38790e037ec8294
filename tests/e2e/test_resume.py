"""A run whose driver is killed, early or late, and resumed equals one that was never interrupted: bit for bit."""

from __future__ import annotations

import json

import pytest
from tiny_run import TINY, assay, kill_at, metric_rows, repeatable, write_config

pytestmark = pytest.mark.slow


# Before the first checkpoint, at a stage's last step, between two checkpoints, at the last step of all.
MOMENTS = [("warm_start", 0), ("warm_start", 29), ("rl", 3), ("rl", 6)]


def test_killed_four_times_and_resumed_equals_uninterrupted(uninterrupted, tmp_path):
    run_dir = tmp_path / "run"
    command = ["run", write_config(tmp_path), "--run-dir", run_dir]
    for stage, step in MOMENTS:
        kill_at(command, run_dir, stage, step)
        assert not (run_dir / "model").exists()
        command = ["resume", run_dir]
    assert_done_alike(run_dir, uninterrupted)


def test_multipliers_and_running_means_go_on_where_they_stood(tmp_path):
    """What composition and shaping remember is state as well: a reward that hangs on all steps before it."""
    rewards = """
rewards:
  sources: {exact: {kind: exact, after: "."}, form: {kind: regex, pattern: "\\\\d=\\\\d+[.]"}}
  combine: {kind: constrained, points: {form: 0.5}, rate: 1.0}
  shape: [{kind: running_normalise}]
"""
    text = TINY.replace('rewards: {sources: {exact: {kind: exact, after: "."}}}', rewards.strip())
    text = text.replace("steps: 30", "steps: 10").replace("  before: {kind: evaluate}\n", "")
    config = write_config(tmp_path, text)
    whole, run_dir = tmp_path / "whole", tmp_path / "run"
    done = assay("run", config, "--run-dir", whole)
    assert done.returncode == 0, done.stderr
    kill_at(["run", config, "--run-dir", run_dir], run_dir, "rl", 4)
    assert_done_alike(run_dir, whole)
    multipliers = [m for row in metric_rows(whole) if (m := row["metrics"].get("reward/multiplier/form")) is not None]
    assert len(set(multipliers)) == 7, "they moved at every step"


def test_a_damaged_checkpoint_is_passed_over(uninterrupted, tmp_path):
    run_dir = tmp_path / "run"
    kill_at(["run", write_config(tmp_path), "--run-dir", run_dir], run_dir, "rl", 5)
    newest = max(path for path in (run_dir / "checkpoints").iterdir() if path.name.isdigit())
    data = bytearray((newest / "learner.safetensors").read_bytes())
    data[len(data) // 2] ^= 1
    (newest / "learner.safetensors").write_bytes(bytes(data))
    assert_done_alike(run_dir, uninterrupted)
    events = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    assert any(e["kind"] == "warning" and f"checkpoint {newest.name} is damaged" in e["text"] for e in events)


def assert_done_alike(run_dir, uninterrupted):
    """Resumes the run: its numbers, samples and weights are then the other's."""
    resumed = assay("resume", run_dir)
    assert resumed.returncode == 0, resumed.stderr
    weights, samples = "model/model.safetensors", "samples.jsonl"
    assert (run_dir / weights).read_bytes() == (uninterrupted / weights).read_bytes()
    assert repeatable(run_dir) == repeatable(uninterrupted)
    assert (run_dir / samples).read_text() == (uninterrupted / samples).read_text()
    stages = json.loads((run_dir / "summary.json").read_text())["stages"]
    expected = json.loads((uninterrupted / "summary.json").read_text())["stages"]
    assert {n: s.get("accuracy") for n, s in stages.items()} == {n: s.get("accuracy") for n, s in expected.items()}


def test_no_step_is_missing_or_twice(uninterrupted):
    steps = [(row["stage"], row["step"]) for row in metric_rows(uninterrupted)]
    assert steps == [("warm_start", i) for i in range(30)] + [("before", 0)] + [("rl", i) for i in range(7)] + [
        ("after", 0)
    ]
