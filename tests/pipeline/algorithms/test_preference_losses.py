"""The losses that compare, against the formulas written out pair by pair in float64, under any packing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tiny import fresh, prompts

from pipeline.algorithms import BradleyTerry, Dpo, Ipo, Kto, Ratings, Simpo
from pipeline.packing import plan
from workers.learner.forward import to_torch
from workers.types import Sample, Signals

CPU = torch.device("cpu")


def rated(rng, groups, most=2, unrated=False):
    """Ragged samples in groups of 2 to `most`, with ratings that are sometimes equal, and signals of all kinds."""
    samples, signals = [], []
    for group in range(groups):
        size = int(rng.integers(2, most + 1))
        for index, ids in enumerate(prompts(rng, size + unrated, 3, 20)):
            mask = np.arange(len(ids)) >= rng.integers(1, len(ids))
            reward = None if index == size else float(rng.integers(0, 3))
            samples.append(Sample(group, index, ids, mask, None, reward))
            own = int(mask.sum())
            old, ref = (rng.normal(-2, 0.5, own).astype(np.float32) for _ in range(2))
            signals.append(Signals(old + (0.3 if reward is None else 0.0), ref))  # so that KTO's z is above 0
    return samples, signals


def learned(rng, algorithm, samples, signals, tokens):
    """(loss, d loss / d log-prob by sample) of the update, as the learner takes it; log-probs by sample; the mean of
    each metric."""
    credits_, _ = algorithm.credit(samples, signals)
    (update,) = plan([credits_[i] for i in rng.permutation(len(credits_))], tokens).updates
    logps = {(s.group, s.index): rng.normal(-2, 0.7, int(s.mask.sum())).astype(np.float32) for s in samples}
    total, gradients = 0.0, {}
    by_ids = {s.ids.tobytes() + s.mask.tobytes(): (s.group, s.index) for s in samples}
    for batch in update.shards[0]:
        tensors = to_torch(batch, CPU)
        ends = np.cumsum(batch.lengths)
        keys = []
        for i, (start, end) in enumerate(zip(ends - batch.lengths, ends, strict=True)):
            mask = np.zeros(end - start, bool)
            mask[batch.own[batch.owner == i] - start] = True
            keys.append(by_ids[batch.ids[start:end].astype(np.int32).tobytes() + mask.tobytes()])
        logp = torch.from_numpy(np.concatenate([logps[key] for key in keys])).requires_grad_()
        value, metrics = algorithm.losses[0](tensors, logp, None)
        assert all(math.isfinite(float(a) / float(b)) for a, b in metrics.values())
        (value / update.denominator).backward()
        total += value.item() / update.denominator
        gradients |= zip(keys, torch.split(logp.grad, [len(logps[key]) for key in keys]), strict=True)
    return total, gradients, logps


def in_float64(samples, signals, logps):
    """By group: (rating, log-probs with gradient, reference's) of each rated sample."""
    groups = {}
    for s, signal in zip(samples, signals, strict=True):
        if s.reward is not None:
            logp = torch.tensor(logps[s.group, s.index], dtype=torch.float64, requires_grad=True)
            ref = torch.tensor(signal.logp_ref, dtype=torch.float64)
            groups.setdefault(s.group, []).append((s.reward, logp, ref, (s.group, s.index)))
    return groups


def dpo(algorithm, better, worse):
    def score(one):
        return (one[1] - one[2]).mean() if algorithm.length_normalised else (one[1] - one[2]).sum()

    beta = algorithm.beta * (1 + algorithm.scale * (1 - math.exp(-algorithm.rate * (better[0] - worse[0]))))
    p = torch.sigmoid(beta * (score(better) - score(worse)))
    s = algorithm.label_smoothing
    return -(1 - s) * torch.log(p) - s * torch.log(1 - p) - algorithm.sft * better[1].mean()


def ipo(algorithm, better, worse):
    def score(one):
        return (one[1] - one[2]).mean()

    return (score(better) - score(worse) - 1 / (2 * algorithm.beta)) ** 2


def simpo(algorithm, better, worse):
    z = algorithm.beta * (better[1].mean() - worse[1].mean()) - algorithm.gamma
    return -torch.log(torch.sigmoid(z)) - algorithm.sft * better[1].mean()


PAIRED = {
    "dpo": (Dpo(), dpo),
    "smoothed": (Dpo(beta=0.5, label_smoothing=0.2), dpo),
    "length-normalised": (Dpo(beta=5.0, length_normalised=True), dpo),
    "scaled": (Dpo(scale=0.8, rate=0.7, sft=0.25), dpo),
    "ipo": (Ipo(0.3), ipo),
    "simpo": (Simpo(2.5, 0.7), simpo),
    "simpo-sft": (Simpo(sft=0.5), simpo),
}


@pytest.mark.parametrize("most", [2, 4])
@pytest.mark.parametrize("name", PAIRED)
def test_pairs_by_the_formula(name, most):
    algorithm, formula = PAIRED[name]
    rng = fresh()
    samples, signals = rated(rng, 12, most)
    loss, gradients, logps = learned(rng, algorithm, samples, signals, int(rng.integers(80, 300)))
    values = []
    groups = in_float64(samples, signals, logps)
    for members in groups.values():
        values += [formula(algorithm, a, b) for a in members for b in members if a[0] > b[0]]
    expected = sum(values) / len(values)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)
    for _, logp, _, key in (one for members in groups.values() for one in members):
        wanted = np.zeros(len(logp)) if logp.grad is None else logp.grad.numpy()
        found = gradients.get(key, torch.zeros(len(logp))).numpy()  # without a credit: all of its group rated alike
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("most", [2, 3])
def test_kto_by_the_formula(most):
    algorithm, rng = Kto(beta=0.3, good=1.5, bad=0.7), fresh()
    samples, signals = rated(rng, 8, most, unrated=True)
    loss, gradients, logps = learned(rng, algorithm, samples, signals, 150)
    others = [
        float(signal.logp_old.astype(np.float64).sum() - signal.logp_ref.astype(np.float64).sum())
        for s, signal in zip(samples, signals, strict=True)
        if s.reward is None
    ]
    z = max(0.0, sum(others) / len(others))
    values, groups = [], in_float64(samples, signals, logps)
    for members in groups.values():
        low, high = min(m[0] for m in members), max(m[0] for m in members)
        for reward, logp, ref, _ in members:
            r = (logp - ref).sum()
            if reward > (low + high) / 2:
                values.append(1.5 * (1 - torch.sigmoid(0.3 * (r - z))))
            elif reward < (low + high) / 2:
                values.append(0.7 * (1 - torch.sigmoid(0.3 * (z - r))))
    expected = sum(values) / len(values)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    for _, logp, _, key in (one for members in groups.values() for one in members):
        if logp.grad is not None:
            np.testing.assert_allclose(gradients[key].numpy(), logp.grad.numpy(), rtol=1e-4, atol=1e-7)


