"""Bins, micro-batches, plans, and the way back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import fresh, prompts

from pipeline.packing import fill, for_inference, plan, unpack
from rewards.errors import RunFailed
from workers.types import Credit, Needs, Plan, Sample, Signals


def credit(rng, number, ids, reward=1.0, signals=False):
    mask = np.arange(len(ids)) >= rng.integers(1, len(ids))
    logp = np.where(mask, rng.normal(size=len(ids)), 0).astype(np.float32)
    sample = Sample(number, 0, ids, mask, logp, reward)
    own = int(mask.sum())
    numbers = [rng.normal(size=own).astype(np.float32) for _ in range(4)]
    return Credit(sample, Signals(*numbers[:2]) if signals else Signals(), numbers[2], numbers[3], float(own))


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(50, 200))
def test_bins_hold_every_item_once_and_none_overflows(lengths, capacity):
    bins = fill(lengths, capacity)
    assert sorted(item for b in bins for item in b) == list(range(len(lengths)))
    loads = [sum(lengths[item] for item in b) for b in bins]
    assert all(0 < load <= capacity for load in loads)
    # No two of them could have been one: at most one bin is half empty.
    assert sum(load * 2 <= capacity for load in loads) <= 1


def test_a_bin_may_be_full_to_the_last_token():
    assert fill([4, 6, 5, 5], 10) == [[1, 0], [2, 3]]


def test_a_sample_that_fits_nowhere_says_what_would_do():
    with pytest.raises(
        RunFailed, match=r"a sample or bundle of 30 tokens does not fit learner.micro_batch_tokens=29; raise it to 30"
    ):
        fill([3, 30], 29)


def test_a_micro_batch_lays_its_samples_end_to_end():
    a = Sample(
        0, 0, np.array([5, 6, 7], np.int32), np.array([False, True, True]), np.array([0, -1, -2], np.float32), 1.0
    )
    b = Sample(0, 1, np.array([8, 9], np.int32), np.array([False, True]), np.array([0, -3], np.float32), 0.0)
    credits_ = [
        Credit(a, Signals(), np.array([0.5, 0.5], np.float32), np.array([1, 1], np.float32), 2.0),
        Credit(b, Signals(), np.array([-0.5], np.float32), np.array([2], np.float32), 1.0),
    ]
    (update,) = plan(credits_, 10).updates
    ((batch,),) = update.shards
    assert update.denominator == 3.0
    assert batch.ids.tolist() == [5, 6, 7, 8, 9]
    assert batch.position.tolist() == [0, 1, 2, 0, 1]
    assert batch.lengths.tolist() == [3, 2]
    assert batch.own.tolist() == [1, 2, 4]
    assert batch.owner.tolist() == [0, 0, 1]
    assert batch.logp_rollout.tolist() == batch.logp_old.tolist() == [-1, -2, -3]
    assert batch.logp_ref is None
    assert batch.advantage.tolist() == [0.5, 0.5, -0.5]
    assert batch.weight.tolist() == [1, 1, 2]
    assert {batch.ids.dtype, batch.position.dtype, batch.lengths.dtype, batch.own.dtype} == {np.dtype(np.int64)}
    assert {batch.logp_rollout.dtype, batch.advantage.dtype, batch.weight.dtype} == {np.dtype(np.float32)}


@pytest.mark.parametrize("signals", [False, True])
def test_every_token_keeps_its_numbers_through_any_packing(signals):
    rng = fresh()
    credits_ = [credit(rng, i, ids, signals=signals) for i, ids in enumerate(prompts(rng, 30, 2, 25, 10**6))]
    found = []
    (update,) = plan(credits_, int(rng.integers(25, 200))).updates
    for batch in update.shards[0]:
        ends = np.cumsum(batch.lengths)
        for i, (start, end) in enumerate(zip(ends - batch.lengths, ends, strict=True)):
            assert batch.position[start:end].tolist() == list(range(end - start))
            own = batch.owner == i
            places = batch.own[own] - start
            ref = batch.logp_ref[own].tolist() if signals else None
            numbers = (batch.logp_rollout, batch.logp_old, batch.advantage, batch.weight)
            row = [batch.ids[start:end].tolist(), places.tolist(), ref, *(x[own].tolist() for x in numbers)]
            found.append(str(row))
    expected = []
    for c in credits_:
        own = np.flatnonzero(c.sample.mask)
        rollout = c.sample.logp_rollout[own].tolist()
        old, ref = (c.signals.logp_old.tolist(), c.signals.logp_ref.tolist()) if signals else (rollout, None)
        row = [c.sample.ids.tolist(), own.tolist(), ref, rollout, old, c.advantage.tolist(), c.weight.tolist()]
        expected.append(str(row))
    assert sorted(found) == sorted(expected)
    assert update.denominator == sum(c.mass for c in credits_)


def test_updates_share_the_samples_in_their_order():
    rng = fresh()
    credits_ = [credit(rng, i, np.full(4, i, np.int32)) for i in range(10)]
    updates = plan(credits_, 100, 3).updates
    seen = [sorted(set(batch.ids.tolist())) for update in updates for batch in update.shards[0]]
    assert seen == [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert len(plan(credits_[:2], 100, 3).updates) == 2
    assert plan([], 100) == Plan(())


@given(
    st.lists(st.lists(st.integers(2, 20), min_size=1, max_size=4), min_size=1, max_size=25),
    st.integers(80, 200),
    st.integers(1, 4),
)
def test_a_bundle_is_never_split(groups, capacity, updates):
    """Over micro-batches nor over updates; the samples that are in none are packed as ever."""
    rng, credits_ = np.random.default_rng(0), []
    for number, lengths in enumerate(groups):
        for n in lengths:
            one = credit(rng, number, np.full(n, len(credits_), np.int32))
            credits_.append(replace(one, bundle=number, label=float(n)))
    made = plan(credits_, capacity, updates)
    homes: dict[int, list[int]] = {}
    for place, batch in enumerate(batch for update in made.updates for batch in update.shards[0]):
        assert batch.lengths.sum() <= capacity
        assert (batch.label == batch.lengths).all()
        for bundle in set(batch.bundle.tolist()):
            homes.setdefault(bundle, []).append(place)
            assert sorted(batch.lengths[batch.bundle == bundle].tolist()) == sorted(groups[bundle])
    assert {bundle: len(places) for bundle, places in homes.items()} == dict.fromkeys(range(len(groups)), 1)
    assert len(made.updates) == min(updates, len(groups))
    assert sum(update.denominator for update in made.updates) == pytest.approx(sum(c.mass for c in credits_))


def test_a_bundle_that_fits_nowhere_says_what_would_do():
    rng = fresh()
    pair = [replace(credit(rng, 0, np.arange(n, dtype=np.int32)), bundle=7, label=0.0) for n in (20, 11)]
    with pytest.raises(RunFailed, match=r"sample or bundle of 31 tokens .*micro_batch_tokens=30; raise it to 31"):
        plan(pair, 30)


def test_demonstrations_carry_no_log_probs_of_a_rollout():
    rng = fresh()
    one = credit(rng, 0, np.arange(5, dtype=np.int32), reward=None)
    one = replace(one, sample=replace(one.sample, logp_rollout=None))
    ((batch,),) = plan([one], 10).updates[0].shards
    assert batch.bundle is None and batch.label is None
    assert batch.logp_rollout is None and batch.logp_old is None


def test_answers_of_the_learner_come_back_to_their_samples():
    rng = fresh()
    samples = [credit(rng, i, ids).sample for i, ids in enumerate(prompts(rng, 20, 2, 20))]
    bins, batches = for_inference(samples, 50)
    assert all(batch.lengths.sum() <= 50 for batch in batches)
    for needs in (Needs(True, True), Needs(logp_ref=True), Needs(logp_old=True)):
        # An answer that says what it was asked about: the token, and its negative.
        answers = [
            {"logp_old": batch.ids[batch.own].astype(np.float32), "logp_ref": -batch.ids[batch.own].astype(np.float32)}
            for batch in batches
        ]
        for sample, signal in zip(samples, unpack(samples, bins, answers, needs), strict=True):
            own = sample.ids[sample.mask].astype(np.float32)
            assert (signal.logp_old is None) == (not needs.logp_old)
            assert (signal.logp_ref is None) == (not needs.logp_ref)
            assert signal.logp_old is None or (signal.logp_old == own).all()
            assert signal.logp_ref is None or (signal.logp_ref == -own).all()
