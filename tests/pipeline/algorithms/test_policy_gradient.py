"""What the policy gradients share: means, overlong punishment, KL in the reward, refusals; by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from steps import credited, step
from tiny import fresh

from pipeline.algorithms import (
    ALGORITHMS,
    Campo,
    Cispo,
    Gdpo,
    Grpo,
    Gspo,
    Pairwise,
    ReinforcePlusPlus,
    Rejection,
    ReMax,
    Rloo,
    Sft,
)
from pipeline.algorithms import StableReinforce as Stable
from pipeline.algorithms.correction import Correction
from pipeline.algorithms.estimators import without_outliers
from pipeline.algorithms.losses import ClippedSurrogate, KlPenalty, SequenceSurrogate, WeightedLogProb
from pipeline.algorithms.policy_gradient import PolicyGradient
from pipeline.config import parse_config
from pipeline.packing import plan
from rewards.errors import Refused
from rewards.shaping.overlong import overlong
from rewards.types import Score
from workers.types import Needs, Sample, Signals

FAMILY = {kind: cls for kind, cls in ALGORITHMS.items() if issubclass(cls, PolicyGradient) and kind != "ppo"}


def sample(group, index, reward, own, prompt=2):
    mask = np.arange(prompt + own) >= prompt
    ids = np.arange(prompt + own, dtype=np.int32)
    scores = {"exact": Score(reward)}
    return Sample(group, index, ids, mask, np.zeros(prompt + own, np.float32), reward, scores=scores)


def credit(algorithm, samples):
    return algorithm.credit(samples, [Signals()] * len(samples))[0]


def test_the_family_is_whole():
    assert len(FAMILY) == 12


@pytest.mark.parametrize("kind", FAMILY)
def test_credit_of_any_of_them(kind):
    """Shapes and dtypes, finite, in the samples' order, and what the whole family drops: nothing that has a sign."""
    samples, signals = step(fresh(), low=8, high=8, weights={"exact": 1.0, "length": 0.3})
    found, _ = FAMILY[kind](group_size=8).credit(samples, signals)
    order = [(c.sample.group, c.sample.index) for c in found]
    assert order == sorted(order)
    assert len(found) >= len(samples) * 3 // 4 * 7 // 8
    for c in found:
        own = int(c.sample.mask.sum())
        assert c.advantage.shape == c.weight.shape == (own,)
        assert c.advantage.dtype == c.weight.dtype == np.float32
        assert np.isfinite(c.advantage).all()
        assert c.weight.sum() == pytest.approx(c.mass)


@pytest.mark.parametrize("kind", FAMILY)
def test_equal_rewards_are_no_signal(kind):
    samples = [sample(g, i, 0.1, 1 + i) for g in range(3) for i in range(8)]
    assert credit(FAMILY[kind](group_size=8), samples) == []
    assert credit(FAMILY[kind](group_size=8), []) == []


@pytest.mark.parametrize("kind", FAMILY)
def test_a_better_rollout_is_never_worth_less_than_a_worse_one(kind):
    samples = [sample(0, i, float(i), 3) for i in range(4)] + [sample(1, i, float(-i), 2) for i in range(4)]
    found = {
        (c.sample.group, c.sample.index): float(c.advantage[0]) for c in credit(FAMILY[kind](group_size=4), samples)
    }
    for group, sign in ((0, 1), (1, -1)):
        own = [sign * found[group, i] for i in range(4) if (group, i) in found]
        assert own == sorted(own)
        assert own[0] < own[-1]


@pytest.mark.parametrize(
    ("aggregate", "weights", "masses"),
    [
        ("token", [[1] * 4, [1] * 2], [4, 2]),
        ("sequence", [[0.25] * 4, [0.5] * 2], [1, 1]),
        ("constant", [[0.1] * 4, [0.1] * 2], [1, 1]),
    ],
)
def test_means(aggregate, weights, masses):
    found = credit(Grpo(scale=False, aggregate=aggregate, max_tokens=10), [sample(0, 0, 1.0, 4), sample(0, 1, 0.0, 2)])
    np.testing.assert_allclose(np.concatenate([c.weight for c in found]), np.concatenate(weights), rtol=1e-6)
    assert [c.mass for c in found] == masses
    assert [c.advantage[0] for c in found] == [0.5, -0.5]


def test_overlong_responses_are_punished_before_the_advantage():
    assert [overlong(n, 10, 4) for n in (1, 6, 7, 8, 10, 12)] == [0, 0, 0.25, 0.5, 1, 1]
    algorithm = Grpo(scale=False, max_tokens=10, overlong_buffer=4, overlong_penalty=2.0)
    found = credit(algorithm, [sample(0, i, 1.0, own) for i, own in enumerate([6, 7, 8, 12])])
    rewards = np.array([1.0, 0.5, 0.0, -1.0])
    np.testing.assert_allclose([c.advantage[0] for c in found], rewards - rewards.mean())
    assert credit(Grpo(), [c.sample for c in found]) == []


