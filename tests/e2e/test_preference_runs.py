"""Whole runs that learn from comparisons: from pairs on file, from rollouts, and a reward model."""

from __future__ import annotations

import json
import math

import pytest
from metric_docs import documented
from tiny_run import TINY, assay, kill_at, metric_rows, repeatable, write_config

pytestmark = pytest.mark.slow

HEAD = TINY[: TINY.index("stages:")].replace("held_out: 20}", "held_out: 20, pairs: true}")
STAGES = """
stages:
  warm_start: {kind: sft, steps: 30, groups_per_step: 16}
  dpo: {kind: preference, steps: 12, groups_per_step: 8, algorithm: {kind: dpo, scale: 0.5}}
  kto: {kind: preference, steps: 3, groups_per_step: 8, algorithm: {kind: kto}}
  simpo: {kind: preference, steps: 2, groups_per_step: 4, algorithm: {kind: simpo}, learner: {micro_batch_tokens: 80}}
  online: {kind: rl, start: warm_start, steps: 3, groups_per_step: 8, algorithm: {kind: online_dpo, group_size: 4}}
  best: {kind: rl, steps: 3, groups_per_step: 8, algorithm: {kind: rejection, group_size: 4}}
  lift: {kind: rl, steps: 6, groups_per_step: 8, algorithm: {kind: relift, group_size: 4, demonstrations: 10}}
  inferred:
    kind: reward_model
    steps: 3
    groups_per_step: 8
    algorithm: {kind: process, infer: {rollouts: 2, steps: {by: regex, at: "[,.]"}}}
  labelled: {kind: reward_model, data: {kind: arithmetic, digits: 1, train: 60, held_out: 20, steps: true}, steps: 3,
             groups_per_step: 8, algorithm: {kind: process, depth: 2}}
  judge: {kind: reward_model, steps: 6, groups_per_step: 8, algorithm: {kind: bradley_terry, depth: 2, centring: 0.01}}
  after: {kind: evaluate}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("preferences")
    done = assay("run", write_config(folder, HEAD + STAGES), "--run-dir", folder / "run", "--json")
    assert done.returncode == 0, done.stderr
    return folder / "run"


def of(run_dir, stage):
    return [row["metrics"] for row in metric_rows(run_dir) if row["stage"] == stage]


def test_every_stage_learns_from_its_pairs(finished):
    rows = metric_rows(finished)
    assert not [name for row in rows for name in row["metrics"] if not documented(name)]
    assert all(math.isfinite(value) for row in rows for value in row["metrics"].values())
    # The first step is taken at the reference: no margin, and a loss of log 2.
    first = of(finished, "dpo")[0]
    assert first["learner/pair_margin"] == pytest.approx(0, abs=1e-5)
    assert first["learner/loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert first["learner/samples"] == 16
    assert of(finished, "dpo")[-1]["learner/pair_margin"] > 0
    assert of(finished, "kto")[0]["learner/loss"] == pytest.approx(0.5, abs=1e-4)
    assert of(finished, "kto")[0]["learner/samples"] == 16
    for row in of(finished, "online"):
        assert row["learner/samples"] % 2 == 0  # pairs
        assert row["learner/samples"] <= 16
    gaps = [row["policy/logprob_gap_max"] for row in of(finished, "online") if row["learner/samples"]]
    assert gaps
    assert max(gaps) < 1e-4
    assert all(row["learner/samples"] <= 8 for row in of(finished, "best"))


def test_what_never_came_out_right_is_shown(finished):
    """Ten tasks at a time, and every update on rollouts is there as well."""
    shown = [row["learner/demonstrations"] for row in of(finished, "lift")]
    assert set(shown) == {0.0, 10.0}
    assert {"learner/nll" in row for row in of(finished, "lift") if row["learner/demonstrations"]} == {True}
    assert max(row["policy/staleness_max"] for row in of(finished, "lift")) == 0


def test_a_model_of_steps_is_held_to_answers_that_it_did_not_see(finished):
    stages = json.loads((finished / "summary.json").read_text())["stages"]
    for name in ("inferred", "labelled"):
        found = stages[name]
        assert 0 < found["n"] <= 40
        assert found["interval"][0] <= found["accuracy"] <= found["interval"][1]
        assert 0 < found["baseline"] <= 1
        assert (finished / "stages" / name / "model.safetensors").exists()
    assert all(0 <= row["label/mean"] <= 1 for row in of(finished, "inferred") if "label/mean" in row)
    assert all(row["learner/samples"] == 16 for row in of(finished, "labelled")[:-1]), "both answers of each pair"


def test_the_reward_model_is_saved_and_the_policy_stays(finished):
    summary = json.loads((finished / "summary.json").read_text())
    judge = summary["stages"]["judge"]
    assert judge["n"] == 20
    assert judge["interval"][0] <= judge["accuracy"] <= judge["interval"][1]
    config = json.loads((finished / "stages" / "judge" / "config.json").read_text())
    assert (config["architectures"], config["head_depth"]) == (["Qwen3ForSequenceClassification"], 2)
    assert 0 <= summary["stages"]["after"]["accuracy"] <= 1


def test_a_run_that_was_killed_in_two_stages_goes_on_bit_for_bit(finished, tmp_path):
    """In `lift` with tasks that wait for their demonstrations."""
    command = ["run", write_config(tmp_path, HEAD + STAGES), "--run-dir", tmp_path / "run"]
    for stage, step in (("dpo", 3), ("lift", 4)):
        kill_at(command, tmp_path / "run", stage, step)
        command = ["resume", tmp_path / "run"]
    done = assay(*command)
    assert done.returncode == 0, done.stderr
    assert repeatable(tmp_path / "run") == repeatable(finished)