def test_kto_takes_single_answers_by_their_ratings_sign():
    ids, mask = np.arange(4, dtype=np.int32), np.arange(4) > 1
    samples = [Sample(i, 0, ids, mask, None, rating) for i, rating in enumerate((1.0, 0.0, 0.5, -2.0))]
    samples.append(Sample(4, 1, ids, mask, None, None))
    signal = Signals(np.array([-1.0, -1.0], np.float32), np.array([-1.5, -2.0], np.float32))
    credits_, metrics = Kto().credit(samples, [signal] * 5)
    assert [c.label for c in credits_] == [1.0, -1.0, 1.0, -1.0]
    assert metrics == {"policy/kl_ref_others": 1.5}
    assert len({c.bundle for c in credits_}) == 4


def test_at_the_reference_the_gradient_is_half_of_beta():
    """Where z is 0, as at a stage's first step: a softplus put together from clamp and abs has another one there."""
    ids, mask = np.arange(3, dtype=np.int32), np.arange(3) > 1
    logp = np.array([-1.0], np.float32)
    samples = [Sample(0, i, ids, mask, None, 1.0 - i) for i in range(2)]
    credits_, _ = Dpo(beta=0.4).credit(samples, [Signals(logp_ref=logp)] * 2)
    batch = to_torch(plan(credits_, 10).updates[0].shards[0][0], CPU)
    at = torch.tensor([-1.0, -1.0], requires_grad=True)
    loss, metrics = Dpo(beta=0.4).losses[0](batch, at, None)
    loss.backward()
    np.testing.assert_allclose(at.grad.numpy(), [-0.2, 0.2], rtol=1e-6)
    assert metrics["learner/pairs_right"] == (0.5, 1)


def test_reward_scaling_stays_in_its_bounds_and_is_off_by_default():
    rng = fresh()
    samples, signals = rated(rng, 10)
    seed = int(rng.integers(2**32))

    def loss(algorithm):
        return learned(np.random.default_rng(seed), algorithm, samples, signals, 10**6)[0]

    assert loss(Dpo(beta=0.1, scale=0.0, rate=3.0)) == loss(Dpo(beta=0.1))
    # Ratings that are far apart reach the upper bound, (1 + w) beta; ratings that hardly differ stay at the lower one.
    assert loss(Dpo(beta=0.1, scale=1.0, rate=1e3)) == pytest.approx(loss(Dpo(beta=0.2)), rel=1e-5)
    assert loss(Dpo(beta=0.1, scale=1.0, rate=1e-9)) == pytest.approx(loss(Dpo(beta=0.1)), rel=1e-5)


