"""The papers' recipes, reduced to what a minute shows: one seed, fewer steps, an arm that must fail."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import yaml
from tiny_run import assay

pytestmark = pytest.mark.slow

RECIPES = Path(__file__).parents[2] / "configs" / "papers"


def reduced(folder, name, axes, **overrides):
    """The recipe with these axes alone, one seed, and these keys; its accuracies by cell."""
    data = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())["ablation"]
    data |= {"base": str(RECIPES / data["base"]), "axes": axes, "seeds": [0], "skip": [], "control": {}}
    data["overrides"] = {**data.get("overrides", {}), "tracking.mlflow": False, **overrides}
    data["measure"]["before"] = "before/accuracy"
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"ablation": data}, sort_keys=False))
    done = assay("ablate", path, "--dir", folder / "sweep", timeout=900)
    assert done.returncode == 0, done.stderr
    with (folder / "sweep" / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    cell = next(iter(rows[0]))
    return {(row[cell], row["measure"]): float(row["mean"] or "nan") for row in rows}


def test_noisy_rewards_cost_little_until_they_know_nothing(tmp_path):
    rate = {"stages.rl.rewards.noise.rate": [0.0, 0.2, 0.5]}
    found = reduced(tmp_path, "noisy_rewards", rate, **{"stages.rl.steps": 24})
    before = found["0.0", "before"]
    assert found["0.0", "accuracy"] > before + 0.3
    assert found["0.2", "accuracy"] > before + 0.2
    # Half of the rewards turned round: the arm that must not learn.
    assert found["0.5", "accuracy"] < before + 0.15


def test_plain_step_rewards_are_hacked_and_clip_with_delta_are_not(tmp_path):
    arms = yaml.safe_load((RECIPES / "clip_delta.yaml").read_text())["ablation"]["axes"]["arm"]
    kept = {"arm": {name: arms[name] for name in ("success only", "plain steps", "clip and delta")}}
    found = reduced(tmp_path, "clip_delta", kept, **{"stages.rl.steps": 30})
    alone = found["success only", "accuracy"]
    assert alone > found["success only", "before"] + 0.3
    assert found["plain steps", "accuracy"] < alone - 0.2
    assert found["plain steps", "tokens"] > found["success only", "tokens"]
    assert found["clip and delta", "accuracy"] > alone - 0.1
