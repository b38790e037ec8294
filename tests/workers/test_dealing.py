"""Shares of the same cost for all ranks; chunks whose logits fit into memory."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tiny import fresh

from pipeline.packing import plan
from workers.dealing import cost, deal
from workers.types import Credit, Sample, Signals


def test_cost_is_tokens_and_their_squares():
    assert cost([]) == 0
    assert cost([16_384]) == 2 * 16_384
    assert cost([3, 5]) == 3 + 5 + (9 + 25) / 16_384


def test_everything_is_dealt_once_and_evenly():
    rng = fresh()
    costs = rng.exponential(1, int(rng.integers(1, 200))).tolist()
    ranks = int(rng.integers(1, 9))
    hands = deal(costs, ranks)
    assert len(hands) == ranks and sorted(i for hand in hands for i in hand) == list(range(len(costs)))
    assert all(hand == sorted(hand) for hand in hands)
    loads = [sum(costs[i] for i in hand) for hand in hands]
    assert max(loads) - min(loads) <= max(costs) + 1e-9
    assert deal(costs, 1) == [list(range(len(costs)))]


@pytest.fixture(scope="module")
def gsm8k(data_dir):
    """Characters of each question and its solution, of 1,000 tasks: as ragged as tokens, and longer."""
    rows = [json.loads(line) for line in (data_dir / "gsm8k" / "train.jsonl").read_text().splitlines()[:1000]]
    return [len(row["question"]) + len(row["answer"]) for row in rows]


def credits_of(lengths):
    ones = np.ones(1, np.float32)
    for i, n in enumerate(lengths):
        yield Credit(Sample(i, 0, np.zeros(n, np.int32), np.arange(n) == n - 1, None), Signals(), ones, ones, 1.0)


def test_eight_ranks_have_as_much_to_do_on_gsm8k(gsm8k):
    rng = fresh()
    for step in range(20):
        lengths = rng.choice(gsm8k, 256, replace=False)
        (update,) = plan(list(credits_of(lengths)), 16_384, ranks=8).updates
        own = [np.concatenate([batch.lengths for batch in shard]).tolist() for shard in update.shards]
        for loads in ([sum(n) for n in own], [cost(n) for n in own]):
            assert max(loads) <= 1.05 * np.mean(loads), step
        assert sum(map(sum, own)) == lengths.sum()


def test_nothing_that_is_computed_is_padding(gsm8k):
    """Of the tokens that go through projections and MLPs; and micro-batches are full, the last of each rank aside."""
    (update,) = plan(list(credits_of(gsm8k)), 16_384, ranks=2).updates
    batches = [batch for shard in update.shards for batch in shard]
    assert sum(len(batch.ids) for batch in batches) == sum(gsm8k)
    assert all(int(batch.lengths.sum()) == len(batch.ids) <= 16_384 for batch in batches)
    for shard in update.shards:
        sizes = sorted(len(batch.ids) for batch in shard)
        assert sum(sizes[1:]) >= 0.98 * 16_384 * (len(sizes) - 1)
