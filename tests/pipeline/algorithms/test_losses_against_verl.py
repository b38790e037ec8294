"""The policy losses and their means against verl's: values and gradients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from oracles import oracle
from steps import padded, step
from tiny import fresh

from pipeline.algorithms import Cispo, Grpo, Gspo
from pipeline.packing import micro_batch

verl = oracle("verl.trainer.ppo.core_algos")

MODES = {"token": "token-mean", "sequence": "seq-mean-token-mean", "constant": "seq-mean-token-sum-norm"}
LIMIT = 37
CASES = {
    "vanilla": Grpo(clip_low=0.1, clip_high=0.3),
    "gspo": Gspo(clip_low=0.05, clip_high=0.1),
    "cispo": Cispo(clip_low=0.2, clip_high=0.4),
}


def theirs(name, old, new, advantages, mask, algorithm):
    from verl.workers.config import ActorConfig

    given = {"loss_scale_factor": LIMIT} if algorithm.aggregate == "constant" else {}
    config = ActorConfig(
        strategy="fsdp",
        ppo_micro_batch_size_per_gpu=1,
        rollout_n=1,
        clip_ratio_low=algorithm.clip_low,
        clip_ratio_high=algorithm.clip_high,
        clip_ratio_c=1e9,  # no dual clip
        global_batch_info=given,
    )
    loss = verl.get_policy_loss_fn(name)
    return loss(old, new, advantages, mask, loss_agg_mode=MODES[algorithm.aggregate], config=config)


@pytest.mark.parametrize("aggregate", MODES)
@pytest.mark.parametrize("name", CASES)
def test_the_loss_its_gradient_and_its_clipped_share(name, aggregate):
    rng = fresh()
    algorithm = replace(CASES[name], aggregate=aggregate, max_tokens=LIMIT)
    credits_, _ = algorithm.credit(*step(rng))
    samples = [c.sample for c in credits_]
    batch = micro_batch(credits_)
    tensors = {k: torch.tensor(getattr(batch, k)) for k in ("lengths", "owner", "logp_old", "advantage", "weight")}
    batch = replace(batch, **{k: x.double() if x.is_floating_point() else x for k, x in tensors.items()})
    before = [c.signals.logp_old.astype(np.float64) for c in credits_]
    moved = [logp + rng.normal(size=len(logp)) * 0.3 for logp in before]

    logp = torch.tensor(np.concatenate(moved), requires_grad=True)
    loss, metrics = algorithm.losses[0](batch, logp, None)
    loss = loss / sum(c.mass for c in credits_)
    loss.backward()

    mask = padded(samples)
    old = padded(samples, before)
    new = padded(samples, moved).requires_grad_()
    reference, told = theirs(name, old, new, padded(samples, [c.advantage for c in credits_]), mask, algorithm)
    reference.backward()
    torch.testing.assert_close(loss, reference, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(logp.grad, new.grad[mask.bool()], rtol=1e-5, atol=1e-8)
    cut, n = metrics["policy/clipped"]
    assert float(cut) / n == pytest.approx(told["actor/pg_clipfrac"], abs=1e-9)
    assert 0 < cut < n
