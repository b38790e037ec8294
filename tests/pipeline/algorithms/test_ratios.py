"""Losses whose ratio is not PPO's: the response's (GSPO), a fixed weight (CISPO), a bounded one (StableReinforce)."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from steps import step
from tiny import fresh, make

from pipeline.algorithms import Cispo, Grpo, Gspo
from pipeline.algorithms.losses import ClippedSurrogate
from pipeline.packing import micro_batch, plan
from workers.learner.engine_torch import TorchLearner
from workers.types import Optimization


def ready(credits_):
    """A micro-batch in float64, and log-probs somewhere around the old ones."""
    batch = micro_batch(credits_)
    names = ("lengths", "owner", "logp_old", "advantage", "weight")
    tensors = {name: torch.tensor(getattr(batch, name)) for name in names}
    return replace(batch, **{k: x.double() if x.is_floating_point() else x for k, x in tensors.items()})


def near(rng, batch, spread):
    return (batch.logp_old + torch.from_numpy(rng.normal(size=len(batch.logp_old)) * spread)).requires_grad_()


def test_gspo_by_its_definition():
    """- sum_i mass_i min(s_i A_i, clip(s_i) A_i) with s_i = exp(mean_t log rho_t), a loop over responses."""
    rng = fresh()
    algorithm = Gspo(clip_low=0.05, clip_high=0.08)
    credits_, _ = algorithm.credit(*step(rng))
    batch = ready(credits_)
    mine, theirs = near(rng, batch, 0.3), None
    theirs = mine.detach().clone().requires_grad_()
    loss, _ = algorithm.losses[0](batch, mine, None)
    loss.backward()
    truth, start = torch.zeros((), dtype=torch.float64), 0
    for c in credits_:
        end = start + len(c.advantage)
        s = ((theirs[start:end] - batch.logp_old[start:end]).sum() / (end - start)).exp()
        a = float(c.advantage[0])
        truth = truth - torch.minimum(s * a, s.clamp(0.95, 1.08) * a)
        start = end
    truth.backward()
    torch.testing.assert_close(loss, truth, rtol=1e-6, atol=1e-5)  # a sum of some 90, each near 1, that may cancel
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-5, atol=1e-9)


def test_cispo_stops_no_gradient():
    """Every token keeps the gradient -min(rho, 5) A / n, also where PPO's clip would have cut it off."""
    rng = fresh()
    credits_, _ = Cispo().credit(*step(rng))
    batch = ready(credits_)
    logp = near(rng, batch, 1.5)
    loss, _ = Cispo().losses[0](batch, logp, None)
    loss.backward()
    ratio = (logp.detach() - batch.logp_old).exp()
    assert (ratio > 5).any()
    torch.testing.assert_close(logp.grad, -ratio.clamp(max=5.0) * batch.advantage)


@pytest.mark.parametrize("log_ratio", [-200.0, -40.0, 0.0, 40.0, 200.0])
@pytest.mark.parametrize("advantage", [-1.0, 1.0])
def test_a_bounded_ratio_overflows_at_no_distance(log_ratio, advantage):
    """In float32, where exp(89) is infinite and PPO's own gradient not a number."""
    batch = ready(Grpo().credit(*step(fresh(), groups=1))[0][:1])
    n = len(batch.logp_old)
    batch = replace(batch, logp_old=torch.zeros(n), advantage=torch.full((n,), advantage), weight=torch.ones(n))
    logp = torch.full((n,), log_ratio, requires_grad=True)
    loss, metrics = ClippedSurrogate(0.2, 0.2, 1000.0)(batch, logp, None)
    loss.backward()
    ratio = min(max(math.exp(max(min(log_ratio, 50), -50)), 1e-3), 1e3)
    expected = -min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage) * n
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    assert torch.isfinite(logp.grad).all()
    assert (log_ratio == 0) == bool(logp.grad.any())
    assert all(math.isfinite(float(a)) for a, _ in metrics.values())


def test_within_its_bound_it_is_ppos():
    rng = fresh()
    batch = ready(Grpo().credit(*step(rng))[0])
    logp = near(rng, batch, 0.3)
    plain, bounded = (
        loss(batch, logp, None)[0] for loss in (ClippedSurrogate(0.2, 0.2), ClippedSurrogate(0.2, 0.2, 1e3))
    )
    assert plain == bounded


@pytest.fixture(scope="module")
def learner(tmp_path_factory):
    return TorchLearner(make(tmp_path_factory.mktemp("model")))


@pytest.mark.parametrize(
    "algorithm", [Gspo(clip_low=0.5, clip_high=0.5), Cispo(), Grpo()], ids=lambda a: type(a).__name__
)
def test_the_gradient_is_the_same_under_any_packing(learner, algorithm):
    """On the real learner. A response's ratio is made of all its tokens: they must stay together."""
    samples, signals = step(fresh(), groups=4)
    rng = np.random.default_rng(0)
    samples = [
        replace(
            s,
            ids=(s.ids % 17 + 3).astype(np.int32),
            logp_rollout=np.where(s.mask, -rng.exponential(3.0, len(s.mask)), 0),
        )
        for s in samples
    ]
    learner.begin(Optimization(10, lr=1e-3), algorithm.losses, False)
    gradients = []
    for micro_batch_tokens in (max(len(s.ids) for s in samples), 60, 10**6):
        (update,) = plan(algorithm.credit(samples, signals)[0], micro_batch_tokens).updates
        learner._accumulate(update)
        gradients.append(torch.cat([p.grad.flatten() for p in learner.policy.parameters()]))
    assert gradients[0].abs().max() > 1e-4
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0], rtol=1e-3, atol=2e-5 * gradients[0].abs().max())
