"""Samples with step rewards, written down."""

from __future__ import annotations

import numpy as np

from workers.types import Sample, Signals


def sample(group, index, reward, steps=None, ends=None, own=6, prompt=2):
    mask = np.arange(prompt + own) >= prompt
    ids = np.arange(prompt + own, dtype=np.int32)
    steps = None if steps is None else np.array(steps, np.float32)
    ends = None if ends is None else np.array(ends, np.int32)
    return Sample(group, index, ids, mask, np.zeros(prompt + own, np.float32), reward, steps, step_ends=ends)


def credit(algorithm, samples):
    return algorithm.credit(samples, [Signals()] * len(samples))[0]
