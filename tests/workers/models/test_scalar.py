"""Scalar models: what transformers makes of the same directory, saved and loaded, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import SIZES, fresh, make, prompts
from transformers import AutoModelForSequenceClassification

from rewards.declared import ScalarModel
from rewards.errors import Refused
from workers.judging.scalar_model import ScalarJudge
from workers.learner.forward import to_torch
from workers.models.load import load_model, load_tokenizer, save_model
from workers.models.scalar import load_scalar, on_trunk, scalars
from workers.types import MicroBatch


def packed(sequences):
    """Their tokens end to end, all but the first of each the policy's own."""
    lengths = np.array([len(ids) for ids in sequences], np.int64)
    position = np.concatenate([np.arange(n) for n in lengths])
    nothing = np.zeros(0, np.float32)
    ids = np.concatenate(sequences).astype(np.int64)
    own = np.flatnonzero(position > 0)
    batch = MicroBatch(ids, position, lengths, own, own, None, None, None, nothing, nothing)
    return to_torch(batch, torch.device("cpu"))


def spoken(model, rng):
    """With a head that says something."""
    with torch.no_grad():
        for p in model.get_submodule("score").parameters():
            p.copy_(torch.from_numpy(rng.normal(size=p.shape)))
    return model


@pytest.mark.parametrize("architecture", SIZES)
def test_transformers_reads_the_same_numbers_from_what_was_saved(tmp_path, architecture):
    """Every prefix on its own, in float64, through transformers' own classifier and attention."""
    rng = fresh()
    path = make(tmp_path / "policy", architecture)
    model = spoken(on_trunk(load_model(path), heads=2), rng)
    save_model(model, load_tokenizer(path), tmp_path / "scalar")
    truth = AutoModelForSequenceClassification.from_pretrained(tmp_path / "scalar", dtype=torch.float64)
    assert truth.config.num_labels == 2
    sequences = prompts(rng, 6, 2, 20)
    batch = packed(sequences)
    with torch.no_grad():
        last = scalars(model, batch, batch.lengths.cumsum(0) - 1, torch.float32)
        own = scalars(model, batch, batch.own - 1, torch.float32)
        whole = [truth(torch.from_numpy(ids[None].astype(np.int64))).logits[0] for ids in sequences]
        prefixes = [
            truth(torch.from_numpy(ids[None, :n].astype(np.int64))).logits[0]
            for ids in sequences
            for n in range(1, len(ids))
        ]
    np.testing.assert_allclose(last, torch.stack(whole), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(own, torch.stack(prefixes), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("heads", "depth"), [(1, 1), (3, 2), (1, 3)])
def test_saved_and_loaded_it_is_the_same_model(tmp_path, heads, depth):
    rng = fresh()
    path = make(tmp_path / "policy")
    model = spoken(on_trunk(load_model(path), heads, depth), rng)
    save_model(model, load_tokenizer(path), tmp_path / "scalar")
    again = load_scalar(tmp_path / "scalar")
    assert {name: p.shape for name, p in again.named_parameters()} == {n: p.shape for n, p in model.named_parameters()}
    assert all(torch.equal(p, dict(model.named_parameters())[name]) for name, p in again.named_parameters())
    batch = packed(prompts(rng, 4))
    with torch.no_grad():
        one, two = (scalars(m, batch, batch.own - 1, torch.float32) for m in (model, again))
    assert one.shape == (len(batch.own), heads)
    assert torch.equal(one, two)
    assert one.abs().max() > 0
    assert all(p.requires_grad and p.dtype == torch.float32 for p in again.parameters())


@pytest.mark.parametrize("depth", [1, 3])
def test_a_new_head_says_nothing_and_can_learn(tmp_path, depth):
    policy = load_model(make(tmp_path))
    before = {name: p.clone() for name, p in policy.named_parameters()}
    state = torch.random.get_rng_state()
    model, twin = on_trunk(policy, depth=depth, seed=3), on_trunk(policy, depth=depth, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), twin.parameters(), strict=True))
    trunk = dict(model.base_model.named_parameters())
    assert all(torch.equal(trunk[name], p) for name, p in policy.base_model.named_parameters())
    batch = packed(prompts(fresh(), 4, 3, 20))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    losses = []
    for _ in range(20):
        numbers = scalars(model, batch, batch.lengths.cumsum(0) - 1, torch.float32)
        losses.append(loss := (numbers - 1).square().mean())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[0] == 1.0  # it said 0
    assert losses[-1] < 0.9
    assert all(torch.equal(before[name], p) for name, p in policy.named_parameters())


def test_what_is_no_scalar_model_is_refused(tmp_path):
    path = make(tmp_path / "policy")
    with pytest.raises(Refused, match=r"policy'?: no head of numbers \(score.weight does not fit\)"):
        load_scalar(path)
    with pytest.raises(Refused, match="no such directory, did you mean 'policy'"):
        load_scalar(tmp_path / "polici")
    with pytest.raises(Refused, match="transformers has no sequence classifier for"):
        policy = load_model(path)
        policy.config = type("Unheard", (type(policy.config),), {})()
        on_trunk(policy)


def test_peers_share_nothing_and_are_saved_and_loaded_together(tmp_path):
    rng = fresh()
    path = make(tmp_path / "policy")
    model = on_trunk(load_model(path), depth=2, peers=2)
    with torch.no_grad():
        for _, head in model.parts():
            for p in head.parameters():
                p.copy_(torch.from_numpy(rng.normal(size=p.shape)))
    save_model(model, load_tokenizer(path), tmp_path / "scalar")
    again = load_scalar(tmp_path / "scalar")
    batch = packed(prompts(rng, 4))
    positions = batch.lengths.cumsum(0) - 1
    numbers = scalars(again, batch, positions, torch.float32)
    assert numbers.shape == (4, 2) and torch.equal(numbers, scalars(model, batch, positions, torch.float32))
    assert (numbers[:, 0] - numbers[:, 1]).abs().min() > 0
    numbers[:, 1].sum().backward()
    moved = {name for name, p in again.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert moved and all(name.startswith("peers.0.") for name in moved)
    judge = ScalarJudge(ScalarModel(path=str(tmp_path / "scalar")))
    ids = np.split(batch.ids.numpy(), np.cumsum(batch.lengths.numpy())[:-1])
    [said] = np.stack(judge.read([(one, np.array([len(one) - 1])) for one in ids])).T
    np.testing.assert_allclose(said[0], numbers.mean(1).detach(), rtol=1e-5, atol=1e-6)
