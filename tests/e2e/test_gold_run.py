"""Whole runs with a gold source at their side: the learner learns the same bits; a run that stops keeps its best."""

from __future__ import annotations

import json

import pytest
import yaml
from metric_docs import documented
from tiny_run import TINY, assay, kill_at, metric_rows, repeatable, write_config

pytestmark = pytest.mark.slow

GOLD = {"kind": "exact", "share": 0.4}  # the whole text must be the reference: never, which is as good a score as any


def config(folder, rewards, **stage):
    data = yaml.safe_load(TINY)
    data["rewards"] |= rewards
    data["stages"]["rl"] |= stage
    folder.mkdir(exist_ok=True)
    return write_config(folder, yaml.safe_dump(data, sort_keys=False))


def test_the_learner_learns_the_same_bits_with_gold_and_without(uninterrupted, tmp_path):
    run_dir = tmp_path / "run"
    done = assay("run", config(tmp_path, {"gold": GOLD}), "--run-dir", run_dir)
    assert done.returncode == 0, done.stderr
    weights = "model/model.safetensors"
    assert (run_dir / weights).read_bytes() == (uninterrupted / weights).read_bytes()
    rows = [(stage, step, {k: v for k, v in m.items() if "gold" not in k}) for stage, step, m in repeatable(run_dir)]
    assert rows == repeatable(uninterrupted)
    rl = [row["metrics"] for row in metric_rows(run_dir) if row["stage"] == "rl"]
    assert {m["gold/n"] for m in rl} <= {float(n) for n in range(4, 9)}
    assert abs(rl[0]["gold/kl"]) < 1e-5 < rl[-1]["gold/kl"]
    assert all(documented(name) for m in rl for name in m)
    assert [m["eval/gold"] for m in (r["metrics"] for r in metric_rows(run_dir)) if "eval/gold" in m] == [0.0, 0.0]


def test_a_noisy_run_that_stops_at_its_peak_resumes_as_if_never_killed(tmp_path):
    """A gold score that never moves keeps the first window's policy; noise and slices are drawn as before the kill."""
    rewards = {"gold": GOLD, "noise": {"kind": "flip", "rate": 0.3, "scope": "prompt"}}
    stage = {"stop_at_peak": {"window": 2, "patience": 9}, "algorithm": {"kind": "grpo", "group_size": 4}}
    runs = [tmp_path / name / "run" for name in ("whole", "killed")]
    whole, killed = [config(path.parent, rewards, **stage) for path in runs]
    assert assay("run", whole, "--run-dir", runs[0]).returncode == 0
    kill_at(["run", killed, "--run-dir", runs[1]], runs[1], "rl", 5)
    resumed = assay("resume", runs[1])
    assert resumed.returncode == 0, resumed.stderr
    assert repeatable(runs[1]) == repeatable(runs[0])
    model = "model/model.safetensors"
    assert (runs[1] / model).read_bytes() == (runs[0] / model).read_bytes()
    kept = (runs[0] / "stages" / "rl" / "model.safetensors").read_bytes()
    assert (runs[0] / model).read_bytes() == kept, "the run's policy is the best one, not the last"
    result = json.loads((runs[0] / "summary.json").read_text())["stages"]["rl"]
    assert (result["steps"], result["kept_step"], result["gold_peak"]) == (7, 1, 0.0)
    clean = [row["metrics"]["reward/clean/mean"] for row in metric_rows(runs[0]) if row["stage"] == "rl"]
    assert len(clean) == 7
