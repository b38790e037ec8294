"""One step's judged samples with random everything, and the padded tensors that verl takes of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from rewards.types import Score
from workers.types import Sample, Signals


def step(rng, groups=12, low=2, high=8, weights=None):
    """Groups of `low` to `high` samples, ragged, of one turn or of several; every fourth group's rewards are equal.

    With `weights` each has scores of sources by these names, of different spread, and the rewards are
    their sums; the values are whole numbers, which verl's float32 holds exactly.
    """
    samples, signals = [], []
    for group in range(groups):
        level = rng.normal()
        for index in range(int(rng.integers(low, high + 1))):
            mask = turns(rng)
            length, own = len(mask), int(mask.sum())
            scores = {
                name: Score(float(rng.integers(0, 4) * 10**k), weight=weight)
                for k, (name, weight) in enumerate((weights or {}).items())
            }
            equal = group % 4 == 3
            if equal:
                scores = {name: replace(score, value=3.0) for name, score in scores.items()}
            reward = level if equal else rng.normal()
            if scores:
                reward = sum(s.weight * (s.value or 0.0) for s in scores.values())
            rollout = np.where(mask, -rng.exponential(1.0, length), 0).astype(np.float32)
            samples.append(
                Sample(group, index, np.arange(length, dtype=np.int32), mask, rollout, reward, scores=scores)
            )
            signals.append(Signals(*(-rng.exponential(1.0, own).astype(np.float32) for _ in range(2))))
    return samples, signals


def turns(rng):
    """A prompt, then one to three turns of the policy with something between them. bool[L]"""
    parts = [np.zeros(int(rng.integers(1, 5)), bool)]
    for _ in range(int(rng.integers(1, 4))):
        parts += [np.ones(int(rng.integers(1, 8)), bool), np.zeros(int(rng.integers(1, 4)), bool)]
    return np.concatenate(parts[:-1])


def padded(samples, values=None):
    """f64[n, T]: each sample's own values in their places; without values, 1 there."""
    out = torch.zeros(len(samples), max(len(s.mask) for s in samples), dtype=torch.float64)
    for row, sample in enumerate(samples):
        own = torch.from_numpy(np.flatnonzero(sample.mask))
        out[row, own] = 1.0 if values is None else torch.as_tensor(np.asarray(values[row], np.float64))
    return out


def at_the_end(samples, rewards):
    """f64[n, T]: each reward at its sample's last own token."""
    return padded(samples, [[0.0] * (int(s.mask.sum()) - 1) + [r] for s, r in zip(samples, rewards, strict=True)])


def groups_of(samples):
    return np.array([sample.group for sample in samples])


def credited(algorithm, samples, signals):
    """f64[n, T]: the algorithm's advantages in their places, 0 where it gives none; bool[n]: what it took."""
    credits_, metrics = algorithm.credit(samples, signals)
    assert metrics == {}
    found = {(c.sample.group, c.sample.index): c.advantage for c in credits_}
    rows = [found.get((s.group, s.index), np.zeros(int(s.mask.sum()))) for s in samples]
    return padded(samples, rows), np.array([(s.group, s.index) in found for s in samples])
