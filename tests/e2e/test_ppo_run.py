"""PPO end to end: a critic beside the policy, a KL held at a target; killed and resumed it is the same run."""

from __future__ import annotations

import pytest
from tiny_run import TINY, assay, kill_at, metric_rows, repeatable, write_config

pytestmark = pytest.mark.slow

GRPO = "{kind: grpo, group_size: 4, kl_coefficient: 0.01}"
PPO = (
    "{kind: ppo, group_size: 4, updates_per_step: 2, kl_coefficient: 0.05, kl_control: {target: 0.01, horizon: 100}, "
    "critic: {trunk: TRUNK, lr: 1.0e-2, warmup: 4, value_clip: 0.5}}"
)


def test_killed_with_each_kind_of_trunk_and_resumed_equals_uninterrupted(tmp_path):
    text = TINY.replace(GRPO, PPO.replace("TRUNK", "separate"))
    assert text != TINY
    stage = next(line for line in text.splitlines() if line.startswith("  rl:"))
    shared = stage.replace("rl:", "shared:").replace("trunk: separate", "trunk: shared")
    text = text.replace(stage, f"{stage}\n{shared}")
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole, killed = tmp_path / "whole" / "run", tmp_path / "killed" / "run"
    done = assay("run", write_config(tmp_path / "whole", text), "--run-dir", whole)
    assert done.returncode == 0, done.stderr
    command = ["run", write_config(tmp_path / "killed", text), "--run-dir", killed]
    for name in ("rl", "shared"):
        kill_at(command, killed, name, 5)
        command = ["resume", killed]
    resumed = assay(*command)
    assert resumed.returncode == 0, resumed.stderr
    weights = "model/model.safetensors"
    assert (whole / weights).read_bytes() == (killed / weights).read_bytes()
    assert repeatable(whole) == repeatable(killed)
    for name in ("rl", "shared"):
        steps = [row["metrics"] for row in metric_rows(whole) if row["stage"] == name]
        # Two updates a step: the critic alone for two steps, in which the policy is the reference.
        assert ["learner/lr" in step for step in steps] == [False, False, True, True, True, True, True]
        assert all({"critic/loss", "critic/lr", "critic/return_mean"} <= set(step) for step in steps)
        coefficients = [step["policy/kl_coefficient"] for step in steps]
        assert coefficients[0] == 0.05
        assert coefficients[1] == pytest.approx(0.05 * (1 - 0.2 * 16 / 100))
        assert len(set(coefficients)) == len(coefficients)


def test_a_critic_starts_from_an_earlier_stages_reward_model(tmp_path):
    head = TINY[: TINY.index("stages:")].replace("held_out: 20}", "held_out: 20, pairs: true}")
    stages = """
stages:
  judge: {kind: reward_model, steps: 6, groups_per_step: 8, algorithm: {kind: bradley_terry, depth: 2}}
  rl: {kind: rl, steps: 2, groups_per_step: 4, algorithm: {kind: ppo, group_size: 4, critic: {start: judge}}}
"""
    done = assay("run", write_config(tmp_path, head + stages), "--run-dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    first, second = (row["metrics"] for row in metric_rows(tmp_path / "run") if row["stage"] == "rl")
    assert first["critic/value_mean"] != 0  # a new head would say 0
    assert second["critic/lr"] == 3e-3  # the stage's own, where the critic's config says none
