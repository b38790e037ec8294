"""Importance weights against verl's, against brute force, and what they do to the gradient."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from oracles import oracle
from tiny import fresh, make

from pipeline.algorithms import Grpo
from pipeline.algorithms.correction import Correction
from pipeline.config import parse_config
from pipeline.packing import for_inference, plan, unpack
from rewards.errors import Refused
from workers.learner.engine_torch import TorchLearner
from workers.types import Needs, Optimization, Sample, Signals

CASES = [Correction(kind, level) for kind in ("truncate", "mask") for level in ("token", "sequence")]
named = pytest.mark.parametrize("correction", CASES, ids=lambda c: f"{c.kind}-{c.level}")


def off_policy(rng, groups=20, size=4, spread=0.6, vocabulary=20):
    """Groups of ragged samples, and the learner's log-probs of them: `spread` away from the rollout's, by token."""
    samples, signals = [], []
    for i in range(groups * size):
        prompt, own = int(rng.integers(1, 5)), int(rng.integers(1, 13))
        mask = np.arange(prompt + own) >= prompt
        logp = np.where(mask, -rng.exponential(1.0, prompt + own), 0).astype(np.float32)
        ids = rng.integers(3, vocabulary, prompt + own).astype(np.int32)
        samples.append(Sample(i // size, i % size, ids, mask, logp, reward=float(i % size) + rng.random()))
        signals.append(Signals((logp[mask] + rng.normal(size=own) * spread).astype(np.float32)))
    return samples, signals


def log_ratios(samples, signals):
    return [
        signal.logp_old.astype(np.float64) - sample.logp_rollout[sample.mask].astype(np.float64)
        for sample, signal in zip(samples, signals, strict=True)
    ]


def brute(correction, log_ratio):
    """One response's weights, token by token in Python's floats."""
    logs = [sum(log_ratio)] * len(log_ratio) if correction.level == "sequence" else list(log_ratio)
    out = []
    for log_w in logs:
        w = math.exp(log_w)
        if correction.kind == "truncate":
            out.append(correction.high if w > correction.high else w)
        else:
            out.append(0.0 if w < correction.low or w > correction.high else w)
    return out


@named
@pytest.mark.parametrize("aggregate", ["token", "sequence"])
def test_credit_is_weighted_as_by_brute_force_and_keeps_its_mass(correction, aggregate):
    samples, signals = off_policy(fresh())
    plain, nothing = Grpo(aggregate=aggregate).credit(samples, signals)
    found, metrics = Grpo(aggregate=aggregate, correction=correction).credit(samples, signals)
    assert nothing == {}
    weights = [brute(correction, log_ratio) for log_ratio in log_ratios(samples, signals)]
    for before, after, weight in zip(plain, found, weights, strict=True):
        np.testing.assert_allclose(after.weight, before.weight * np.array(weight), rtol=1e-6)
        assert after.weight.dtype == np.float32
        assert after.mass == before.mass
        assert (after.advantage == before.advantage).all()
        assert after.signals is before.signals
    flat = np.concatenate(weights)
    assert metrics["policy/correction_mean"] == pytest.approx(flat.mean(), rel=1e-9)
    assert metrics["policy/correction_ess"] == pytest.approx(flat.sum() ** 2 / (flat**2).sum() / len(flat), rel=1e-9)
    cut = [
        w != e
        for w, r in zip(weights, log_ratios(samples, signals), strict=True)
        for w, e in zip(w, raw(correction, r), strict=True)
    ]
    assert 0 < metrics["policy/correction_cut"] == pytest.approx(np.mean(cut))


def raw(correction, log_ratio):
    return brute(replace(correction, kind="truncate", high=1e300), log_ratio)


@named
def test_weights_are_verls(correction):
    helper = oracle("verl.trainer.ppo.rollout_corr_helper")
    samples, signals = off_policy(fresh())
    found, metrics = Grpo(correction=correction).credit(samples, signals)
    shape = len(samples), max(len(s.logp_old) for s in signals)
    log_ratio, mask = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
    for row, values in enumerate(log_ratios(samples, signals)):
        log_ratio[row, : len(values)], mask[row, : len(values)] = torch.from_numpy(values), 1
    bounds = correction.high if correction.kind == "truncate" else f"{correction.low}_{correction.high}"
    theirs, said = helper.compute_rollout_correction_weights(log_ratio, mask, correction.level, bounds)
    np.testing.assert_allclose(np.concatenate([c.weight for c in found]), theirs[mask.bool()].numpy(), rtol=1e-6)
    assert metrics["policy/correction_mean"] == pytest.approx(said["rollout_is_mean"], rel=1e-5)
    assert metrics["policy/correction_ess"] == pytest.approx(said["rollout_is_eff_sample_size"], rel=1e-5)
    if correction.kind == "mask":
        assert metrics["policy/correction_cut"] == pytest.approx(said["rollout_is_oob_ratio"], rel=1e-5)


def test_by_hand():
    mask = np.array([False, True, True, True])
    rollout = np.array([0, -1, -1, -1], np.float32)
    old = -1 + np.log(np.array([4.0, 1.0, 0.25])).astype(np.float32)
    samples = [Sample(0, i, np.arange(4, dtype=np.int32), mask, rollout, float(i)) for i in range(2)]
    expected = {
        ("truncate", "token"): ([2, 1, 0.25], 1 / 3),
        ("mask", "token"): ([0, 1, 0], 2 / 3),
        ("truncate", "sequence"): ([1, 1, 1], 0),
        ("mask", "sequence"): ([1, 1, 1], 0),
    }
    for correction in CASES:
        weights, cut = expected[correction.kind, correction.level]
        found, metrics = Grpo(correction=correction).credit(samples, [Signals(old)] * 2)
        np.testing.assert_allclose([c.weight for c in found], [weights] * 2, rtol=1e-6)
        assert metrics["policy/correction_cut"] == pytest.approx(cut)


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_ratios_beyond_any_float(level):
    """The rollout's log-prob far below the learner's, and far above: a product over a long response may be either."""
    n = 2000
    mask = np.ones(n + 1, bool)
    mask[0] = False
    both = [np.full(n + 1, x, np.float32) for x in (-1000.0, -0.5)]
    samples = [Sample(0, i, np.arange(n + 1, dtype=np.int32), mask, logp, float(i)) for i, logp in enumerate(both)]
    signals = [Signals(logp[1:]) for logp in reversed(both)]
    for kind, upper in (("truncate", 2.0), ("mask", 0.0)):
        found, metrics = Grpo(correction=Correction(kind, level)).credit(samples, signals)
        assert [set(c.weight.tolist()) for c in found] == [{upper}, {0.0}]
        assert all(math.isfinite(value) for value in metrics.values())
    assert metrics["policy/correction_ess"] == 0


def test_without_credit_there_is_nothing_to_log():
    samples, signals = off_policy(fresh(), groups=1)
    assert Grpo(correction=Correction("mask")).credit([replace(s, reward=1.0) for s in samples], signals) == ([], {})


def test_it_needs_the_learners_log_probs():
    assert Grpo(correction=Correction("mask")).needs == Needs(logp_old=True)
    assert Grpo().needs == Needs()


# The gradient ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learner(tmp_path_factory):
    made = TorchLearner(make(tmp_path_factory.mktemp("model")))
    made.begin(Optimization(10, lr=1e-3), Grpo().losses, False)
    return made


def gradient(learner, algorithm, samples, signals):
    (update,) = plan(algorithm.credit(samples, signals)[0], 40).updates
    learner._accumulate(update)
    return torch.cat([p.grad.flatten() for p in learner.policy.parameters()])


def inferred(learner, samples):
    needs = Needs(logp_old=True)
    bins, batches = for_inference(samples, 10**6)
    return unpack(samples, bins, learner.infer(batches, needs), needs)


def written_by(signals, samples):
    """The samples as though a policy with these log-probs had written them."""
    out = []
    for sample, signal in zip(samples, signals, strict=True):
        logp = np.zeros(len(sample.ids), np.float32)
        logp[sample.mask] = signal.logp_old
        out.append(replace(sample, logp_rollout=logp))
    return out


@named
def test_on_policy_it_changes_nothing(learner, correction):
    samples, _ = off_policy(fresh())
    signals = inferred(learner, samples)
    samples = written_by(signals, samples)
    plain, corrected = Grpo(), Grpo(correction=correction)
    assert gradient(learner, plain, samples, signals).equal(gradient(learner, corrected, samples, signals))
    metrics = corrected.credit(samples, signals)[1]
    assert metrics == {"policy/correction_mean": 1, "policy/correction_cut": 0, "policy/correction_ess": 1}


def test_masked_tokens_have_no_gradient_and_the_others_keep_theirs():
    rng = fresh()
    samples, signals = off_policy(rng)
    found, _ = Grpo(correction=Correction("mask")).credit(samples, signals)
    (update,) = plan(found, 10**6).updates
    (batch,) = update.shards[0]
    batch = replace(batch, **{k: torch.tensor(getattr(batch, k)) for k in ("logp_old", "advantage", "weight")})
    logp = (batch.logp_old.double() + torch.from_numpy(rng.normal(size=len(batch.logp_old)) * 0.02)).requires_grad_()
    loss, _ = Grpo().losses[0](batch, logp, None)
    loss.backward()
    w = (batch.logp_old.double() - torch.from_numpy(batch.logp_rollout).double()).exp()
    outside = (w < 0.5) | (w > 2)
    assert outside.any()
    assert ((logp.grad == 0) == outside).all()  # at ratios near 1 nothing is clipped
    expected = -w * (logp.detach() - batch.logp_old.double()).exp() * batch.advantage
    torch.testing.assert_close(logp.grad[~outside], expected[~outside], rtol=1e-5, atol=0)


@pytest.mark.parametrize("high", [2.0, 1e9], ids=["truncated", "AReaL's paper"])
def test_with_several_updates_it_is_the_decoupled_loss(high):
    """pi_prox / pi_behav * min(u A, clip(u) A), u = pi / pi_prox, from the definition in float64."""
    rng = fresh()
    samples, signals = off_policy(rng)
    found, _ = Grpo(updates_per_step=2, correction=Correction("truncate", high=high)).credit(samples, signals)
    (update,) = plan(found, 10**6).updates
    (batch,) = update.shards[0]
    prox, behav = (torch.tensor(x).double() for x in (batch.logp_old, batch.logp_rollout))
    advantage = torch.tensor(batch.advantage).double()
    at = prox + torch.from_numpy(rng.normal(size=len(prox)) * 0.3)
    mine, theirs = at.clone().requires_grad_(), at.clone().requires_grad_()
    ready = replace(batch, logp_old=prox, advantage=advantage, weight=torch.tensor(batch.weight).double())
    loss, reported = Grpo().losses[0](ready, mine, None)
    u = (theirs - prox).exp()
    surrogate = torch.minimum(u * advantage, u.clamp(0.8, 1.2) * advantage)
    truth = -((prox - behav).exp().clamp(max=high) * surrogate).sum()
    loss.backward()
    truth.backward()
    assert 0 < reported["policy/clipped"][0] < len(prox)
    torch.testing.assert_close(loss, truth, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-5, atol=1e-9)


# The config ------------------------------------------------------------------------------------------------------


def config(algorithm):
    return {
        "model": {"path": "somewhere"},
        "data": {"kind": "arithmetic"},
        "rewards": {"sources": {"exact": {"kind": "exact"}}},
        "stages": {"rl": {"kind": "rl", "steps": 1, "groups_per_step": 1, "algorithm": {"kind": "grpo", **algorithm}}},
    }


def test_its_keys():
    section = {"kind": "mask", "level": "sequence", "low": 0.2, "high": 5}
    made = parse_config(config({"correction": section}), "x").stages["rl"].algorithm.build()
    assert made == Grpo(correction=Correction("mask", "sequence", 0.2, 5.0))
    assert parse_config(config({}), "x").stages["rl"].algorithm.build() == Grpo()


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ({"kind": "mas"}, "correction: unknown kind 'mas'; did you mean 'mask'?"),
        ({"kind": "mask", "low": 1.5}, "correction.low: expected a number of at most 1, found 1.5"),
        ({"kind": "mask", "high": 0.5}, "correction.high: expected a number of at least 1, found 0.5"),
        ({"kind": "truncate", "hihg": 2}, "correction: unknown key 'hihg'; did you mean 'high'?"),
        ("mask", "correction: expected a section of keys, found 'mask'"),
    ],
)
def test_what_its_section_does_not_take(section, line):
    with pytest.raises(Refused) as refused:
        parse_config(config({"correction": section}), "x.yaml")
    assert str(refused.value) == f"x.yaml: stages.rl.algorithm.{line}"
