"""The gold source: asked about a slice, the same one however a run is cut, and without a say in the reward."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import numpy as np
import pytest
from faulty import Constant, Scripted

from rewards.gold import Gold
from rewards.panel import Panel, Seat

TOOLS: Any = None
SEAT = Seat("gold", Scripted())


def judge(group, gold=None, seed=0, **seat):
    return asyncio.run(Panel((Seat("a", Constant(2.0), **seat),), gold=gold, seed=seed).judge(group, TOOLS)).verdicts


@pytest.mark.parametrize("share", [0.05, 0.1, 0.25, 0.6, 1.0])
def test_the_share_is_kept_and_spread_over_the_groups(share):
    gold, size, groups = Gold(SEAT, share), 8, 2000
    counts = np.array([len(gold.chosen(3, group, size)) for group in range(groups)])
    assert counts.max() - counts.min() <= 1, "no group has two more than another"
    assert abs(counts.mean() - share * size) < 5 * 0.5 / np.sqrt(groups)
    places = np.concatenate([gold.chosen(3, group, size) for group in range(groups)])
    by_place = np.bincount(places.astype(int), minlength=size) / groups
    assert np.abs(by_place - share).max() < 5 * 0.5 / np.sqrt(groups), "no place of a group is preferred"


def test_the_slice_follows_from_run_and_visit_alone():
    gold = Gold(SEAT, 0.3)
    first = [gold.chosen(1, group, 8) for group in range(50)]
    assert [gold.chosen(1, group, 8) for group in range(50)] == first
    assert [gold.chosen(2, group, 8) for group in range(50)] != first


def test_gold_stands_beside_the_reward_and_changes_nothing(make_group):
    group = make_group(["1", "0", "abstain", None, "raise", "0.5"])
    without, with_gold = judge(group), judge(group, Gold(SEAT))
    assert [v.reward for v in with_gold] == [v.reward for v in without]
    assert [v.failure for v in with_gold] == [v.failure for v in without]
    assert [v.scores.keys() for v in with_gold] == [v.scores.keys() for v in without]
    assert {v.gold for v in without} == {None}
    # one that raises fails all that it was asked about together
    assert {str(v.gold.failure).partition(":")[0] for v in with_gold if v.gold} == {
        "source",
    }
    assert pickle.loads(pickle.dumps(with_gold)) == with_gold


def test_only_the_slice_is_asked_about(make_group, tmp_path):
    log = tmp_path / "asked"
    gold = Gold(Seat("gold", Scripted(str(log))), 0.5)
    verdicts = judge(make_group(["0", "1", "2", "3"]), gold, seed=4)
    chosen = gold.chosen(4, 0, 4)
    assert {i: v.gold.value for i, v in enumerate(verdicts) if v.gold} == {i: float(i) for i in chosen}
    assert log.read_text().split() == [str(i) for i in chosen]
    assert len(chosen) == 2


def test_a_dropped_group_and_a_failed_gold_do_not_touch_each_other(make_group):
    bad = Gold(Seat("gold", Scripted()))
    verdicts = judge(make_group(["abstain", "abstain"]), bad, on_failure="drop_group")
    assert [v.reward for v in verdicts] == [2.0, 2.0]
    assert [v.gold.failure.kind for v in verdicts if v.gold and v.gold.failure] == ["abstained", "abstained"]
