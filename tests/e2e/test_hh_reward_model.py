"""A reward model from scratch on real human preferences."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_run import assay

pytestmark = pytest.mark.slow

CONFIG = Path(__file__).parents[2] / "configs" / "algorithms" / "hh_reward_model.yaml"


def test_it_ranks_unseen_pairs_better_than_chance(data_dir, tmp_path):
    data = f"data.path={data_dir}/hh_rlhf/harmless_base.jsonl.gz"
    done = assay("run", CONFIG, data, "tracking.mlflow=false", "--run-dir", tmp_path / "run", "--json", timeout=900)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])["stages"]["reward_model"]
    assert found["n"] == 400
    assert found["interval"][0] > 0.5
    assert (tmp_path / "run" / "model" / "config.json").exists()
