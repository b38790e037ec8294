"""Draws tokens from logits. Each row has its own random stream, so a draw does not depend on its neighbours."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def uniforms(seed: int, group: int, index: int, n: int) -> np.ndarray:
    """f64[n] uniform draws of one sample: a function of (run's stream, group, place in the group) alone."""
    return np.random.Generator(np.random.Philox(key=[seed, (group << 20) + index])).random(n)


def draw(
    logits: Tensor, uniform: Tensor, temperature: Tensor, top_p: Tensor, top_k: Tensor, truncate: bool
) -> tuple[Tensor, Tensor]:
    """One token per row by inverse transform, and its log-prob before truncation.

    logits f[R, V]; uniform f64[R]; temperature, top_p f32[R]; top_k i64[R] (0: off). `truncate` says whether any
    row asks for top-p or top-k. Temperature 0 takes the likeliest token and reports its log-prob at temperature 1.
    Returns i64[R], f32[R].
    """
    greedy = temperature == 0
    logp = (logits.float() / torch.where(greedy, 1.0, temperature)[:, None]).log_softmax(-1)
    probs = logp.exp()
    if truncate:
        probs = _truncated(probs, top_p, top_k)
    # float64: with 150,000 tokens a float32 sum would lose the tail.
    cumulative = probs.double().cumsum(-1)
    token = torch.searchsorted(cumulative, (uniform * cumulative[:, -1])[:, None], right=True)[:, 0]
    token = torch.minimum(token, logits.shape[1] - 1 - (probs.flip(-1) > 0).int().argmax(-1))
    token = torch.where(greedy, logits.argmax(-1), token)
    return token, logp.gather(1, token[:, None])[:, 0]


def _truncated(probs: Tensor, top_p: Tensor, top_k: Tensor) -> Tensor:
    """Zero what lies outside the k likeliest tokens, or outside the smallest set that holds p of the mass."""
    ordered, order = probs.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(probs.shape[1], device=probs.device)[None]
    outside = (ordered.cumsum(-1) - ordered >= top_p[:, None]) | ((top_k > 0)[:, None] & (rank >= top_k[:, None]))
    outside[:, 0] = False
    return torch.zeros_like(probs).scatter(1, order, ordered.masked_fill(outside, 0.0))
