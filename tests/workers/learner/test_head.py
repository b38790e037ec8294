"""Chunks of the product with the vocabulary against the whole of it, in float64 and in the formats learned in."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tiny import fresh, make
from torch import nn

from workers.learner import head
from workers.learner.forward import token_logprobs
from workers.learner.head import drawn_logprobs, has_plain_head
from workers.models.attention import adopt
from workers.models.load import load_model
from workers.types import MicroBatch


def whole(hidden, weight, bias, ids, temperature):
    """The formulas as they stand in a textbook: all logits at once, gradients by autograd."""
    logits = torch.nn.functional.linear(hidden, weight, bias) / temperature
    p = logits.softmax(-1)
    return p.log().gather(1, ids[:, None])[:, 0], -(p * p.log()).sum(-1)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(head, "chunk_tokens", lambda vocabulary: 5)


@pytest.mark.parametrize("of", ["log-prob", "entropy", "both"])
@pytest.mark.parametrize("bias", [False, True])
def test_values_and_gradients_are_those_of_the_whole(of, bias):
    rng = fresh()
    n, size, vocabulary = int(rng.integers(1, 24)), 7, 11
    made = torch.Generator().manual_seed(int(rng.integers(2**31)))

    def inputs():
        made.manual_seed(1)
        shapes = [(n, size), (vocabulary, size), *([(vocabulary,)] if bias else [])]
        return [torch.randn(*s, generator=made, dtype=torch.float64).requires_grad_() for s in shapes]

    ids = torch.from_numpy(rng.integers(0, vocabulary, n))
    a, b = (torch.randn(n, generator=made, dtype=torch.float64) for _ in range(2))
    temperature, found = float(rng.uniform(0.3, 2)), []
    for function in (drawn_logprobs, whole):
        hidden, weight, *rest = leaves = inputs()
        logp, entropy = function(hidden, weight, rest[0] if bias else None, ids, temperature)
        parts = {"log-prob": (a * logp).sum(), "entropy": (b * entropy).sum()}
        (parts[of] if of in parts else sum(parts.values())).backward()
        found.append([logp, entropy, *(leaf.grad for leaf in leaves)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_what_is_frozen_gets_no_gradient():
    hidden = torch.randn(9, 4, requires_grad=True)
    weight = torch.randn(6, 4)
    drawn_logprobs(hidden, weight, None, torch.zeros(9, dtype=torch.long), 1.0)[0].sum().backward()
    assert hidden.grad is not None and weight.grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", ["qwen3", "llama", "gpt2"])
def test_a_model_says_the_same_in_chunks(tmp_path, architecture, dtype):
    rng = fresh()
    model = adopt(load_model(make(tmp_path, architecture))).requires_grad_(True)
    assert has_plain_head(model)
    lengths = rng.integers(2, 20, 5)
    ids = rng.integers(3, 20, lengths.sum())
    own = [i for i in range(1, len(ids)) if i not in set(lengths.cumsum().tolist())]
    position = torch.cat([torch.arange(n) for n in lengths])
    batch: MicroBatch = SimpleNamespace(  # pyright: ignore[reportAssignmentType]
        ids=torch.from_numpy(ids), position=position, lengths=torch.from_numpy(lengths), own=torch.tensor(own)
    )
    found = []
    for chunked in (True, False):
        model.zero_grad()
        logp, entropy, hidden = token_logprobs(model, batch, 0.8, dtype, chunked)
        assert logp.dtype == entropy.dtype == torch.float32 and len(hidden) == len(own)
        (logp.sum() + 0.3 * entropy.sum()).backward()
        found.append((logp, entropy, torch.cat([p.grad.flatten() for p in model.parameters()])))
    coarse = 1e-5 if dtype == torch.float32 else 2e-2
    for ours, theirs in zip(*found, strict=True):
        assert (ours - theirs).norm() <= coarse * theirs.norm()


def test_logits_that_are_scaled_afterwards_are_noticed(tmp_path):
    model = adopt(load_model(make(tmp_path)))
    forward = model.forward

    def scaled(*args, **kwargs):
        out = forward(*args, **kwargs)
        out.logits = out.logits / 8
        return out

    model.forward = scaled
    assert not has_plain_head(model)
    model.forward = forward
    model.set_output_embeddings(nn.Sequential(model.get_output_embeddings()))
    assert not has_plain_head(model)
