"""bfloat16 beside float32 weights: with gradient checkpointing no second model stands in memory."""

from __future__ import annotations

from itertools import accumulate

import numpy as np
import pytest
import torch

from pipeline.algorithms import Sft
from pipeline.packing import plan
from workers.learner import engine_torch
from workers.models.create import ModelInit, create
from workers.types import Credit, Optimization, Sample, Signals

SIZES = {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "tie_word_embeddings": True,
}


@pytest.fixture
def credits_():
    ids, ones = np.random.default_rng().integers(3, 10, (2, 16)).astype(np.int32), np.ones(15, np.float32)
    samples = [Sample(i, 0, row, np.arange(16) > 0, np.zeros(16, np.float32)) for i, row in enumerate(ids)]
    return [Credit(sample, Signals(), ones, ones, 1.0) for sample in samples]


def test_a_weights_cast_lives_as_long_as_its_layer(tmp_path, monkeypatch, credits_):
    create(ModelInit(config=SIZES), ["0123456789"], tmp_path, 0)
    learner = engine_torch.TorchLearner(str(tmp_path), "bfloat16", gradient_checkpointing=True)
    learner.begin(Optimization(10), Sft().losses, False)
    weights, forward, peaks = sum(p.numel() for p in learner.policy.parameters()), engine_torch.token_logprobs, []

    def watched(*args):
        with torch.profiler.profile(profile_memory=True) as seen:
            out = forward(*args)
        events = seen.profiler.kineto_results.events()
        blocks = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
        peaks.append(max(accumulate(size for _, size in blocks)))
        return out

    monkeypatch.setattr(engine_torch, "token_logprobs", watched)
    learner.update(plan(credits_, 4096))
    assert 0 < peaks[0] < weights / 2, "all casts together take two bytes a weight"
