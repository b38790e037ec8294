"""What algorithms that compare have in common: samples of one group are a bundle, and any two of it a pair.

Of a bundle's samples each one with the higher label is preferred to each with a lower one; equal ones say nothing.
A bundle of two is the usual pair; of more, all ranked pairs are learned from (MM-RLHF, arXiv 2502.10391).
Losses use tensor methods only, so that reading a config never imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np

from workers.types import Credit, MicroBatch, Sample, Signals

Rated = tuple[Sample, Signals]


def by_group(samples: Sequence[Sample], signals: Sequence[Signals]) -> list[list[Rated]]:
    """The samples of each group with their signals; those that nothing rated are left out."""
    rated = ((s, signal) for s, signal in zip(samples, signals, strict=True) if s.reward is not None)
    return [list(members) for _, members in groupby(rated, key=lambda one: one[0].group)]


def bundle(members: Sequence[Rated], mean: bool) -> list[Credit]:
    """Credits that keep one group's samples together, none where all are rated alike.

    A sample's score is the sum over its own tokens, or their mean; every pair counts the same in the update.
    """
    ratings = [rating(sample) for sample, _ in members]
    pairs_ = sum(a > b for a in ratings for b in ratings)
    if not pairs_:
        return []
    return [_credit(one, mean, pairs_ / len(members)) for one in members]


def _credit(one: Rated, mean: bool, mass: float) -> Credit:
    sample, signal = one
    own = int(sample.mask.sum())
    weight = np.full(own, 1 / own if mean else 1, np.float32)
    return Credit(sample, signal, np.zeros(own, np.float32), weight, mass, sample.group, rating(sample))


def rating(sample: Sample) -> float:
    """What its raters, or the judges, made of it."""
    assert sample.reward is not None, "samples that are compared are rated"
    return sample.total


def per_sequence(batch: MicroBatch, tokens: Any) -> Any:
    """f32[S]: the sums of f32[N] over each sequence's own tokens."""
    return tokens.new_zeros(len(batch.lengths)).index_add(0, batch.owner, tokens)


def pairs(batch: MicroBatch) -> tuple[Any, Any]:
    """(better, worse) i64[B]: the sequences of every pair of the micro-batch."""
    assert batch.bundle is not None and batch.label is not None, "pairs need bundles"
    same = batch.bundle[:, None] == batch.bundle[None, :]
    return (same & (batch.label[:, None] > batch.label[None, :])).nonzero().unbind(1)


def log_loss(z: Any) -> Any:
    """-log sigma(z), as softplus(-z): finite for every z, and its gradient at 0 is -1/2."""
    return z.new_zeros(()).logaddexp(-z)


def pair_metrics(margin: Any) -> dict[str, tuple[Any, Any]]:
    """How often the better one of a pair scores higher (equal: half), and by how much; `margin` f32[B]."""
    right = (margin > 0).sum() + 0.5 * (margin == 0).sum()
    return {"learner/pairs_right": (right, len(margin)), "learner/pair_margin": (margin.detach().sum(), len(margin))}
