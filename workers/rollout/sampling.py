"""Draws tokens from logits. Each row has its own random stream, so a draw does not depend on its neighbours."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from rewards.errors import RunFailed


class Uniforms:
    """Uniform draws of samples, f64[n] each: a function of (run's stream, group, place in the group) alone.

    One generator is set to each sample's stream in turn, for making one takes three times as long as drawing from it.
    """

    def __init__(self):
        self.bits = np.random.Philox(key=[0, 0])
        self.generator, self.fresh = np.random.Generator(self.bits), self.bits.state

    def __call__(self, seed: int, group: int, index: int, n: int) -> np.ndarray:
        self.fresh["state"]["key"] = np.array([seed, (group << 20) + index], np.uint64)
        self.bits.state = self.fresh
        return self.generator.random(n)


def draw(
    logits: Tensor, uniform: Tensor, temperature: Tensor, top_p: Tensor, top_k: Tensor, truncate: bool, greedy: bool
) -> tuple[Tensor, Tensor]:
    """One token per row by inverse transform, and its log-prob before truncation.

    logits f[R, V]; uniform f64[R]; temperature, top_p f32[R]; top_k i64[R] (0: off). `truncate` says whether any
    row asks for top-p or top-k, `greedy` whether any has temperature 0: it takes the likeliest token and reports its
    log-prob at temperature 1.
    Returns i64[R], f32[R]. Raises `RunFailed` where a row of logits holds no distribution.
    """
    cooled = temperature.masked_fill(temperature == 0, 1.0) if greedy else temperature
    logp = (logits.float() / cooled[:, None]).log_softmax(-1)
    probs = logp.exp()
    if truncate:
        probs = _truncated(probs, top_p, top_k)
    # float64: with 150,000 tokens a float32 sum would lose the tail.
    cumulative = probs.cumsum(-1, dtype=torch.float64)
    total = cumulative[:, -1]
    if not math.isfinite(total.sum()):
        raise RunFailed("the model's logits are not finite")
    # A float64 uniform is at most 1 - 2^-53, so its share of the total is below the total, however it is rounded:
    # the search ends at a token whose own probability is above zero.
    token = torch.searchsorted(cumulative, (uniform * total)[:, None], right=True)[:, 0]
    if greedy:
        token = torch.where(temperature == 0, logits.argmax(-1), token)
    return token, logp.gather(1, token[:, None])[:, 0]


def _truncated(probs: Tensor, top_p: Tensor, top_k: Tensor) -> Tensor:
    """Zero what lies outside the k likeliest tokens, then outside the smallest set of those that holds the share p
    of their mass (the order of transformers and vLLM). A row that asks for neither keeps every token."""
    ordered, order = probs.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(probs.shape[1], device=probs.device)[None]
    ordered = ordered.masked_fill((top_k > 0)[:, None] & (rank >= top_k[:, None]), 0.0)
    before = ordered.double().cumsum(-1) - ordered
    share = (top_p * ordered.double().sum(-1))[:, None]
    outside = (top_p < 1)[:, None] & (before >= share) & (rank > 0)
    return torch.zeros_like(probs).scatter(1, order, ordered.masked_fill(outside, 0.0))
