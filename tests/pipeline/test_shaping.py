"""Shaping over whole steps in the driver: order, memory, and the same again after a resume."""

from __future__ import annotations

import pytest
import yaml
from tiny_run import TINY

from pipeline.config import parse_config
from pipeline.metrics import group_metrics
from pipeline.shaping import Shaping, shapers_of, shaping_of
from rewards.errors import Refused
from rewards.types import Group, Score, ScoredGroup, Verdict


def rewards_of(**keys):
    data = yaml.safe_load(TINY)
    data["rewards"] = {"sources": {"exact": {"kind": "exact", "after": "."}}, **keys}
    return parse_config(data, "tiny.yaml").stages["rl"].rewards


def kinds(parts):
    return [(name, type(part).__name__) for name, part in parts]


CLIP, DELTA, RUNNING = {"kind": "clip", "eta": 0.5}, {"kind": "delta"}, {"kind": "running_normalise"}


def test_from_the_first_part_with_a_memory_on_the_driver_does_it():
    rewards = rewards_of(shape=[CLIP, DELTA, RUNNING, CLIP])
    assert kinds(shapers_of(rewards)[0]) == [("clip", "Clip"), ("delta", "Delta")]
    assert kinds(shaping_of(rewards)) == [("running_normalise", "RunningNormalise"), ("clip_2", "Clip")]
    assert shaping_of(rewards_of(shape=[CLIP, DELTA])) == []
    late = rewards_of(shape=[CLIP], combine={"kind": "constrained", "points": {"exact": 0.5}})
    assert shapers_of(late)[0] == []
    assert kinds(shaping_of(late)) == [("combine", "Constrained"), ("clip", "Clip")]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"combine": {"kind": "hierarchicl", "right": "exact"}},
            "rewards.combine: unknown kind 'hierarchicl'; did you",
        ),
        ({"combine": {"kind": "hybrid", "right": "exat"}}, "rewards: combine.right: no source 'exat'; did you mean"),
        ({"combine": {"kind": "ensemble"}}, "rewards: combine.kind: ensemble of 1 source, expected two or more"),
        ({"combine": {"kind": "constrained", "points": {}}}, "rewards.combine.points"),
        ({"shape": [{"kind": "clop"}]}, "rewards.shape.0: unknown kind 'clop'; did you mean 'clip'?"),
        ({"shape": [{"kind": "clip", "eat": 1}]}, "rewards.shape.0: unknown key 'eat'; did you mean 'eta'?"),
        ({"shape": [{"kind": "overlong", "limit": 3, "buffer": 4}]}, "buffer: 4 with limit 3, expected at most limit"),
    ],
)
def test_bad_keys_are_refused_in_one_line(keys, message):
    with pytest.raises(Refused) as refused:
        rewards_of(**keys)
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_algorithms_that_take_each_source_by_itself_take_no_combination():
    for keys, message in (
        ({"combine": {"kind": "ensemble"}}, "rewards.combine: ensemble with algorithm gdpo"),
        ({"shape": [CLIP]}, "rewards.shape: with algorithm gdpo"),
    ):
        data = yaml.safe_load(TINY)
        data["rewards"]["sources"]["other"] = {"kind": "exact"}
        data["rewards"] |= keys
        data["stages"]["rl"]["algorithm"] = {"kind": "gdpo", "group_size": 4}
        with pytest.raises(Refused) as refused:
            parse_config(data, "tiny.yaml")
        assert message in str(refused.value)


def groups(make_group, *rewards):
    group: Group = make_group(["a"] * len(rewards))
    return [ScoredGroup(group, tuple(Verdict(r, {"exact": Score(r)}) for r in rewards))]


def test_a_memory_that_was_kept_goes_on_as_if_nothing_had_happened(make_group):
    rewards = rewards_of(shape=[RUNNING], combine={"kind": "constrained", "points": {"exact": 0.25}})
    steps = [groups(make_group, *row) for row in ([1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 1.0, 1.0])]
    whole_memory: dict[str, float] = {}
    whole = Shaping(shaping_of(rewards), whole_memory, 3)
    expected = [whole(i, step) for i, step in enumerate(steps)]
    memory: dict[str, float] = {"kl_coefficient": 0.5}
    Shaping(shaping_of(rewards), memory, 3)(0, steps[0])
    kept = dict(memory)
    resumed = Shaping(shaping_of(rewards), kept, 3)
    assert [resumed(i, steps[i]) for i in (1, 2)] == expected[1:]
    assert kept == {**whole_memory, "kl_coefficient": 0.5}
    assert set(whole_memory) > {"combine/l/exact", "running_normalise/seen"}


def test_what_shaping_did_is_logged(make_group):
    shaping = Shaping(shaping_of(rewards_of(shape=[RUNNING])), {}, 2)
    shaped, _ = shaping(0, groups(make_group, 1.0, 0.0))
    metrics = group_metrics(shaped)
    assert metrics["reward/shape/running_normalise"] == pytest.approx(-0.5)
    assert metrics["reward/shape_turned"] == 0
    assert [v.unshaped for v in shaped[0].verdicts] == [1.0, 0.0]
