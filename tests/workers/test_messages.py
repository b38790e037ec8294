"""What crosses between processes comes out as it went in."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.types import Failure, Group, Message, Rollout, Score, ScoredGroup, Task, Turn, Verdict
from workers.messages import Generated, Lot, Shelved

sizes = st.integers(0, 4)


@st.composite
def group(draw, id):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))

    def tokens(n):
        return rng.integers(0, 99, n).astype(np.int32)

    def turn(prompt):
        n = draw(sizes)
        offsets = np.arange(n, dtype=np.int32) if draw(st.booleans()) else None
        logprobs = rng.random(n).astype(np.float32)
        return Turn(prompt, tokens(n), logprobs, f"text {n}", "stop", ((0, 3), (2, 4)), offsets)

    shared = tokens(draw(sizes))
    rollouts = []
    for index in range(draw(sizes)):
        turns = [turn(shared)] if draw(st.booleans()) else []
        turns += [turn(tokens(draw(sizes))) for _ in range(draw(st.integers(0, 2)))]
        rollouts.append(Rollout(index, tuple(turns), None if turns else Failure("rollout", "error", "it broke")))
    return Group(id, Task(f"task-{id}", (Message("user", "1+1="),), "2"), tuple(rollouts))


def same(left, right):
    assert (left.id, left.task) == (right.id, right.task)
    for one, two in zip(left.rollouts, right.rollouts, strict=True):
        assert (one.index, one.failure) == (two.index, two.failure)
        for a, b in zip(one.turns, two.turns, strict=True):
            assert (a.text, a.stop, a.versions) == (b.text, b.stop, b.versions)
            for name in ("prompt_ids", "completion_ids", "logprobs"):
                x, y = getattr(a, name), getattr(b, name)
                assert x.dtype == y.dtype and x.tolist() == y.tolist()
            assert (a.offsets is None) == (b.offsets is None)
            assert a.offsets is None or (b.offsets.dtype, b.offsets.tolist()) == (np.int32, a.offsets.tolist())


@given(st.data(), st.integers(0, 3))
@settings(deadline=None, max_examples=60)
def test_groups_come_out_as_they_went_in(data, n):
    groups = tuple(data.draw(group(id)) for id in range(n))
    lot = pickle.loads(pickle.dumps(Lot(groups)))
    made = pickle.loads(pickle.dumps(Generated(groups, 1.5, "rollout-0")))
    assert (made.seconds, made.who) == (1.5, "rollout-0")
    scored = [
        ScoredGroup(g, tuple(Verdict(1.0, {"s": Score(0.5, np.ones(2))}) for _ in g.rollouts)) for g in lot.groups
    ]
    shelved = [Shelved.of(one) for one in scored]
    assert [[v.reward for v in one.opened().verdicts] for one in shelved] == [[1.0] * len(g.rollouts) for g in groups]
    for copy in (lot.groups, made.groups, [one.opened().group for one in shelved]):
        assert len(copy) == n
        for left, right in zip(groups, copy, strict=True):
            same(left, right)


@pytest.mark.parametrize("length", [1, 2000])
def test_arrays_travel_beside_the_pickle_and_are_not_copied(length):
    prompt = np.arange(5, dtype=np.int32)
    turns = [Turn(prompt, np.arange(length, dtype=np.int32), np.ones(length, np.float32), "", "stop", ((0, 0),))] * 8
    task = Task("t", (Message("user", "x"),))
    groups = tuple(Group(i, task, tuple(Rollout(k, (t,)) for k, t in enumerate(turns))) for i in range(4))
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(Lot(groups), 5, buffer_callback=buffers.append)
    assert len(buffers) == 2 and len(data) < 10_000
    copy = pickle.loads(data, buffers=buffers)
    assert all(
        np.shares_memory(turn.completion_ids, np.frombuffer(buffers[0], np.int32))
        for got in copy.groups
        for rollout in got.rollouts
        for turn in rollout.turns
    )


def test_a_received_group_on_the_shelf_keeps_no_copy_of_its_arrays():
    rng = np.random.default_rng(0)
    groups = []
    for i in range(3):
        prompt = rng.integers(0, 9, 4).astype(np.int32)
        turns = [Turn(prompt, prompt[:3].copy(), np.ones(3, np.float32), "abc", "stop", ((0, 0),)) for _ in range(2)]
        groups.append(Group(i, Task("t", ()), tuple(Rollout(k, (turn,)) for k, turn in enumerate(turns))))
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(Lot(tuple(groups)), 5, buffer_callback=buffers.append)
    received = pickle.loads(data, buffers=buffers).groups
    whole = [np.frombuffer(buffer, dtype) for buffer, dtype in zip(buffers, (np.int32, np.float32), strict=True)]
    for group in received:
        _, *arrays = Shelved.of(ScoredGroup(group, (Verdict(1.0, {}),) * 2)).group
        assert all(np.shares_memory(array, all_) for array, all_ in zip(arrays, whole, strict=True))
    apart = Shelved.of(ScoredGroup(groups[0], (Verdict(1.0, {}),) * 2)).group
    assert not any(np.shares_memory(array, all_) for array, all_ in zip(apart[1:], whole, strict=True))
