"""The learner on a GPU: bfloat16 steps of a 0.5B and a 1.5B Qwen3 shape with random weights. Not run so far."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import fresh

from benchmarks.gpu.learner import SHAPES, made, work
from pipeline.algorithms import Grpo
from pipeline.packing import for_inference
from workers.learner.engine_torch import TorchLearner
from workers.types import Needs, Optimization

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


@pytest.fixture(scope="module", params=SHAPES)
def path(request, tmp_path_factory):
    return made(tmp_path_factory.mktemp("model"), request.param)


def begun(path, dtype, **options):
    learner = TorchLearner(path, dtype, "cuda", **options)
    learner.begin(Optimization(10, lr=1e-6), Grpo().losses, False)
    return learner


def test_bfloat16_agrees_with_float32(path):
    samples, _ = work(fresh(), 2048, 16)
    _, batches = for_inference(samples, 2048)
    coarse, fine = (begun(path, dtype).infer(batches, Needs(logp_old=True)) for dtype in ("bfloat16", "float32"))
    gaps = np.concatenate([np.abs(a["logp_old"] - b["logp_old"]) for a, b in zip(coarse, fine, strict=True)])
    assert gaps.mean() < 0.02 and gaps.max() < 0.5


def test_a_step_learns_and_its_logits_stay_small(path):
    learner = begun(path, "bfloat16", gradient_checkpointing=True)
    _, update = work(fresh(), 8192, 16)
    learner.update(update)
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    report = learner.update(update)
    assert np.isfinite(report.metrics["learner/grad_norm"]) and report.metrics["learner/grad_norm"] > 0
    all_logits = 8192 * learner.policy.config.vocab_size * 4
    gradients = sum(p.nbytes for p in learner.policy.parameters())
    assert torch.cuda.max_memory_allocated() - held < 2 * gradients + all_logits
