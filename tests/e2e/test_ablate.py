"""A sweep of real runs: what they share is done once, a failed one ends nothing, and a kill changes no number."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from tiny_run import ASSAY, TINY, assay, repeatable

pytestmark = pytest.mark.slow

GRID = {
    "base": "tiny.yaml",
    "overrides": {"stages.rl.steps": 3},
    "axes": {
        "stages.rl.learner.lr": [1e-3, 1e-2],
        "stages.rl.algorithm.group_size": [2, 4],
    },
    "seeds": [3],
    "measure": {"accuracy": "after/accuracy", "reward": {"metric": "rl/reward/mean", "over": "mean"}},
    "budget": {"at_once": 2},
}


def write_grid(folder, **changed):
    (folder / "tiny.yaml").write_text(TINY)
    (folder / "grid.yaml").write_text(yaml.safe_dump({"ablation": {**GRID, **changed}}))
    return folder / "grid.yaml"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The sweep of 4 cells, never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    done = assay("ablate", write_grid(folder), "--dir", folder / "sweep", "--json", timeout=900)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["done"] == 4
    return folder / "sweep"


def trained(run_dir):
    """Whether the run did the warm start itself."""
    events = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    return any(event["kind"] == "stage_started" and event.get("stage") == "warm_start" for event in events)


def test_what_is_shared_is_done_once(whole):
    runs = sorted(whole.glob("runs/*/seed-*/"))
    assert len(runs) == 4
    assert sum(trained(run) for run in runs) == 1


def test_a_run_that_took_up_a_stage_is_to_the_bit_one_that_did_it(whole, tmp_path):
    taken = next(run for run in sorted(whole.glob("runs/*/seed-3/")) if not trained(run))
    alone = assay("run", taken / "config.yaml", "--run-dir", tmp_path / "alone")
    assert alone.returncode == 0, alone.stderr
    weights = "model/model.safetensors"
    assert (taken / weights).read_bytes() == (tmp_path / "alone" / weights).read_bytes()
    assert repeatable(taken) == repeatable(tmp_path / "alone")
    assert (taken / "samples.jsonl").read_text() == (tmp_path / "alone" / "samples.jsonl").read_text()


def test_killed_at_a_random_moment_and_run_again_it_is_the_same_table(whole, tmp_path):
    command = [ASSAY, "ablate", write_grid(tmp_path), "--dir", tmp_path / "sweep"]
    child = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        begun = random.Random().randint(1, 3)  # runs whose rl stage has begun
        print(f"killed when {begun} runs were at rl")
        deadline = time.monotonic() + 600
        while sum('"rl"' in path.read_text() for path in tmp_path.glob("sweep/runs/*/seed-*/events.jsonl")) < begun:
            assert child.poll() is None, "it ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    assert not (tmp_path / "sweep" / "table.csv").exists()
    again = assay(*command[1:], timeout=900)
    assert again.returncode == 0, again.stderr
    for name in ("table.csv", "table.tex", "runs.csv"):
        assert (tmp_path / "sweep" / name).read_text() == (whole / name).read_text()
    page = (tmp_path / "sweep" / "report.html").read_text()
    assert "4 of 4 runs done" in page


def test_a_failed_run_is_reported_and_ends_nothing(tmp_path, monkeypatch):
    support = Path(__file__).parents[1] / "support"  # where `faulty` lies
    monkeypatch.setenv("PYTHONPATH", f"{support}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    grid = write_grid(
        tmp_path,
        axes={"stages.rl.rewards.failure_window": [512, 4]},
        overrides={
            "stages.rl.steps": 2,
            "stages.rl.rewards.sources": {"broken": {"kind": "faulty:too_few"}},
            "stages.rl.rewards.failure_budget": 0.0,
        },
        seeds=[3],
    )
    done = assay("ablate", grid, "--dir", tmp_path / "sweep", timeout=600)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
    assert "1 of 2 runs failed" in done.stderr
    rows = list(csv.DictReader((tmp_path / "sweep" / "runs.csv").open()))
    assert [row["status"] for row in rows] == ["done", "failed"]
    assert (
        "could not be judged, more than rewards.failure_budget=0 allows"
        in (tmp_path / "sweep" / "report.html").read_text()
    )
