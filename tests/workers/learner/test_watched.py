"""A learner whose reference is kept and asked in every step learns the same bits as one that is left alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import fresh, make, prompts

from pipeline.algorithms import Grpo
from pipeline.packing import for_inference, plan, unpack
from workers.learner.engine_torch import TorchLearner
from workers.types import Needs, Optimization, Sample, Signals


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make(tmp_path_factory.mktemp("model"))


def steps(rng, n=3, groups=4, size=4):
    out = []
    for _ in range(n):
        samples = []
        for i, ids in enumerate(prompts(rng, groups * size, 4, 30)):
            mask = np.arange(len(ids)) >= 2
            logp = np.where(mask, -rng.exponential(1.0, len(ids)), 0).astype(np.float32)
            samples.append(Sample(i // size, i % size, ids, mask, logp, float(rng.random())))
        out.append(samples)
    return out


def learned(path, taken, watched):
    """(gradient of the last step, weights after all), as bits."""
    algorithm, made = Grpo(group_size=4), TorchLearner(path)
    assert not algorithm.needs.logp_ref
    made.begin(Optimization(10, lr=1e-3), algorithm.losses, keep_reference=watched)
    seen = []
    for samples in taken:
        if watched:
            part, needs = samples[::3], Needs(logp_ref=True)
            bins, batches = for_inference(part, 200)
            seen += unpack(part, bins, made.infer(batches, needs), needs)
        credits_, _ = algorithm.credit(samples, [Signals()] * len(samples))
        made.update(plan(credits_, 500, 1))
    gradient = torch.cat([p.grad.flatten() for p in made.policy.parameters() if p.grad is not None])
    weights = torch.cat([p.detach().flatten() for p in made.policy.parameters()])
    return gradient.numpy().tobytes(), weights.numpy().tobytes(), seen


def test_the_gradient_and_the_weights_are_the_same_bit_for_bit(path):
    taken = steps(fresh())
    gradient, weights, _ = learned(path, taken, watched=False)
    same_gradient, same_weights, seen = learned(path, taken, watched=True)
    assert gradient == same_gradient and weights == same_weights
    assert np.any(np.frombuffer(gradient, np.float32))
    assert all(signal.logp_ref is not None and signal.logp_old is None for signal in seen)
