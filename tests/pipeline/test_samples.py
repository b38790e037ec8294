"""From judged groups to samples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.samples import to_samples
from rewards.errors import RunFailed
from rewards.types import Failure, Group, Message, Rollout, Score, ScoredGroup, Task, Turn, Verdict

TASK = Task("t", (Message("user", "?"),))
SILENT = Failure("source:math", "timeout", "no answer")


def turn(prompt, completion, version=0):
    logprobs = -np.array(completion, np.float32) / 10
    return Turn(np.array(prompt, np.int32), np.array(completion, np.int32), logprobs, "", "stop", ((0, version),))


def scored(id, rollouts, verdicts):
    return ScoredGroup(Group(id, TASK, tuple(rollouts)), tuple(verdicts))


def test_a_rollout_of_one_turn():
    steps = np.array([0.5, 1.0], np.float32)
    group = scored(4, [Rollout(2, (turn([5, 6], [7, 8, 9], 3),))], [Verdict(0.25, {}, steps)])
    (sample,) = to_samples([group])
    assert (sample.group, sample.index, sample.reward, sample.version) == (4, 2, 0.25, 3)
    assert sample.ids.tolist() == [5, 6, 7, 8, 9] and sample.ids.dtype == np.int32
    assert sample.mask.tolist() == [False, False, True, True, True]
    np.testing.assert_array_equal(sample.logp_rollout, np.array([0, 0, -0.7, -0.8, -0.9], np.float32))
    assert sample.logp_rollout.dtype == np.float32
    assert sample.steps is steps


def test_steps_end_in_the_tokens_that_hold_their_last_characters():
    """ "a, bc." is the tokens "a", ", ", "bc", ".": steps end behind the comma, behind the b, and at the end."""
    offsets = np.array([1, 3, 5, 6], np.int32)
    turns = [turn([1, 2], [3, 4]), replace(turn([1, 2, 3, 4, 50], [5, 6, 7, 8]), offsets=offsets)]
    ends = np.array([2, 4, 6], np.int32)
    verdict = Verdict(1.0, {}, np.zeros(3, np.float32), ends=ends)
    (sample,) = to_samples([scored(0, [Rollout(0, tuple(turns))], [verdict])])
    assert sample.step_ends is not None and sample.step_ends.dtype == np.int32
    assert sample.step_ends.tolist() == [2 + 1, 2 + 2, 2 + 3]
    with pytest.raises(RunFailed, match="never said that it judges steps"):
        to_samples([scored(0, [Rollout(0, (turn([1], [2]),))], [verdict])])


def test_turns_are_one_sequence_in_which_only_what_the_policy_wrote_is_its_own():
    turns = (turn([1, 2], [3, 4], 7), turn([1, 2, 3, 4, 50, 51, 52], [5], 6), turn([1, 2, 3, 4, 50, 51, 52, 5], [6], 8))
    (sample,) = to_samples([scored(0, [Rollout(0, turns)], [Verdict(1.0, {})])])
    assert sample.ids.tolist() == [1, 2, 3, 4, 50, 51, 52, 5, 6]
    assert sample.ids[sample.mask].tolist() == [3, 4, 5, 6]
    np.testing.assert_allclose(sample.logp_rollout[sample.mask], [-0.3, -0.4, -0.5, -0.6])
    assert not sample.logp_rollout[~sample.mask].any()
    assert sample.version == 6


def test_no_reward_no_sample():
    rollouts = [Rollout(i, (turn([1], [i + 2]),)) for i in range(3)] + [Rollout(3, (), SILENT)]
    verdicts = [
        Verdict(0.0, {}),
        Verdict(None, {}, failure=SILENT),
        Verdict(1.0, {}),
        Verdict(None, {}, failure=SILENT),
    ]
    samples = to_samples([scored(1, rollouts, verdicts), scored(0, rollouts[:1], verdicts[:1])])
    assert [(s.group, s.index, s.reward) for s in samples] == [(1, 0, 0.0), (1, 2, 1.0), (0, 0, 0.0)]


def test_scores_come_along():
    scores = {"exact": Score(1.0, weight=2.0), "style": Score(0.5, weight=0.0)}
    (sample,) = to_samples([scored(0, [Rollout(0, (turn([1], [2]),))], [Verdict(2.0, scores)])])
    assert sample.scores == scores


@pytest.mark.parametrize("reward", [float("nan"), float("inf")])
def test_a_reward_that_is_no_number_ends_the_run_with_who_gave_it(reward):
    verdicts = [Verdict(1.0, {}), Verdict(reward, {"exact": Score(1e308, weight=1e9), "style": Score(0.5)})]
    with pytest.raises(RunFailed) as failed:
        to_samples([scored(3, [Rollout(i, (turn([1], [2]),)) for i in range(2)], verdicts)])
    line = "task 't', rollout 1: reward {}, expected a finite number; from exact 1e+308 x 1e+09, style 0.5 x 1"
    assert str(failed.value) == line.format(reward)