def test_overlong_is_verls():
    """verl's DAPO reward manager: min(-(length - (limit - buffer)) / buffer * factor, 0)."""
    rng = fresh()
    for _ in range(200):
        limit = int(rng.integers(2, 50))
        buffer, length = int(rng.integers(1, limit + 1)), int(rng.integers(1, limit + 1))
        assert -overlong(length, limit, buffer) == pytest.approx(min(-(length - (limit - buffer)) / buffer, 0))


def test_stable_reinforce_drops_outliers():
    """255 of 256 rewards are 1: the one 0 has z = -sqrt(255), and counts for nothing; z is over the step."""
    samples = [sample(i // 8, i % 8, float(i != 77), 1 + i % 3) for i in range(256)]
    found = credit(Stable(), samples)
    assert len(found) == 256
    np.testing.assert_allclose(found[77].advantage, 0)
    np.testing.assert_allclose(found[0].advantage, 1 / 255**0.5, rtol=1e-6)
    rewards = np.array([s.reward for s in samples])
    np.testing.assert_allclose(without_outliers(rewards, 16)[77], -(255**0.5))


def test_stable_reinforce_is_the_z_score_of_the_step():
    samples, signals = step(fresh(), low=1)
    rewards = np.array([s.reward for s in samples])
    z = (rewards - sum(rewards) / len(rewards)) / (sum((rewards - rewards.mean()) ** 2) / len(rewards)) ** 0.5
    found, _ = Stable().credit(samples, signals)
    np.testing.assert_allclose([c.advantage[0] for c in found], np.where(np.abs(z) > 3, 0, z), rtol=1e-5, atol=1e-6)
    assert (np.abs(z) > 1).any()
    np.testing.assert_allclose(without_outliers(rewards, 1.0), np.where(np.abs(z) > 1, 0, z))


def test_a_rollout_left_alone_in_its_group():
    """The others could not be judged. With a baseline of the group's it teaches nothing; with the step's it does."""
    samples = [sample(0, 0, 5.0, 2), *(sample(1, i, float(i), 2) for i in range(3)), sample(2, 0, 4.0, 2)]
    for algorithm in (
        Grpo(),
        Rloo(),
        Gspo(),
        Cispo(),
        Gdpo(),
        Pairwise(),
        Campo(),
        ReinforcePlusPlus(baseline="group"),
    ):
        assert [c.sample.group for c in credit(algorithm, samples)] == [1, 1, 1], algorithm
    for algorithm in (ReinforcePlusPlus(), Stable()):
        assert [c.sample.group for c in credit(algorithm, samples)] == [0, 1, 1, 1, 2]


def test_remax_learns_nothing_from_the_greedy_rollout_nor_without_it():
    rewards = {(0, 0): 1.0, (0, 1): 0.0, (0, 2): 0.25, (1, 0): 1.0, (1, 1): 0.0, (2, 1): 3.0, (2, 2): 1.0}
    found = credit(ReMax(group_size=3), [sample(g, i, r, 2) for (g, i), r in rewards.items()])
    assert [(c.sample.group, c.sample.index, float(c.advantage[0])) for c in found] == [
        (0, 0, 0.75),
        (0, 1, -0.25),
        (2, 1, 2.0),
    ]


def test_a_kl_in_the_reward_is_taken_token_by_token_from_the_returns():
    samples = [sample(0, 0, 1.0, 3), sample(0, 1, 0.0, 1)]
    old, ref = (np.array(x, np.float32) for x in ([-1.0, -1.0, -1.0], [-1.5, -1.0, -2.0]))
    signals = [Signals(old, ref), Signals(old[:1], old[:1])]
    found, _ = ReinforcePlusPlus(kl_coefficient=0.5).credit(samples, signals)
    returns = np.array([1 - 0.25 - 0.5, 1 - 0.5, 1 - 0.5, 0.0])  # k1 = 0.5, 0, 1
    expected = (returns - returns.mean()) / np.sqrt(returns.var(ddof=1) + 1e-8)
    np.testing.assert_allclose(np.concatenate([c.advantage for c in found]), expected, rtol=1e-5)


def test_what_is_asked_of_the_learner_and_of_the_engine():
    assert ReMax().needs == Needs(greedy=True)
    assert not ReMax().needs, "the greedy rollout is no question to the learner"
    assert ReinforcePlusPlus(kl_coefficient=0.1).needs == Needs(logp_old=True, logp_ref=True)
    assert Rloo(correction=Correction("mask"), updates_per_step=2).needs == Needs(logp_old=True)
    assert Gspo().needs == Needs(logp_old=True), "its clip is narrower than an engine's rounding"
    assert tuple(Gspo().losses) == (SequenceSurrogate(3e-4, 4e-4),)
    assert tuple(Cispo(kl_coefficient=0.1).losses) == (WeightedLogProb(1.0, 4.0), KlPenalty(0.1, "k3"))
    assert tuple(Stable().losses) == (ClippedSurrogate(0.2, 0.2, 1000.0),)


def test_dr_grpo_weighs_every_token_of_every_response_alike():
    """The gradient of sum_i sum_t A_i log pi_t / (n * max_tokens), from the definition."""
    samples, signals = step(fresh(), groups=3)
    found, _ = Grpo(scale=False, aggregate="constant", max_tokens=50).credit(samples, signals)
    denominator = sum(c.mass for c in found)
    for c in found:
        others = [s.reward for s in samples if s.group == c.sample.group]
        expected = (c.sample.reward - sum(others) / len(others)) / (50 * len(found))
        np.testing.assert_allclose(c.advantage * c.weight / denominator, expected, rtol=1e-4, atol=1e-7)


# The config ------------------------------------------------------------------------------------------------------


def config(**algorithm):
    return {
        "model": {"path": "somewhere"},
        "data": {"kind": "arithmetic"},
        "rewards": {"sources": {"exact": {"kind": "exact"}}},
        "stages": {"rl": {"kind": "rl", "steps": 1, "groups_per_step": 1, "algorithm": algorithm}},
    }


@pytest.mark.parametrize("kind", FAMILY)
def test_each_is_a_kind_of_the_config(kind):
    made = parse_config(config(kind=kind, clip_high=0.5), "x").stages["rl"].algorithm.build()
    assert made == FAMILY[kind](clip_high=0.5)
    assert parse_config(config(kind=kind), "x").stages["rl"].algorithm.build() == FAMILY[kind]()


@pytest.mark.parametrize(
    ("algorithm", "line"),
    [
        ({"kind": "grpo", "group_size": 1}, ".group_size: expected a number of at least 2, found 1"),
        ({"kind": "remax", "group_size": 1}, ".group_size: expected a number of at least 2, found 1"),
        (
            {"kind": "reinforce_plus_plus", "group_size": 1, "baseline": "group"},
            ": group_size: found 1, expected 2 or more for baseline: group; or baseline: batch",
        ),
        (
            {"kind": "grpo", "aggregate": "constant"},
            ": aggregate: constant divides by max_tokens, found 0, expected rollout.max_new_tokens",
        ),
        (
            {"kind": "rloo", "overlong_buffer": 5, "max_tokens": 4},
            ": overlong_buffer: 5 with max_tokens 4, expected at most max_tokens, which is rollout.max_new_tokens",
        ),
        ({"kind": "rlo"}, ": unknown kind 'rlo'; did you mean 'rloo'?"),
        ({"kind": "rloo", "scale": True}, ": unknown key 'scale'; "),
    ],
)
def test_what_the_config_refuses(algorithm, line):
    with pytest.raises(Refused) as refused:
        parse_config(config(**algorithm), "x.yaml")
    assert str(refused.value).startswith(f"x.yaml: stages.rl.algorithm{line}")
    assert "\n" not in str(refused.value)


def test_a_group_of_one_is_enough_for_the_steps_baseline():
    samples, signals = step(fresh(), low=1, high=1)
    _, taken = credited(ReinforcePlusPlus(group_size=1), samples, signals)
    assert taken.all()


def test_a_likelihood_is_torchs():
    """SFT's loss on packed log-probs, and rejection sampling's, beside cross-entropy over a random vocabulary."""
    rng = fresh()
    samples, signals = step(rng)
    credits_, _ = Sft().credit(samples, signals)
    (update,) = plan(credits_, 10**6).updates
    (batch,) = update.shards[0]
    logits = torch.tensor(rng.normal(size=(len(batch.own), 11)), requires_grad=True)
    targets = torch.tensor(rng.integers(0, 11, len(batch.own)))
    logp = logits.log_softmax(-1)[torch.arange(len(targets)), targets]
    weights = SimpleNamespace(weight=torch.tensor(batch.weight, dtype=torch.float64))
    loss, metrics = Sft().losses[0](weights, logp, None)
    (mine,) = torch.autograd.grad(loss / update.denominator, logits, retain_graph=True)
    expected = torch.nn.functional.cross_entropy(logits, targets)
    (theirs,) = torch.autograd.grad(expected, logits)
    assert (loss / update.denominator).item() == pytest.approx(expected.item(), rel=1e-9)
    torch.testing.assert_close(mine, theirs)
    total, count = metrics["learner/nll"]
    assert float(total) / count == pytest.approx(expected.item(), rel=1e-9)
    assert Rejection().losses == Sft().losses
