"""Draws against transformers' own truncation, and against the distribution they should follow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from tiny import fresh
from transformers import TopKLogitsWarper, TopPLogitsWarper

from rewards.errors import RunFailed
from workers.rollout.sampling import Uniforms, draw

V = 20
uniforms = Uniforms()


def draws(logits, uniform, temperature=1.0, top_p=1.0, top_k=0):
    """One distribution f[V], many uniforms f64[R]."""
    n = len(uniform)
    return draw(
        torch.as_tensor(logits, dtype=torch.float32).expand(n, -1),
        torch.as_tensor(uniform),
        torch.full((n,), temperature),
        torch.full((n,), top_p),
        torch.full((n,), top_k),
        top_p < 1 or top_k > 0,
        temperature == 0,
    )


def wanted(logits, temperature, top_p, top_k):
    """The distribution that transformers' generate would sample from, f64[V]."""
    scores = torch.as_tensor(logits, dtype=torch.float64)[None] / temperature
    if top_k:
        scores = TopKLogitsWarper(min(top_k, V))(torch.zeros(1, 0), scores)
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(torch.zeros(1, 0), scores)
    return scores.softmax(-1)[0].numpy()


@pytest.mark.parametrize(("top_p", "top_k"), [(1.0, 0), (0.7, 0), (0.05, 0), (1.0, 5), (1.0, 1), (0.8, 6), (0.9, 50)])
def test_an_even_grid_of_uniforms_gives_the_distribution_of_transformers(top_p, top_k):
    rng = fresh()
    for _ in range(10):
        logits, temperature = rng.normal(size=V) * 3, float(rng.uniform(0.3, 2))
        token, logprob = draws(logits, (np.arange(4000) + 0.5) / 4000, temperature, top_p, top_k)
        truth = wanted(logits, temperature, top_p, top_k)
        share = np.bincount(token.numpy(), minlength=V) / 4000
        assert np.abs(share - truth).max() <= 1 / 4000
        assert not share[truth == 0].any()
        untruncated = (torch.as_tensor(logits) / temperature).log_softmax(-1)
        torch.testing.assert_close(logprob.double(), untruncated[token], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("top_p", "top_k"), [(1.0, 0), (0.8, 0), (1.0, 6)])
def test_draws_of_the_streams_follow_the_distribution(top_p, top_k):
    """A fixed seed: chi-square over 16,000 samples' first tokens, and over 16,000 tokens of one sample."""
    logits = np.random.default_rng(5).normal(size=V) * 1.5
    truth = wanted(logits, 0.9, top_p, top_k)
    across = np.array([uniforms(7, group, index, 3)[0] for group in range(2000) for index in range(8)])
    for uniform in (across, uniforms(7, 3, 1, 16000)):
        counts = np.bincount(draws(logits, uniform, 0.9, top_p, top_k)[0].numpy(), minlength=V)
        assert counts[truth == 0].sum() == 0
        assert chisquare(counts[truth > 0], truth[truth > 0] * len(uniform)).pvalue > 0.01


def test_greedy_takes_the_likeliest_whatever_the_draw():
    rng = fresh()
    logits = rng.normal(size=V)
    token, logprob = draws(logits, rng.random(50), temperature=0.0)
    assert (token == int(logits.argmax())).all()
    torch.testing.assert_close(logprob.double(), torch.as_tensor(logits).log_softmax(-1)[token], atol=1e-6, rtol=1e-6)


def test_the_ends_of_the_line_are_tokens_of_positive_probability():
    logits = np.array([-200.0, 0, 1, -200, 0.5, -200, -200])
    token, _ = draws(logits, np.array([0.0, 1 - 2**-53]))
    assert token.tolist() == [1, 4]


def test_a_row_without_truncation_is_not_touched_by_its_neighbours():
    """A flat tail whose float32 sum goes over 1 before its end."""
    rng = fresh()
    logits = torch.as_tensor(rng.normal(size=(2, 50_000)) * 0.01, dtype=torch.float32)
    uniform = torch.as_tensor(np.concatenate([1 - rng.random(1) * 1e-9, rng.random(1)]))
    ones, none = torch.ones(2), torch.zeros(2, dtype=torch.long)
    plain, _ = draw(logits, uniform, ones, ones, none, False, False)
    beside, _ = draw(logits, uniform, ones, torch.tensor([1.0, 0.5]), none, True, False)
    assert plain[0] == beside[0]


def test_logits_that_are_no_distribution_are_an_error():
    for bad in (np.nan, np.inf):
        logits = np.zeros(V)
        logits[3] = bad
        with pytest.raises(RunFailed, match="logits are not finite"):
            draws(logits, np.array([0.5]))


def test_every_sample_has_a_stream_of_its_own():
    seen = {uniforms(*key, 1)[0] for key in ((s, g, i) for s in (0, 1, 2**62) for g in range(40) for i in range(40))}
    assert len(seen) == 3 * 40 * 40
    assert (uniforms(1, 2, 3, 100)[:7] == uniforms(1, 2, 3, 7)).all()