def scored(rng, algorithm, samples):
    """As `learned`, for a scalar model: the loss and its gradient by sample, over random numbers."""
    credits_, _ = algorithm.credit(samples, [Signals()] * len(samples))
    (update,) = plan([credits_[i] for i in rng.permutation(len(credits_))], 100).updates
    rewards = {id(c): float(rng.normal(0, 2)) for c in credits_}
    numbers = {c.sample.ids.tobytes(): (rewards[id(c)], (c.sample.group, c.sample.index)) for c in credits_}
    total, gradients, values_of = 0.0, {}, {}
    for batch in update.shards[0]:
        ends = np.cumsum(batch.lengths)
        found = [
            numbers[batch.ids[a:b].astype(np.int32).tobytes()] for a, b in zip(ends - batch.lengths, ends, strict=True)
        ]
        values = torch.tensor([[value] for value, _ in found], requires_grad=True)
        loss, _ = algorithm.scalar.loss(to_torch(batch, CPU), values)
        (loss / update.denominator).backward()
        total += loss.item() / update.denominator
        values_of |= {key: value for value, key in found}
        gradients |= {key: g for (_, key), g in zip(found, values.grad[:, 0].tolist(), strict=True)}
    return total, gradients, values_of


def long_samples(rng, groups, most):
    samples, _ = rated(rng, groups, most)
    ids = [np.concatenate([s.ids, np.array([i + 100], np.int32)]) for i, s in enumerate(samples)]
    return [
        Sample(s.group, s.index, one, np.append(s.mask, True), None, s.reward)
        for s, one in zip(samples, ids, strict=True)
    ]


@pytest.mark.parametrize(("margin", "centring"), [(False, 0.0), (True, 0.0), (False, 0.1), (True, 0.02)])
@pytest.mark.parametrize("most", [2, 4])
def test_bradley_terry_by_the_formula(margin, centring, most):
    rng = fresh()
    samples = long_samples(rng, 12, most)
    loss, gradients, values = scored(rng, BradleyTerry(margin=margin, centring=centring), samples)
    r = {key: torch.tensor(value, dtype=torch.float64, requires_grad=True) for key, value in values.items()}
    terms = []
    for a in samples:
        for b in samples:
            if a.group == b.group and a.reward > b.reward:
                x, y = r[a.group, a.index], r[b.group, b.index]
                m = a.reward - b.reward if margin else 0.0
                terms.append(-torch.log(torch.sigmoid(x - y - m)) + centring * (x + y) ** 2)
    expected = sum(terms) / len(terms)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    for key, one in r.items():
        assert gradients[key] == pytest.approx(one.grad.item(), rel=1e-4, abs=1e-7)


def test_answers_to_another_prompt_are_tied_by_the_formula():
    """Each group has two or three unrated answers, the next task's; their tie is least, ln 2, where they are level."""
    rng = fresh()
    samples = long_samples(rng, 8, 2)
    foreign = [
        Sample(
            g,
            2 + i,
            np.concatenate([ids, np.array([500 + 10 * g + i], np.int32)]),
            np.arange(len(ids) + 1) > 1,
            None,
            None,
        )
        for g in range(8)
        for i, ids in enumerate(prompts(rng, 2 + g % 2, 3, 20))
    ]
    samples = sorted([*samples, *foreign], key=lambda s: (s.group, s.index))
    loss, gradients, values = scored(rng, BradleyTerry(neutral=0.7), samples)
    r = {key: torch.tensor(value, dtype=torch.float64, requires_grad=True) for key, value in values.items()}
    preferred, tied = [], []
    for a in samples:
        for b in samples:
            if a.group == b.group and a.reward is not None and b.reward is not None and a.reward > b.reward:
                preferred.append(-torch.log(torch.sigmoid(r[a.group, a.index] - r[b.group, b.index])))
            if a.group == b.group and a.reward is None and b.reward is None and a.index < b.index:
                d = r[a.group, a.index] - r[b.group, b.index]
                tied.append(-0.5 * (torch.log(torch.sigmoid(d)) + torch.log(torch.sigmoid(-d))))
    assert min(one.item() for one in tied) >= math.log(2)
    expected = (sum(preferred) + 0.7 * sum(tied)) / len(preferred)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    for key, one in r.items():
        assert gradients[key] == pytest.approx(one.grad.item(), rel=1e-4, abs=1e-7)
    assert BradleyTerry().credit(foreign, [Signals()] * len(foreign)) == ([], {})
    credits_, _ = BradleyTerry(neutral=0.7).credit(samples, [Signals()] * len(samples))
    tied = {c.bundle for c in credits_ if c.sample.reward is None}
    assert len(tied) > 1
    assert not tied & {c.bundle for c in credits_ if c.sample.reward is not None}


def test_ratings_by_the_formula():
    rng = fresh()
    samples = long_samples(rng, 10, 3)
    loss, _, values = scored(rng, Ratings(), samples)
    assert len(values) == len(samples)
    errors = [(values[s.group, s.index] - s.reward) ** 2 for s in samples]
    assert loss == pytest.approx(sum(errors) / len(errors), rel=1e-5)
