"""Rollouts that came to nothing: never judged, never learned from, counted as what they are; from panel to summary."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field, replace

import pytest
from fakes import FakeLearner, FakeRollouts, FakeTransport, group, task
from faulty import Constant

from pipeline.algorithms import Grpo
from pipeline.assemble import sampling_of
from pipeline.buffer import Buffer
from pipeline.config import parse_config
from pipeline.evaluate import evaluate
from pipeline.failures import FailureBudget
from pipeline.feeds import OnlineFeed
from pipeline.loop import Training, train
from pipeline.metrics import group_metrics
from pipeline.producer import Producer
from pipeline.rundir import sample_rows
from pipeline.samples import to_samples
from rewards.errors import Refused, RunFailed
from rewards.panel import Panel, Seat
from rewards.types import Failure, Rollout, Score, ScoredGroup, Verdict
from workers.judging.toolbox import ProcessToolbox
from workers.messages import Generated
from workers.types import Judged, Request, Sampling

LONG = Failure("rollout", "long_prompt", "a prompt of 700 tokens, rollout.max_prompt_tokens allows 512")


def dropped(request):
    return replace(group(request), rollouts=tuple(Rollout(i, (), LONG) for i in range(request.n)))


@dataclass
class DroppingRollouts(FakeRollouts):
    """The prompts of these groups are too long."""

    long: frozenset[int] = frozenset()

    async def run(self, wave):
        lost = tuple(dropped(request) for request in wave if request.group_id in self.long)
        if lost:
            yield Generated(lost, 0.0, "rollout-0")
        async for generated in super().run([request for request in wave if request.group_id not in self.long]):
            yield generated


@dataclass
class PanelJudges:
    """A real panel; `asked` are the rollouts its source has seen."""

    asked: list[Rollout] = field(default_factory=list)

    async def score(self, asked, tools):
        self.asked += asked.rollouts
        return [Score(float(rollout.index)) for rollout in asked.rollouts]

    async def judge(self, groups):
        panel, tools = Panel((Seat("s", self), Seat("watches", Constant(), 0.0))), ProcessToolbox(1)
        return Judged(tuple([await panel.judge(one, tools) for one in groups]), 0.0)


def rl(long, steps=3, wave=2, budget=1.0):
    rollouts, judges, learner = DroppingRollouts(long=frozenset(long)), PanelJudges(), FakeLearner()
    buffer = Buffer(wave)
    producer = Producer(buffer, rollouts, judges, task, Sampling(4), 2, wave, end=steps * wave)
    feed = OnlineFeed(buffer, producer, wave, FailureBudget(budget, 4))
    seen = []

    async def after(step, batch, metrics):
        seen.append((batch, metrics))
        return 0.0

    async def go():
        feed.start()
        try:
            transport = FakeTransport(learner, rollouts)
            await asyncio.wait_for(train(Training(Grpo(group_size=2), feed, learner, transport, 100, steps, after)), 20)
        finally:
            await feed.stop()

    asyncio.run(go())
    return seen, judges, learner


def test_they_are_counted_and_nothing_is_learned_from_them():
    seen, judges, learner = rl(long=(1, 2, 3))  # one of the first step, all of the second
    assert not any(rollout.failure for rollout in judges.asked) and len(judges.asked) == 6
    assert [{sample.group for sample in batch.samples} for batch, _ in seen] == [{0}, set(), {4, 5}]
    first, second, third = (metrics for _, metrics in seen)
    for name in ("rollout/failed", "reward/failed"):
        assert [first[name], second[name], third[name]] == [0.5, 1.0, 0.0]
    assert first["reward/mean"] == 0.5  # of 0 and 1: no zeros for the two that are missing
    assert first["reward/source/s/failed"] == 0.0 and first["reward/source/watches/mean"] == 1.0
    assert not [name for name in second if name.startswith("reward/source/") or name == "reward/mean"]
    assert [len(plan.updates) for plan in learner.plans] == [1, 0, 1]


def test_too_many_of_them_end_the_run_with_the_reason():
    with pytest.raises(
        RunFailed, match=r"4 of the last 4 rollouts could not be judged.*rollout long_prompt: a prompt of"
    ):
        rl(long=range(2, 6), budget=0.5)


def test_an_evaluation_is_of_what_was_judged():
    rollouts, tasks = DroppingRollouts(long=frozenset({0, 3})), [task(i) for i in range(5)]
    found = asyncio.run(evaluate(tasks, rollouts, PanelJudges(), Sampling(4), 2, 1.0, lambda done: None))
    assert (found.accuracy, found.n, found.failed) == (0.5, 6, 4)
    assert found.metrics()["rollout/failed"] == pytest.approx(0.4)


def test_they_can_be_read():
    scored = asyncio.run(PanelJudges().judge([dropped(Request(7, task(7), 2, Sampling(4)))])).groups
    assert not to_samples(scored)
    row, _ = sample_rows("rl", 0, scored, 4)
    assert (row["task"], row["completion"], row["reward"], row["failure"]) == ("t7", "", None, str(LONG))


def test_a_group_whose_judge_died_has_no_scores_and_takes_none_from_others():
    died = Failure("judge", "died", "judge-0 died")
    lost, good = (group(Request(i, task(i), 1, Sampling(4))) for i in range(2))
    judged = [
        ScoredGroup(lost, (Verdict(None, {}, failure=died),)),
        ScoredGroup(good, (Verdict(1.0, {"s": Score(1.0)}),)),
    ]
    for order in (judged, judged[::-1]):
        metrics = group_metrics(order)
        assert (metrics["reward/failed"], metrics["rollout/failed"], metrics["reward/source/s/mean"]) == (0.5, 0.0, 1.0)


CONFIG = {
    "model": {"path": "somewhere"},
    "data": {"kind": "arithmetic"},
    "rewards": {"sources": {"exact": {"kind": "exact"}}},
    "stages": {
        "rl": {"kind": "rl", "steps": 1, "groups_per_step": 1, "algorithm": {"kind": "grpo"}},
        "eval": {"kind": "evaluate", "rollout": {"long_prompts": "refuse"}},
    },
}


def test_the_config_says_what_is_too_long_and_what_then():
    config = parse_config({**CONFIG, "rollout": {"max_prompt_tokens": 512}}, "x.yaml")
    asked = {name: sampling_of(config, name, stage.rollout) for name, stage in config.stages.items()}
    assert {s.max_prompt_tokens for s in asked.values()} == {512}
    assert (asked["rl"].long_prompts, asked["eval"].long_prompts) == ("drop", "refuse")
    free = parse_config(CONFIG, "x.yaml")
    assert sampling_of(free, "rl", free.stages["rl"].rollout).max_prompt_tokens is None
    with pytest.raises(Refused, match=re.escape("x.yaml: rollout.long_prompts: ")):
        parse_config({**CONFIG, "rollout": {"long_prompts": "cut"}}, "x.yaml")
