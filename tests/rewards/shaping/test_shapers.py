"""Every shaping step of whole rewards by hand, and what it promises whatever the answers are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.ports import StepOf
from rewards.repetition import repeated_grams
from rewards.shaping.budget import Budget, triangle
from rewards.shaping.chain import shape
from rewards.shaping.exploration import Exploration
from rewards.shaping.normalise import BatchNormalise, GroupNormalise, RunningNormalise
from rewards.shaping.overlong import Overlong
from rewards.shaping.pattern import PHRASES, Calibrate, Pattern
from rewards.shaping.repetition import Repetition
from rewards.types import Failure, Group, Rollout, ScoredGroup, Task, Turn, Verdict

SILENT = Failure("source:a", "timeout", "no answer")
REWARDS = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=8)


def scored(*answers):
    """(reward or None, text, stop): each character of the text is a token."""
    rollouts, verdicts = [], []
    for i, (reward, text, stop) in enumerate(answers):
        ids = np.array([ord(c) for c in text], np.int32)
        turn = Turn(ids[:0], ids, np.zeros(len(ids), np.float32), text, stop, ((0, 0),))
        rollouts.append(Rollout(i, (turn,)))
        verdicts.append(Verdict(reward, {}, failure=SILENT if reward is None else None))
    return ScoredGroup(Group(0, Task("t", ()), tuple(rollouts)), tuple(verdicts))


def plain(rewards):
    return scored(*((r, "x", "stop") for r in rewards))


def rewards(group):
    return [v.reward for v in group.verdicts]


def one(shaper, reward, text, stop="stop"):
    [found] = rewards(shape(scored((reward, text, stop)), {"s": shaper}))
    return found


def test_what_has_no_reward_is_left_alone_and_what_changed_is_told():
    group = shape(scored((1.0, "abab", "stop"), (None, "abab", "stop"), (0.0, "abcd", "stop")), {"loops": Repetition()})
    assert rewards(group) == [0.0, None, 0.0]
    assert [v.shaped for v in group.verdicts] == [{"loops": -1.0}, {}, {"loops": 0.0}]
    assert [v.unshaped for v in group.verdicts] == [1.0, None, 0.0]
    assert group.verdicts[1].failure == SILENT


def test_a_reward_that_is_no_number_any_more_is_a_failure_of_the_step():
    group = shape(scored((1e308, "abab", "stop")), {"loops": Repetition(1e308), "again": Repetition(1e308)})
    assert rewards(group) == [-1e308]
    [verdict] = shape(group, {"third": Repetition(1e308)}).verdicts
    assert str(verdict.failure) == "shape:third malformed: a reward of -inf after -1e+308"


def test_repetition():
    assert one(Repetition(0.5), 1.0, "xyzabcabcabc") == 1.0 - 0.5 * 0.75
    assert one(Repetition(), 1.0, "") == 1.0


def test_overlong():
    """limit 10, buffer 4: nothing up to 6 tokens, then a line to the whole penalty."""
    shaper = Overlong(10, 4, 2.0)
    found = [one(shaper, 1.0, "x" * n, "length") for n in (6, 7, 8, 10, 12)]
    assert found == [1.0, 0.5, 0.0, -1.0, -1.0]
    cut = Overlong(penalty=10.0)
    assert (one(cut, 1.0, "x", "stop"), one(cut, 1.0, "x", "length")) == (1.0, -9.0)
    with pytest.raises(ValueError, match="buffer: 5 with limit 4, expected at most limit"):
        Overlong(4, 5)


def test_exploration():
    assert one(Exploration(2.0), 1.0, "x" * 4) == 0.5
    assert one(Exploration(20.0), 1.0, "xx") == 0.0
    assert one(Exploration(20.0, most=5.0), 1.0, "") == -4.0


@given(st.integers(1, 200), st.integers(1, 200), st.floats(0.1, 100), st.floats(0.1, 0.9))
def test_thinking_longer_never_costs_and_never_turns_right_and_wrong_round(short, long, scale, most):
    low, high = sorted((short, long))
    shaper = Exploration(scale, most)
    assert one(shaper, 0.0, "x" * low) <= one(shaper, 0.0, "x" * high) <= 0
    assert one(shaper, 1.0, "x" * low) > one(shaper, 0.0, "x" * high)


def test_budget():
    budget = Budget(start=800, decay=0.2, least=1, weight=0.5)
    assert [budget.at(step, 100) for step in (0, 50, 100)] == [800, 357, 160]
    assert Budget(start=10, decay=0.01, least=3).at(100, 100) == 3
    assert [triangle(n, 4) for n in (0, 2, 4, 6, 8, 20)] == [0, 0.5, 1, 0.5, 0, 0]
    group = scored((1.0, "x" * 400, "stop"), (None, "", "stop"), (0.0, "x" * 800, "stop"))
    [out], metrics = budget.over_steps([group], {}, StepOf(0, 100))
    assert rewards(out) == [0.75, None, 0.5]
    assert metrics == {"reward/budget": 800.0}


@given(st.integers(0, 500), st.integers(1, 200), st.floats(0, 1))
def test_a_budget_moves_a_reward_between_0_and_1_only_within_them(tokens, budget, reward):
    assert 0 <= triangle(tokens, budget) <= 1
    shaper = Budget(start=budget, decay=1.0, weight=0.3)
    [out], _ = shaper.over_steps([scored((reward, "x" * tokens, "stop"))], {}, StepOf(3, 7))
    [found] = rewards(out)
    assert 0.7 * reward - 1e-9 <= found <= 0.7 * reward + 0.3 + 1e-9


def test_pattern():
    assert len(PHRASES) == len(set(PHRASES)) == 40
    text = "<think>Wait, we need to see. WAIT. Therefore</think> for example wait"
    assert Pattern().pattern(text) == 3 / 40
    assert Pattern(divisor=2.0).pattern(text) == 1.0
    assert Pattern().pattern("Hence, no tag: for example") == 2 / 40
    assert one(Pattern(weight=4.0), 1.0, text) == pytest.approx(1.3)
    looping = "<think>" + "hence " * 60
    assert repeated_grams(["hence"] * 60, 20) == 1 / 41
    assert Pattern(divisor=1.0).pattern(looping) == pytest.approx(1 - 1 / 41)


def test_calibrate():
    text = "<think>wait. therefore</think>"
    shaper = Calibrate(divisor=2.0, alpha=0.1)
    assert [one(shaper, r, text) for r in (0.0, 0.49, 0.5, 2.0)] == pytest.approx([0.1, 0.59, 0.5, 2.0])
    assert one(Calibrate(divisor=2.0, alpha=9.0), 0.4, text) == 1.0
    assert one(shaper, 0.2, "no reasoning") == 0.2


@given(st.floats(-2, 2), st.text(alphabet="waithence. ", max_size=80), st.floats(0, 5))
def test_calibration_takes_nothing_away(reward, text, alpha):
    found = one(Calibrate(alpha=alpha, divisor=3.0), reward, text)
    assert found >= reward
    assert found == reward or (reward < 0.5 and found <= max(1.0, reward))


@given(REWARDS)
def test_group_normalise_against_numpy(values):
    group = shape(plain(values), {"n": GroupNormalise()})
    values = np.array(values)
    np.testing.assert_allclose(rewards(group), (values - values.mean()) / (values.std() + 1e-6), rtol=1e-9, atol=1e-9)
    centred = rewards(shape(plain(values.tolist()), {"n": GroupNormalise(scale=False)}))
    np.testing.assert_allclose(centred, values - values.mean(), rtol=1e-9, atol=1e-9)


@given(st.lists(REWARDS, min_size=1, max_size=5))
def test_batch_normalise_against_numpy(table):
    out, _ = BatchNormalise().over_steps([*map(plain, table), scored((None, "", "stop"))], {}, StepOf(0, 1))
    flat = np.concatenate(table)
    found = [r for group in out for r in rewards(group) if r is not None]
    np.testing.assert_allclose(found, (flat - flat.mean()) / (flat.std() + 1e-6), rtol=1e-6, atol=1e-6)


@given(st.lists(REWARDS, min_size=1, max_size=6))
def test_running_normalise_is_over_all_that_came_so_far(steps):
    memory: dict[str, float] = {}
    for i, values in enumerate(steps):
        [out], _ = RunningNormalise().over_steps([plain(values)], memory, StepOf(i, len(steps)))
        flat = np.concatenate(steps[: i + 1])
        np.testing.assert_allclose(memory["mean"], flat.mean(), atol=1e-6, rtol=1e-9)
        np.testing.assert_allclose(memory["squares"] / memory["seen"], flat.var(), atol=1e-6, rtol=1e-6)
        wanted = (np.array(values) - memory["mean"]) / ((memory["squares"] / memory["seen"]) ** 0.5 + 1e-6)
        np.testing.assert_allclose(rewards(out), wanted)


def test_nothing_judged_moves_nothing():
    silent = scored((None, "", "stop"))
    for shaper in (BatchNormalise(), RunningNormalise()):
        memory: dict[str, float] = {}
        assert shaper.over_steps([silent], memory, StepOf(0, 1)) == ([silent], {})
        assert memory == {}
