"""Advantages and divergences against brute force and against what they estimate."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import fresh

from pipeline.algorithms.estimators import group_relative, kl, leave_one_out, whiten


def brute(rewards, scale):
    mean = sum(rewards) / len(rewards)
    centred = [r - mean for r in rewards]
    deviation = (sum(c * c for c in centred) / (len(rewards) - 1)) ** 0.5
    return [c / (deviation + 1e-6) if scale else c for c in centred]


def verl_grpo(rewards, index, scale):
    """verl 0.9's compute_grpo_outcome_advantage, for one score a sample, written again in float64."""
    by_group = {}
    for i, group in enumerate(index):
        by_group.setdefault(group, []).append(rewards[i])
    out = []
    for i, group in enumerate(index):
        scores = torch.tensor(by_group[group], dtype=torch.float64)
        centred = rewards[i] - scores.mean()
        out.append(float(centred / (scores.std() + 1e-6)) if scale else float(centred))
    return out


@pytest.mark.parametrize("scale", [True, False])
def test_group_relative_is_the_formula(scale):
    rng = fresh()
    for _ in range(50):
        rewards = rng.normal(size=int(rng.integers(2, 17))) * 10 ** rng.uniform(-2, 3)
        found = group_relative(rewards, scale)
        np.testing.assert_allclose(found, brute(rewards.tolist(), scale), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(found, verl_grpo(rewards.tolist(), [0] * len(rewards), scale), rtol=1e-9, atol=1e-9)
        assert abs(found.sum()) < 1e-9 * np.abs(found).max() * len(rewards) + 1e-12


def test_by_hand():
    np.testing.assert_allclose(
        group_relative(np.array([1.0, 0, 0, 1]), True), np.array([1, -1, -1, 1]) * 0.5 / (3**-0.5 + 1e-6)
    )
    np.testing.assert_allclose(group_relative(np.array([3.0, 0, 0]), False), [2, -1, -1])
    assert group_relative(np.array([5.0]), True).tolist() == [0.0]
    assert group_relative(np.array([2.0, 2.0]), True).tolist() == [0.0, 0.0]


def categorical(rng, n=7):
    """Two distributions not far from each other."""
    logits = rng.normal(size=n)
    pair = [logits, logits + rng.normal(size=n) * 0.7]
    return [x - np.log(np.exp(x).sum()) for x in pair]


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_k1_and_k3_have_the_divergence_as_their_mean(estimator):
    logp, logp_ref = categorical(fresh())
    truth = (np.exp(logp) * (logp - logp_ref)).sum()
    estimates = kl(logp, logp_ref, estimator)
    assert (np.exp(logp) * estimates).sum() == pytest.approx(truth, rel=1e-12)
    assert estimator == "k1" or (estimates >= 0).all()


def test_k2_is_half_the_square_and_biased():
    logp, logp_ref = categorical(fresh())
    np.testing.assert_allclose(kl(logp, logp_ref, "k2"), (logp - logp_ref) ** 2 / 2)
    assert (np.exp(logp) * kl(logp, logp_ref, "k2")).sum() != pytest.approx((np.exp(logp) * (logp - logp_ref)).sum())


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_tensors_and_arrays_agree(estimator):
    logp, logp_ref = categorical(fresh())
    tensors = kl(torch.from_numpy(logp), torch.from_numpy(logp_ref), estimator)
    np.testing.assert_allclose(tensors.numpy(), kl(logp, logp_ref, estimator), rtol=1e-12)


def test_what_each_estimator_pulls_towards_as_a_loss():
    """The mean over the policy's own draws of the gradient, by enumeration: what `KlPenalty` says of it."""
    logp, logp_ref = categorical(fresh())
    ref = torch.from_numpy(logp_ref)

    def gradient(loss):
        logits = torch.from_numpy(logp).clone().requires_grad_()
        loss(logits.log_softmax(-1)).backward()
        return logits.grad

    forward = gradient(lambda lp: (lp.exp() * (lp - ref)).sum())
    backward = gradient(lambda lp: (ref.exp() * (ref - lp)).sum())
    mean = {e: gradient(lambda lp, e=e: (lp.detach().exp() * kl(lp, ref, e)).sum()) for e in ("k1", "k2", "k3")}
    torch.testing.assert_close(mean["k1"], torch.zeros_like(forward), atol=1e-12, rtol=0)
    torch.testing.assert_close(mean["k2"], forward)
    torch.testing.assert_close(mean["k3"], backward)


def test_leave_one_out_is_the_formula():
    rng = fresh()
    for _ in range(50):
        rewards = rng.normal(size=int(rng.integers(2, 17))) * 10 ** rng.uniform(-2, 3)
        others = [rewards[i] - np.delete(rewards, i).mean() for i in range(len(rewards))]
        np.testing.assert_allclose(leave_one_out(rewards), others, rtol=1e-9, atol=1e-9 * np.abs(rewards).max())
    assert leave_one_out(np.array([5.0])).tolist() == [0.0]


def test_whitened_tokens_have_mean_0_and_variance_1():
    rng = fresh()
    values = [np.full(int(rng.integers(1, 9)), x) for x in rng.normal(size=30) * 7 + 3]
    found = np.concatenate(whiten(values))
    assert found.mean() == pytest.approx(0, abs=1e-9)
    assert found.var(ddof=1) == pytest.approx(1, abs=1e-6)
    flat = np.concatenate(values)
    assert np.corrcoef(found, flat)[0, 1] == pytest.approx(1)
    assert whiten([np.ones(3), np.ones(2)]) == [None, None]
    assert whiten([np.ones(1)]) == [None]
    assert whiten([]) == []


def test_equal_rewards_have_exactly_no_advantage():
    """0.1 + 0.1 + 0.1 is not 3 times its mean: what is left would be blown up by a division."""
    for n in range(2, 30):
        assert not group_relative(np.full(n, 0.1), True).any()
