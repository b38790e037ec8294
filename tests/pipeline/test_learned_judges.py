"""A reward model that an earlier stage learns is a later stage's judge."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from tiny_run import TINY, assay, metric_rows, write_config

from pipeline.assemble import panel_of
from pipeline.config import parse_config
from pipeline.learned_judges import learned_here, located, present
from rewards.errors import Refused

TAUGHT = TINY.replace(
    "  before: {kind: evaluate}\n",
    """  preferred:
    {kind: reward_model, algorithm: {kind: bradley_terry}, steps: 3, groups_per_step: 8,
     data: {kind: arithmetic, digits: 1, train: 60, held_out: 20, pairs: true}}
""",
).replace(
    "algorithm: {kind: grpo, group_size: 4, kl_coefficient: 0.01}",
    """algorithm: {kind: grpo, group_size: 4},
       rewards: {sources: {proxy: {kind: scalar, model: {path: preferred}},
                           exact: {kind: exact, after: ".", weight: 0}}}""",
)


def config(text=TAUGHT):
    return parse_config(yaml.safe_load(text.replace("e-3", "e-03")), "tiny.yaml")


def test_its_path_is_where_the_stage_puts_it():
    found = config()
    rewards = found.stages["rl"].rewards
    assert learned_here(found, rewards) == ["preferred"]
    assert learned_here(found, found.stages["after"].rewards) == []
    assert [seat.name for seat in present(panel_of(rewards), found).seats] == ["exact"]
    panel = located(panel_of(rewards), found, Path("/runs/x"))
    assert panel.seats[0].source.model.path == "/runs/x/stages/preferred"
    assert panel.seats[1] == panel_of(rewards).seats[1]


def test_another_directory_stays_what_it_is():
    found = config(TAUGHT.replace("{path: preferred}", "{path: models/other}"))
    panel = panel_of(found.stages["rl"].rewards)
    assert located(panel, found, Path("/runs/x")) == panel


def test_a_judge_that_is_not_learned_before_is_refused():
    with pytest.raises(
        Refused, match=r"stages.rl.rewards.sources.proxy.model.path: stage 'after' makes no reward model"
    ):
        config(TAUGHT.replace("{path: preferred}", "{path: after}"))


def test_gold_may_be_learned_too():
    text = TAUGHT.replace("sources: {proxy: {kind: scalar, model: {path: preferred}},", "sources: {")
    text = text.replace('exact: {kind: exact, after: ".", weight: 0}}', 'exact: {kind: exact, after: "."}}, gold: GOLD')
    text = text.replace("GOLD", "{kind: scalar, model: {path: preferred}}")
    found = config(text)
    rewards = found.stages["rl"].rewards
    assert learned_here(found, rewards) == ["preferred"]
    assert present(panel_of(rewards), found).gold is None
    gold = located(panel_of(rewards), found, Path("/runs/x")).gold
    assert gold and gold.seat.source.model.path == "/runs/x/stages/preferred"
    with pytest.raises(Refused, match=r"stages.rl.rewards.gold.model.path: stage 'after' makes no reward model"):
        config(text.replace("{path: preferred}", "{path: after}"))


@pytest.mark.slow
def test_a_run_learns_its_judge_and_is_judged_by_it(tmp_path):
    done = assay("run", write_config(tmp_path, TAUGHT), "--run-dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    rows = [row["metrics"] for row in metric_rows(tmp_path / "run") if row["stage"] == "rl"]
    assert len(rows) == 7
    assert all(row["reward/failed"] == 0 for row in rows)
    assert all(row["reward/mean"] == pytest.approx(row["reward/source/proxy/mean"]) for row in rows)
    assert len({row["reward/source/proxy/mean"] for row in rows}) > 1
