"""Noise in a run: what is refused, what evaluations see, and that the realised rates are told."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import yaml
from faulty import Scripted
from metric_docs import documented
from tiny_run import TINY

from pipeline.config import parse_config
from pipeline.noise import noise_metrics
from pipeline.panels import judging_seed, noise_of, panel_of
from rewards.errors import Refused
from rewards.noise import Dropout, Flip
from rewards.panel import Panel, Seat

TOOLS: Any = None


def config(noise, **rewards):
    data = yaml.safe_load(TINY)
    data["rewards"] |= {"noise": noise, **rewards}
    return parse_config(data, "tiny.yaml")


@pytest.mark.parametrize(
    ("noise", "said"),
    [
        ({"kind": "flip", "rate": 1.5}, "rewards.noise.rate: expected a number of at most 1, found 1.5"),
        ({"kind": "flip", "rate": -0.1}, "rewards.noise.rate: expected a number of at least 0, found -0.1"),
        (
            {"kind": "flip", "false_positive": 2},
            "rewards.noise.false_positive: expected a number of at most 1, found 2",
        ),
        ({"kind": "flip", "false_negative": -1}, "rewards.noise.false_negative: expected a number of at least 0"),
        ({"kind": "dropout", "rate": 1.2}, "rewards.noise.rate: expected a number of at most 1, found 1.2"),
        ({"kind": "random", "share": -0.5}, "rewards.noise.share: expected a number of at least 0, found -0.5"),
        ({"kind": "flip"}, "rewards.noise: neither of `rate` and `false_positive`/`false_negative` given"),
        ({"kind": "flop", "rate": 0.1}, "rewards.noise: unknown kind 'flop'; did you mean 'flip'?"),
        ({"kind": "flip", "rate": 0.1, "scope": "group"}, "rewards.noise.scope: found 'group'"),
        ({"kind": "gaussian", "std": 0}, "rewards.noise.std: expected a number above 0, found 0"),
        (
            {"kind": "flip", "rate": 0.1, "sources": ["exakt"]},
            "noise.sources: no source 'exakt'; did you mean 'exact'?",
        ),
    ],
)
def test_bad_noise_is_refused_in_one_line(noise, said):
    with pytest.raises(Refused) as refused:
        config(noise)
    assert said in str(refused.value)


def test_a_flip_of_values_without_bounds_is_refused_with_the_alternative():
    rewards = config({"kind": "flip", "rate": 0.1}, sources={"mine": {"kind": "faulty:letters"}}).stages["rl"].rewards
    with pytest.raises(
        Refused, match=r"rewards\.noise: .* source 'mine' names none; give `low` and `high`, or kind: g"
    ):
        noise_of(rewards, panel_of(rewards).seats)


def test_only_stages_that_learn_are_disturbed():
    made = config({"kind": "flip", "rate": 0.1})
    seeds = {name: judging_seed(made, name) for name in made.stages}
    assert [name for name, seed in seeds.items() if seed is not None] == ["rl"]
    assert panel_of(made.stages["rl"].rewards, seeds["rl"]).noise == Flip(rate=0.1)
    assert panel_of(made.stages["after"].rewards, seeds["after"]).noise is None
    assert judging_seed(config(None), "rl") is None


def test_the_metrics_are_what_was_counted_by_hand(make_group):
    seats = Seat("a", Scripted()), Seat("b", Scripted(), 0.0)
    panel = Panel(seats, Flip(false_positive=1.0, low=0, high=1))
    texts = [["0", "0"], ["1", "0"], ["1", "abstain"]]
    groups = [asyncio.run(panel.judge(make_group(row, id=i), TOOLS)) for i, row in enumerate(texts)]
    found = noise_metrics(panel, groups)
    assert found == {
        "reward/clean/mean": 2 / 5,
        "reward/clean/groups_without_signal": 2 / 3,
        "reward/noise/a/changed": 3 / 5,
        "reward/noise/a/error": pytest.approx(np.sqrt(3 / 5)),
        "reward/noise/a/false_positive": 1.0,
        "reward/noise/a/false_negative": 0.0,
    }
    assert all(documented(name) for name in found)
    assert noise_metrics(replace(panel, noise=None), groups) == {}
    gone = replace(panel, noise=Dropout(rate=1.0))
    all_gone = noise_metrics(gone, [asyncio.run(gone.judge(make_group(["1", "0"]), TOOLS))])
    assert all_gone["reward/noise/a/changed"] == 1.0
    assert "reward/noise/a/error" not in all_gone
