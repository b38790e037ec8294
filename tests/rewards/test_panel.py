"""The panel: hand-computed verdicts for every policy, and order does not matter."""

from __future__ import annotations

import asyncio
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from faulty import Constant, Returns, Scripted
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.errors import RunFailed
from rewards.panel import Panel, Seat
from rewards.types import Group, Message, Rollout, Task, Turn

TOOLS: Any = None  # none of the sources here uses its tools


def judge(group, *seats):
    return asyncio.run(Panel(seats).judge(group, TOOLS)).verdicts


def rewards(verdicts):
    return [v.reward for v in verdicts]


def test_reward_is_the_weighted_sum(make_group):
    verdicts = judge(make_group(["1", "-2"]), Seat("a", Scripted(), 0.5), Seat("b", Constant(3.0), 2.0))
    assert rewards(verdicts) == [0.5 * 1 + 2 * 3, 0.5 * -2 + 2 * 3]
    assert [v.scores["a"].value for v in verdicts] == [1, -2]
    assert [v.scores["b"].value for v in verdicts] == [3, 3]
    assert all(v.reward == sum(s.weight * s.value for s in v.scores.values()) for v in verdicts)
    assert pickle.loads(pickle.dumps(verdicts[0])) == verdicts[0], "weights travel"


def test_mask_takes_the_failed_rollout_out_and_no_other(make_group):
    verdicts = judge(make_group(["1", "abstain", "0"]), Seat("a", Scripted()), Seat("b", Constant(1.0)))
    assert rewards(verdicts) == [2, None, 1]
    assert str(verdicts[1].failure) == "source:a abstained: don't know"
    assert verdicts[1].scores["b"].value == 1


def test_drop_group_takes_all(make_group):
    verdicts = judge(make_group(["1", "abstain", "0"]), Seat("a", Scripted(), on_failure="drop_group"))
    assert rewards(verdicts) == [None, None, None]
    assert {str(v.failure) for v in verdicts} == {"source:a abstained: don't know"}
    assert [v.scores["a"].value for v in verdicts] == [1, None, 0]


def test_a_failed_rollout_does_not_drop_its_group(make_group):
    verdicts = judge(make_group(["1", None]), Seat("a", Scripted(), on_failure="drop_group"))
    assert rewards(verdicts) == [1, None]
    assert str(verdicts[1].failure) == "rollout died: the engine went away"


def test_substitute_stands_in_and_says_so(make_group):
    seat = Seat("a", Scripted(), 2.0, on_failure="substitute", substitute=-0.5)
    verdicts = judge(make_group(["1", "abstain", None]), seat)
    assert rewards(verdicts) == [2, -1, None]
    assert verdicts[1].scores["a"].explanation == "substituted -0.5 (source:a abstained: don't know)"


def test_abort_ends_the_run_with_the_source_named(make_group):
    with pytest.raises(RunFailed, match=r"'a' failed and its policy is abort: source:a abstained: don't know"):
        judge(make_group(["1", "abstain"]), Seat("a", Scripted(), on_failure="abort"))
    assert rewards(judge(make_group(["1", None]), Seat("a", Scripted(), on_failure="abort"))) == [1, None]


@pytest.mark.parametrize("policy", ["mask", "drop_group"])
def test_a_watcher_takes_no_reward_away(make_group, policy):
    watcher = Seat("gold", Scripted(), 0.0, on_failure=policy)
    verdicts = judge(make_group(["abstain", "5"]), watcher, Seat("b", Constant(1.0)))
    assert rewards(verdicts) == [1, 1]
    assert verdicts[0].scores["gold"].failure and verdicts[1].scores["gold"].value == 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("raise", "source:a error: KeyError: 'no such thing\\nand a second line'"),
        ("child", "source:a died: status 9"),
        ("own timeout", "source:a timeout: the other side hung up"),
        ("sleep", "source:a timeout: no answer in 0.1 s"),
        ("nan", "source:a error: ValueError: a score must be finite, not nan"),
    ],
)
def test_what_a_source_does_wrong_becomes_a_failure(make_group, text, expected):
    [verdict] = judge(make_group([text]), Seat("a", Scripted(), timeout_s=0.1))
    assert verdict.reward is None
    assert str(verdict.failure) == expected


@pytest.mark.parametrize(
    ("what", "detail"),
    [
        ("none", "expected a sequence of Score, not NoneType"),
        ("numbers", "expected a sequence of Score, not list"),
        ("text", "expected a sequence of Score, not str"),
        ("short", "1 scores for 2 rollouts"),
    ],
)
def test_what_is_no_list_of_scores_is_malformed(make_group, what, detail):
    verdicts = judge(make_group(["1", "2"]), Seat("a", Returns(what)))
    assert [str(v.failure) for v in verdicts] == [f"source:a malformed: {detail}"] * 2


def test_retries_ask_only_about_what_is_missing(make_group, tmp_path):
    log = tmp_path / "asked"
    group = make_group(["1", "late:2:0.5", None])
    log.touch()
    assert rewards(judge(group, Seat("a", Scripted(str(log)), retries=1))) == [1, None, None]
    assert log.read_text().splitlines() == ["1", "late:2:0.5", "late:2:0.5"]
    log.write_text("")
    assert rewards(judge(group, Seat("a", Scripted(str(log)), retries=2))) == [1, 0.5, None]
    assert log.read_text().splitlines() == ["1"] + ["late:2:0.5"] * 3


def test_step_rewards_add_up_with_their_weights(make_group):
    group = make_group(["steps:1:2:3"])
    [verdict] = judge(group, Seat("a", Scripted(), 0.5), Seat("b", Scripted()), Seat("c", Constant()))
    assert verdict.steps is not None
    np.testing.assert_array_equal(verdict.steps, [1.5, 3.0, 4.5])
    [verdict] = judge(make_group(["steps:1:nan"]), Seat("a", Scripted()))
    assert str(verdict.failure) == "source:a malformed: a step reward is not finite"


def test_steps_that_end_elsewhere_do_not_add_up(make_group):
    class Shorter(Scripted):
        async def score(self, group, tools):
            scores = await super().score(group, tools)
            return [replace(s, steps=s.steps[1:], ends=s.ends[1:]) for s in scores if s.steps is not None]

    [verdict] = judge(make_group(["steps:1:2:3"]), Seat("a", Scripted()), Seat("b", Shorter()))
    assert str(verdict.failure) == "source:b malformed: 2 steps, which end elsewhere than the 3 of another source"


TEXTS = st.lists(st.sampled_from(["1", "-2.5", "0", "abstain"]), min_size=1, max_size=6)
POLICY = st.sampled_from(["mask", "drop_group", "substitute"])


@given(TEXTS, POLICY, POLICY, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_order_of_rollouts_and_seats_does_not_matter(texts, first, second, random):
    none = np.zeros(0, np.int32)
    turns = [Turn(none, none, np.zeros(0, np.float32), text, "stop", ((0, 0),)) for text in texts]
    group = Group(0, Task("t", (Message("user", "?"),)), tuple(Rollout(i, (t,)) for i, t in enumerate(turns)))
    seats = (
        Seat("a", Scripted(), 0.5, on_failure=first, substitute=7.0),
        Seat("b", Constant(1.0), 2.0, on_failure=second),
        Seat("c", Scripted(), 0.0),
    )
    order = random.sample(range(len(texts)), len(texts))
    shuffled = replace(group, rollouts=tuple(group.rollouts[i] for i in order))
    plain, mixed = judge(group, *seats), judge(shuffled, *seats[::-1])
    assert [plain[i].reward for i in order] == rewards(mixed)
