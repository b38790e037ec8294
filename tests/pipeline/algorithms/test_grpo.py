"""Credit by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.algorithms import Grpo, Sft
from pipeline.algorithms.losses import ClippedSurrogate, KlPenalty, NegativeLogLikelihood
from workers.types import Needs, Sample, Signals

ROOT = 0.5 / (np.sqrt(1 / 3) + 1e-6)  # two of four rewarded: 0.5 over the sample standard deviation


def sample(group, index, reward, own, prompt=2):
    mask = np.arange(prompt + own) >= prompt
    return Sample(
        group, index, np.arange(prompt + own, dtype=np.int32), mask, np.zeros(prompt + own, np.float32), reward
    )


def credit(algorithm, samples, signals=None):
    credits_, metrics = algorithm.credit(samples, signals or [Signals()] * len(samples))
    assert metrics == {}
    return credits_


def test_a_group_by_hand():
    samples = [sample(0, i, reward, own) for i, (reward, own) in enumerate([(1.0, 3), (0.0, 1), (0.0, 2), (1.0, 4)])]
    found = credit(Grpo(group_size=4), samples)
    assert [c.sample for c in found] == samples
    for c, advantage, own in zip(found, [ROOT, -ROOT, -ROOT, ROOT], [3, 1, 2, 4], strict=True):
        np.testing.assert_allclose(c.advantage, np.full(own, advantage), rtol=1e-6)
        assert c.weight.tolist() == [1.0] * own
        assert c.mass == own
        assert c.advantage.dtype == c.weight.dtype == np.float32


def test_a_mean_over_each_response_first():
    samples = [sample(0, 0, 1.0, 4), sample(0, 1, 0.0, 2)]
    found = credit(Grpo(aggregate="sequence", scale=False), samples)
    assert [c.weight.tolist() for c in found] == [[0.25] * 4, [0.5] * 2]
    assert [c.mass for c in found] == [1.0, 1.0]
    assert [c.advantage.tolist() for c in found] == [[0.5] * 4, [-0.5] * 2]


def test_groups_without_signal_drop_out_and_masked_samples_do_not_count():
    samples = [
        *(sample(0, i, 1.0, 2) for i in range(4)),
        sample(1, 0, 3.0, 2),  # the others of its group could not be judged
        *(sample(2, i, float(i == 2), 1) for i in (0, 2, 3)),
    ]
    found = credit(Grpo(group_size=4, scale=False), samples)
    assert [(c.sample.group, c.sample.index) for c in found] == [(2, 0), (2, 2), (2, 3)]
    np.testing.assert_allclose([c.advantage[0] for c in found], [-1 / 3, 2 / 3, -1 / 3], rtol=1e-6)
    assert credit(Grpo(), samples[:5]) == []


def test_the_divergence_is_taken_from_the_reward_of_the_response():
    algorithm = Grpo(group_size=2, scale=False, kl_coefficient=0.5, kl_in="reward", kl_estimator="k1")
    samples = [sample(0, 0, 1.0, 2), sample(0, 1, 1.0, 1)]
    old = [np.array([-1.0, -2.0], np.float32), np.array([-1.0], np.float32)]
    ref = [np.array([-1.5, -1.7], np.float32), np.array([-3.0], np.float32)]
    found = credit(algorithm, samples, [Signals(o, r) for o, r in zip(old, ref, strict=True)])
    # k1 = logp - logp_ref: 0.5 - 0.3 and 2.0; rewards 1 - 0.1 and 1 - 1.0
    np.testing.assert_allclose([c.advantage[0] for c in found], [0.45, -0.45], rtol=1e-5)
    assert [c.signals.logp_ref is r for c, r in zip(found, ref, strict=True)] == [True, True]


@pytest.mark.parametrize(
    ("algorithm", "needs", "losses"),
    [
        (Grpo(), Needs(), (ClippedSurrogate(0.2, 0.2),)),
        (Grpo(updates_per_step=4, clip_high=0.28), Needs(logp_old=True), (ClippedSurrogate(0.2, 0.28),)),
        (Grpo(kl_coefficient=0.1), Needs(logp_ref=True), (ClippedSurrogate(0.2, 0.2), KlPenalty(0.1, "k3"))),
        (Grpo(kl_coefficient=0.1, kl_in="reward"), Needs(True, True), (ClippedSurrogate(0.2, 0.2),)),
        (Sft(), Needs(), (NegativeLogLikelihood(),)),
    ],
)
def test_what_is_asked_of_the_learner(algorithm, needs, losses):
    assert algorithm.needs == needs
    assert tuple(algorithm.losses) == losses


def test_sft_counts_every_own_token_alike():
    samples = [sample(0, 0, None, 3), sample(1, 0, None, 0), sample(2, 0, None, 1)]
    found = credit(Sft(), samples)
    assert [c.sample.group for c in found] == [0, 2]
    assert [c.weight.tolist() for c in found] == [[1.0] * 3, [1.0]]
    assert [c.mass for c in found] == [3.0, 1.0]
