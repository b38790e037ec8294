"""Learner teams of real ranks: what is asked of all of them at once, and samples to learn from."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import torch
from tiny import logprobs_alone, prompts, reference

from pipeline.packing import for_inference, unpack
from workers.learner.sharding import named_tensors
from workers.ray_actors import call
from workers.types import Sample, Signals


def ask(team, function, *args, timeout_s=120):
    """`function(worker, *args)` in every rank at the same time; their answers."""

    async def together():
        calls = [call(actor, "__ray_call__", function, *args, timeout_s=timeout_s) for actor in team.actors]
        return await asyncio.gather(*calls)

    return together()


def remake(worker, path, kind, options):
    """Another engine in the same rank, for starting one takes long."""
    if kind == "torch":
        from workers.learner.engine_torch import TorchLearner as Learner
    else:
        from workers.learner.engine_deepspeed import DeepSpeedLearner as Learner

        Learner.persist = 0  # small as they are, in stage 3 all parameters are given away
    chunked = options.pop("chunked", True)
    worker.engine = Learner(path, **options)
    worker.engine.plain_head &= chunked


def gradient(worker, update):
    """f64[parameters]: of one update, in one piece; the critic's behind the policy's."""
    learner = worker.engine
    learner._accumulate(update)
    models = [learner.policy, *([learner.scalar.model] if learner.scalar else [])]
    grads = [learner.gradient(p) for model in models for _, p in named_tensors(model) if p.requires_grad]
    return torch.cat([g.flatten().double().cpu() for g in grads]).numpy()


def weights(worker):
    """f64[parameters]: the policy's."""
    return torch.cat([x.flatten().double() for _, x in worker.engine.tensors(worker.engine.policy)]).numpy()


def rolled(rng, path, groups=6, size=4, wander=0.3, high=40):
    """Groups of ragged samples with two kinds of reward; the rollout's log-probs wander about the policy's own."""
    out, truth = [], reference(path)
    for i, ids in enumerate(prompts(rng, groups * size, 2, high)):
        mask = np.arange(len(ids)) >= rng.integers(1, len(ids))
        with torch.no_grad():
            table = logprobs_alone(truth, ids).numpy()
        logp = np.concatenate([[0], table[np.arange(len(ids) - 1), ids[1:]]])
        logp = np.where(mask, logp + rng.normal(size=len(logp)) * wander, 0).astype(np.float32)
        out.append(Sample(i // size, i % size, ids, mask, logp, float(rng.choice([0, 0.5, 1]))))
    return [replace(s, reward=1.0 if s.index == 0 else s.reward / 2) for s in out]


async def signals_of(team, samples, needs, tokens, ranks):
    if not needs:
        return [Signals()] * len(samples)
    bins, batches = for_inference(samples, tokens, ranks)
    answers, _ = await team.infer(batches, needs)
    return unpack(samples, bins, answers, needs)
