"""Two reward models that review each other's pairs: who is left out, and what is learned, by hand in float64."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline.algorithms import Collaborative
from pipeline.algorithms.collaborative import CollaborativeLoss, Paced, owner
from workers.types import Sample, Signals


def sample(group, index, reward, prompt):
    ids = np.array([*prompt, 7, 8], np.int32)
    return Sample(group, index, ids, np.arange(len(ids)) >= len(prompt), None, reward)


def prompt_of(which, taken):
    """A prompt that belongs to the first or the second of the two."""
    return next(p for n in range(1000) if owner(sample(0, 0, 1.0, p := (n, 3))) == which and p not in taken)


def step_of(rows):
    """Groups of two, better first: (whose, the reviewer's numbers); the owner's own numbers say nothing here."""
    samples, signals, taken = [], [], []
    for group, (whose, numbers) in enumerate(rows):
        taken.append(prompt_of(whose, taken))
        for index, number in enumerate(numbers):
            samples.append(sample(group, index, 1.0 - index, taken[-1]))
            value = np.full(2, 9.0 * (-1) ** index, np.float32)
            value[1 - whose] = number
            signals.append(Signals(value=value))
    return samples, signals


def learned(doubt, rows):
    found, metrics = Collaborative(doubt=doubt).credit(*step_of(rows))
    return [c.sample.group for c in found[::2]], found, metrics.get("learner/pairs_left_out")


def test_those_that_the_reviewer_has_furthest_behind_are_left_out_as_many_as_doubt_says():
    rows = [(0, (1.0, 2.0)), (1, (2.0, 1.0)), (1, (0.0, 3.0)), (0, (0.0, 0.5)), (0, (5.0, 5.0))]
    assert learned(0.2, rows)[::2] == ([0, 1, 3, 4], 0.2)
    assert learned(0.4, rows)[::2] == ([1, 3, 4], 0.4)
    assert learned(0.99, rows)[::2] == ([1, 4], pytest.approx(0.6)), "what is ahead, or level, stays"
    assert learned(0.1, rows)[::2] == ([0, 1, 2, 3, 4], 0.0), "less than one group"


def test_a_bundle_says_by_its_number_whose_it_is_and_the_margin_is_of_all_ranked_pairs():
    groups, found, _ = learned(0.5, [(1, (1.0, 0.0)), (0, (1.0, 0.0))])
    assert groups == [0, 1] and [c.bundle for c in found] == [1, 1, 2, 2]
    assert all(c.signals == Signals() and c.mass == 0.5 for c in found)
    p, q = prompt_of(0, []), prompt_of(1, [])
    three = [sample(0, i, r, p) for i, r in enumerate((2.0, 1.0, 0.0))] + [sample(1, i, 1.0 - i, q) for i in (0, 1)]
    # 3 - 2, 3 - 1 and 2 - 1 in the first group's favour; the second one is behind by 1
    values = [(0, 3), (0, 2), (0, 1), (0, 0), (1, 0)]
    signals = [Signals(value=np.array(v, np.float32)) for v in values]
    found, metrics = Collaborative(doubt=0.9).credit(three, signals)
    assert [c.bundle for c in found] == [0, 0, 0] and metrics == {"learner/pairs_left_out": 0.5}


def test_a_prompt_has_the_same_owner_in_every_epoch_and_both_own_half():
    rng = np.random.default_rng(0)
    prompts = [tuple(rng.integers(0, 50, 4)) for _ in range(1000)]
    owners = [owner(sample(g, 0, 1.0, p)) for g, p in enumerate(prompts)]
    assert owners == [owner(sample(g + 5000, 1, 0.0, p)) for g, p in enumerate(prompts)]
    assert 430 < sum(owners) < 570


def test_doubt_grows_after_the_warmup_and_goes_on_where_a_checkpoint_left_it():
    rows = [(0, (0.0, 1.0))] * 10
    memory: dict[str, float] = {}
    left_out = []
    for step in range(12):
        if step in (0, 7):
            paced = Paced(Collaborative(doubt=0.8, warmup=4), memory)
        left_out.append(paced.credit(*step_of(rows))[1]["learner/pairs_left_out"])
    assert left_out == [0, 0, 0, 0, 0, 0.2, 0.4, 0.6, 0.8, 0.8, 0.8, 0.8]
    at_once = Paced(Collaborative(doubt=0.8), {})
    assert at_once.credit(*step_of(rows))[1]["learner/pairs_left_out"] == 0.8


def test_the_loss_is_bradley_terrys_of_the_owners_numbers():
    rng = np.random.default_rng(1)
    values = torch.tensor(rng.normal(size=(6, 2)), requires_grad=True)
    bundle, label = torch.tensor([4, 4, 7, 7, 7, 9]), torch.tensor([0.0, 1, 3, 1, 2, 1])
    loss, told = CollaborativeLoss(0.1)(SimpleNamespace(bundle=bundle, label=label), values)  # type: ignore[arg-type]
    v = values.detach().numpy()
    ranked = [(v[1, 0], v[0, 0]), (v[2, 1], v[3, 1]), (v[2, 1], v[4, 1]), (v[4, 1], v[3, 1])]
    wanted = sum(np.log1p(np.exp(-(a - b))) + 0.1 * (a + b) ** 2 for a, b in ranked)
    assert loss.item() == pytest.approx(wanted)
    assert told["learner/pairs_right"][0].item() == sum(a > b for a, b in ranked)
    loss.backward()
    assert (values.grad != 0).tolist() == [
        [True, False],
        [True, False],
        [False, True],
        [False, True],
        [False, True],
        [False, False],
    ]


def test_nothing_to_compare_is_no_credit():
    one = [sample(0, 0, 1.0, (1,))], [Signals(value=np.zeros(2, np.float32))]
    assert Collaborative().credit(*one) == ([], {})
    assert Collaborative().credit([], []) == ([], {})
