"""Stages that compare: what is wrong with one is said before anything is started."""

from __future__ import annotations

import json

import pytest
import yaml
from tiny_run import TINY

from pipeline.check import check
from pipeline.config import parse_config
from rewards.errors import Refused

HEAD = TINY[: TINY.index("stages:")]
PAIRS = "held_out: 20, pairs: true}"


def config(stage, *more, head=HEAD):
    text = head + "stages:\n" + "".join(f"  s{i}: {{{one}}}\n" for i, one in enumerate((stage, *more)))
    return parse_config(yaml.safe_load(text), "run.yaml")


def refusal(*stages, head=HEAD):
    with pytest.raises(Refused) as refused:
        check(config(*stages, head=head))
    assert "\n" not in str(refused.value)
    return str(refused.value)


DPO = "kind: preference, steps: 1, groups_per_step: 4, algorithm: {kind: dpo}"
KTO = "kind: preference, steps: 1, groups_per_step: 1, algorithm: {kind: kto}"
MODEL = "kind: reward_model, steps: 1, groups_per_step: 4, algorithm: {kind: bradley_terry}"


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ((DPO,), "stages.s0.data: task '"),
        ((MODEL,), "has no two answers to compare, which bradley_terry needs; name them with data.columns.chosen"),
        ((KTO,), "groups_per_step: 1, expected 2 or more: kto compares with other tasks' answers"),
        ((DPO.replace("dpo", "grpo"),), "grpo"),
        ((DPO.replace("preference", "preferences"),), "did you mean 'preference'?"),
        ((DPO.replace("kind: dpo", "kind: dpo, beta: 0"),), "beta"),
        ((MODEL.replace("terry", "terry, depth: 4"),), "depth"),
        ((MODEL, DPO + ", start: s0"), "stages.s1.start: no earlier stage 's0' makes a policy"),
    ],
)
def test_it_is_refused_in_one_line(stages, said):
    assert said in refusal(*stages)


@pytest.mark.parametrize("stage", [DPO, MODEL])
def test_pairs_that_do_not_fit_a_micro_batch_are_refused(stage):
    small = stage + ", learner: {micro_batch_tokens: 12}"
    message = refusal(small, head=HEAD.replace("held_out: 20}", PAIRS))
    assert message.startswith("stages.s0.learner.micro_batch_tokens: 12, but the answers of a tried task")


def test_pairs_of_any_kind_can_run(tmp_path):
    kto = KTO.replace("per_step: 1", "per_step: 2")
    assert check(config(DPO, MODEL, kto, head=HEAD.replace("held_out: 20}", PAIRS)))
    rows = [{"q": f"{i}+1=", "a": str(i), "b": "x", "n": i % 3} for i in range(9)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = f"data: {{kind: files, path: {tmp_path}/pairs.jsonl, columns: {{prompt: q, demonstration: a, rating: n}}}}"
    ratings = MODEL.replace("bradley_terry", "ratings")
    assert check(config(f"{ratings}, {data}", head=HEAD))
    said = refusal(f"{DPO}, {data}")
    assert "task 'train#1' has no two answers to compare, which dpo needs" in said
