"""What an algorithm can't work with gets one line that says which and what to change, before anything is started."""

from __future__ import annotations

import json

import pytest
from tiny import make

from pipeline.check import check
from pipeline.config import load_config
from rewards.errors import Refused

PAIR = {"q": "1+1=", "good": "2", "bad": "3", "a": 1.0, "b": 0.0}
PAIRS = {"chosen": "good", "rejected": "bad"}


def refused(folder, stage, data=None):
    """The one line that `assay check` ends with for this stage."""
    path = folder / "run.yaml"
    text = {
        "model": {"init": {"config": {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}}},
        "data": data or {"kind": "arithmetic", "digits": 1, "train": 60, "held_out": 20},
        "rewards": {"sources": {"exact": {"kind": "exact"}}},
        "stages": {"learn": {"steps": 1, "groups_per_step": 2, **stage}},
    }
    path.write_text(json.dumps(text))
    with pytest.raises(Refused) as found:
        check(load_config(path))
    line = str(found.value)
    assert "\n" not in line
    return line


def rows(folder, *changes, **columns):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps({**PAIR, **change}) + "\n" for change in changes or [{}]))
    return {"kind": "files", "path": str(path), "columns": {"prompt": "q", **columns}}


def rl(kind="grpo", **algorithm):
    return {"kind": "rl", "algorithm": {"kind": kind, **algorithm}}


def test_ppo_without_its_critic(tmp_path):
    line = refused(tmp_path, rl("ppo", critic=None))
    assert "stages.learn.algorithm.critic: expected a section of keys, found nothing" in line


def test_a_critic_for_an_algorithm_that_has_none(tmp_path):
    line = refused(tmp_path, rl("grpo", critic={"trunk": "shared"}))
    assert "stages.learn.algorithm: unknown key 'critic'" in line


def test_a_critic_of_another_vocabulary(tmp_path):
    start = make(tmp_path / "other")
    line = refused(tmp_path, rl("ppo", critic={"start": start}))
    assert f"stages.learn.algorithm.critic.start: the vocabulary of '{start}' is not the policy's" in line
    assert "expected a reward model that reads the policy's tokens" in line


def test_labels_that_contradict_their_task(tmp_path):
    columns = {**PAIRS, "chosen_rating": "a", "rejected_rating": "b"}
    data = rows(tmp_path, {}, {"a": 0.25, "b": 0.75}, **columns)
    line = refused(tmp_path, {"kind": "preference", "algorithm": {"kind": "dpo"}}, data)
    assert "rows.jsonl:2: the chosen answer is rated 0.25 and the rejected one 0.75, expected the chosen one's" in line


def test_a_preference_row_with_equal_answers(tmp_path):
    data = rows(tmp_path, {}, {"bad": "2"}, **PAIRS)
    line = refused(tmp_path, {"kind": "preference", "algorithm": {"kind": "ipo"}}, data)
    assert "rows.jsonl:2: the chosen and the rejected answer are equal ('2'), expected two" in line


@pytest.mark.parametrize("kind", ["grpo", "rloo", "remax", "gspo", "cispo", "gdpo", "pairwise", "online_dpo", "relift"])
def test_a_group_of_one_where_rollouts_are_compared(tmp_path, kind):
    line = refused(tmp_path, rl(kind, group_size=1))
    assert "stages.learn.algorithm.group_size: expected a number of at least 2, found 1" in line


def test_a_single_pair_where_ktos_z_needs_others(tmp_path):
    stage = {"kind": "preference", "algorithm": {"kind": "kto"}, "groups_per_step": 1}
    assert "groups_per_step: 1, expected 2 or more: kto compares" in refused(tmp_path, stage)


def test_a_single_pair_where_ties_need_others(tmp_path):
    stage = {"kind": "reward_model", "algorithm": {"kind": "bradley_terry", "neutral": 1.0}, "groups_per_step": 1}
    assert "groups_per_step: 1, expected 2 or more: algorithm.neutral takes the next" in refused(tmp_path, stage)


@pytest.mark.parametrize(
    ("stage", "line"),
    [
        ({"kind": "preference", "algorithm": {"kind": "dpo"}}, "has no two answers to compare, which dpo needs"),
        ({"kind": "preference", "algorithm": {"kind": "kto"}}, "has no rated answers, which kto needs"),
        ({"kind": "reward_model", "algorithm": {"kind": "bradley_terry"}}, "has no two answers to compare"),
        ({"kind": "reward_model", "algorithm": {"kind": "collaborative"}}, "has no two answers to compare"),
        (
            {"kind": "reward_model", "algorithm": {"kind": "collaborative", "doubt": 1.0}},
            "stages.learn.algorithm.doubt: expected a number below 1, found 1",
        ),
        ({"kind": "reward_model", "algorithm": {"kind": "ratings"}}, "has no rated answers, which ratings needs"),
        (
            {"kind": "reward_model", "algorithm": {"kind": "process"}},
            "has no answer whose steps are labelled, which process needs; name them with data.columns.steps",
        ),
        ({"kind": "rl", "algorithm": {"kind": "dpo"}}, "stages.learn.algorithm: unknown kind 'dpo'"),
        ({"kind": "preference", "algorithm": {"kind": "grpo"}}, "stages.learn.algorithm: unknown kind 'grpo'"),
    ],
)
def test_data_of_another_kind(tmp_path, stage, line):
    assert line in refused(tmp_path, stage)


def test_demonstrations_that_are_not_there(tmp_path):
    line = refused(tmp_path, rl("relift"), rows(tmp_path))
    assert "has no demonstration to imitate; name the column with data.columns.demonstration" in line


def test_an_attribute_that_no_answer_has(tmp_path):
    data = rows(tmp_path, demonstration="good", rating=["a", "b"])
    line = refused(tmp_path, {"kind": "reward_model", "algorithm": {"kind": "ratings", "attributes": ["c"]}}, data)
    assert "stages.learn.algorithm.attributes: no answer is rated by 'c'" in line
    assert "expected one of: b" in line


def test_labels_to_infer_and_nobody_to_judge(tmp_path):
    path = tmp_path / "run.yaml"
    stage = {"kind": "reward_model", "algorithm": {"kind": "process", "infer": {}}, "steps": 1, "groups_per_step": 1}
    path.write_text(json.dumps({"model": {"init": {}}, "data": {"kind": "arithmetic"}, "stages": {"learn": stage}}))
    with pytest.raises(Refused) as found:
        load_config(path)
    assert "stages.learn: rewards: none, expected some: algorithm.infer has rollouts judged" in str(found.value)
