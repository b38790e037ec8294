"""Attacks on a stage's judges: who is refused, when, and what is logged."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import ClassVar

import fakes
import pytest

from pipeline.attacks import Attacks
from rewards.attack import KEYS, Attack
from rewards.errors import Refused, RunFailed
from rewards.failures import abstained
from rewards.guards import hollow
from rewards.panel import Panel, Seat
from rewards.types import Score
from workers.types import Judged


@dataclass(frozen=True)
class Believes:
    """1.0 for the reference, and for everything that it falls for."""

    falls_for: tuple[str, ...] = ()
    on: tuple[str, ...] = ()  # the tasks' ids; none: all
    guarded: bool = False

    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)

    async def score(self, group, tools):
        return [self._one(rollout.text, group.task) for rollout in group.rollouts]

    def _one(self, text, task):
        if self.guarded and hollow(text):
            return Score(0.0)
        fooled = text in self.falls_for and (not self.on or task.id in self.on)
        return Score(float(fooled or text == task.reference))


@dataclass(frozen=True)
class Unbounded(Believes):
    """Knows no bounds, and abstains from what is empty."""

    bounds = None

    def _one(self, text, task):
        score = Believes._one(self, text, task)
        return replace(score, value=5 * score.value - 7) if text.strip() else abstained("empty")


@dataclass
class Judges:
    panel: Panel

    async def judge(self, groups):
        return Judged(tuple([await self.panel.judge(group, None) for group in groups]), 0.0)


def attacks(source, weight=1.0, tasks=4, **knobs):
    panel = Panel((Seat("judge", source, weight), Seat("strict", Believes())))
    return Attacks(Attack(**knobs), "rl", panel, Judges(panel), [fakes.task(i) for i in range(tasks)])


def found(attack, step=0):
    asyncio.run(attack.before(step))
    return attack._found


@pytest.mark.parametrize("kind", [Believes, Unbounded])
def test_a_judge_that_falls_for_one_key_is_refused(kind):
    with pytest.raises(Refused, match=r"stages.rl: .* 'judge' takes the answer 'Solution' for right on 100%"):
        found(attacks(kind(("Solution",))))
    assert found(attacks(kind(()))) == {"guard/judge/false_positives": 0.0, "guard/strict/false_positives": 0.0}


def test_the_rate_is_that_of_the_worst_key_over_the_tasks():
    source = Believes(("Solution", ":"), on=("t1",))
    assert found(attacks(source, allowed=0.25))["guard/judge/false_positives"] == 0.25
    with pytest.raises(Refused, match="on 25% of 4 tasks"):
        found(attacks(source, allowed=0.2))
    with pytest.raises(Refused, match="on 50% of 2 tasks"):
        found(attacks(source, allowed=0.2, tasks=2))


def test_a_guard_helps_against_the_keys_it_knows():
    assert found(attacks(Believes(KEYS[:10], guarded=True)))["guard/judge/false_positives"] == 0.0
    with pytest.raises(Refused, match="I will now work through"):
        found(attacks(Believes(KEYS, guarded=True)))


def test_a_source_that_only_watches_is_left_alone():
    assert found(attacks(Believes(KEYS), weight=0.0)) == {"guard/strict/false_positives": 0.0}


def test_attacks_come_when_they_are_due_and_again_after_a_resume():
    logged = []

    async def after(step, batch, metrics):
        logged.append((step, sorted(metrics)))
        return 0.0

    async def run(start):
        attack = attacks(Believes(), every=2)
        around = attack.around(after)
        await attack.before(start)
        for step in range(start, 5):
            await around(step, None, {"x": 1.0})

    asyncio.run(run(0))
    whole = list(logged)
    names = ["guard/judge/false_positives", "guard/strict/false_positives", "x"]
    assert whole == [(0, names), (1, ["x"]), (2, names), (3, ["x"]), (4, names)]
    for start in (1, 2):
        logged.clear()
        asyncio.run(run(start))
        assert logged == whole[start:]


def test_later_it_is_the_run_that_fails():
    with pytest.raises(RunFailed, match="takes the answer"):
        found(attacks(Believes(KEYS), every=3), step=3)
