"""PPO's credit, its critic's loss and its KL controller: against verl, and against sums written out in float64."""

from __future__ import annotations

import copy
import json
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from oracles import oracle
from tiny import fresh

from pipeline.algorithms.critic import ClippedValueLoss, Critic
from pipeline.algorithms.gae import gae
from pipeline.algorithms.kl_control import Controlled, KlControl
from pipeline.algorithms.ppo import Ppo
from pipeline.check import check
from pipeline.config import load_config
from rewards.errors import Refused
from workers.types import Sample, Signals


def step(rng, count=12, equal=False):
    """Ragged samples, some in several spans of own tokens, and what a learner says of them."""
    samples, signals = [], []
    for i in range(count):
        length = int(rng.integers(2, 40))
        mask = rng.random(length) < 0.7
        mask[0], mask[-1] = False, True
        own, reward = int(mask.sum()), 1.0 if equal else float(rng.normal())
        ids, logp = np.zeros(length, np.int32), np.zeros(length, np.float32)
        samples.append(Sample(i // 2, i % 2, ids, mask, logp, reward))
        # At most 2 nats apart, k3 then at most 4.4: verl cuts a token's KL off from 10 on.
        old, ref = (np.clip(rng.normal(size=own, scale=0.5), -1, 1).astype(np.float32) for _ in range(2))
        value = rng.normal(size=own).astype(np.float32)
        signals.append(Signals(logp_old=old, logp_ref=ref, value=value))
    return samples, signals


def padded(samples, arrays):
    """f[own] of each sample as a padded batch over all its tokens, what is not its own 0."""
    out = np.zeros((len(samples), max(len(s.ids) for s in samples)))
    for row, sample, values in zip(out, samples, arrays, strict=True):
        row[np.flatnonzero(sample.mask)] = values
    return torch.from_numpy(out)


def unpadded(samples, batch):
    return [row[np.flatnonzero(s.mask)] for row, s in zip(batch.numpy(), samples, strict=True)]


def kl_of(signal, estimator):
    d = signal.logp_ref.astype(np.float64) - signal.logp_old
    return {"k1": -d, "k2": d * d / 2, "k3": np.exp(d) - d - 1}[estimator]


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (0.97, 0.9), (1.0, 0.95), (0.9, 0.0), (0.0, 1.0)])
def test_gae_is_the_sum_it_stands_for(gamma, lam):
    rng = fresh()
    for n in (1, 2, 17):
        rewards, values = rng.normal(size=n), rng.normal(size=n).astype(np.float32)
        v = np.append(values.astype(np.float64), 0.0)
        deltas = [rewards[t] + gamma * v[t + 1] - v[t] for t in range(n)]
        expected = np.array([sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, n)) for t in range(n)])
        advantages, returns = gae(rewards, values, gamma, lam)
        np.testing.assert_allclose(advantages, expected, atol=1e-12)
        np.testing.assert_allclose(returns, expected + v[:-1], atol=1e-12)
    if lam == 1.0:  # then the returns are the discounted rewards to come, whatever the values say
        np.testing.assert_allclose(returns[0], sum(gamma**k * r for k, r in enumerate(rewards)), atol=1e-12)


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (0.97, 0.9)])
@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_credit_is_verls(gamma, lam, estimator):
    verl = oracle("verl.trainer.ppo.core_algos")
    samples, signals = step(fresh())
    algorithm = Ppo(gamma=gamma, lam=lam, kl_coefficient=0.2, kl_estimator=estimator)
    credits_, metrics = algorithm.credit(samples, signals)
    penalty = {"k1": "kl", "k3": "low_var_kl"}[estimator]
    mask = padded(samples, [np.ones(s.mask.sum()) for s in samples])
    old, ref, values = (
        padded(samples, [getattr(s, name) for s in signals]) for name in ("logp_old", "logp_ref", "value")
    )
    kl = verl.kl_penalty(old, ref, penalty) * mask
    rewards = -0.2 * kl
    for row, sample in zip(rewards, samples, strict=True):
        row[len(sample.ids) - 1] += sample.reward
    advantages, returns = verl.compute_gae_advantage_return(rewards, values, mask, gamma, lam)
    for credit, a, r in zip(credits_, unpadded(samples, advantages), unpadded(samples, returns), strict=True):
        np.testing.assert_allclose(credit.advantage, a, atol=1e-5)
        np.testing.assert_allclose(credit.target, r, atol=1e-5)
        assert credit.mass == len(a)
    assert metrics["policy/kl_response"] == pytest.approx(float(kl.sum(1).mean()), rel=1e-5, abs=1e-6)
    assert metrics["policy/kl_ref"] == pytest.approx(float(kl.sum() / mask.sum()), rel=1e-5, abs=1e-6)
    want = 1 - np.var(np.concatenate(unpadded(samples, returns - values))) / np.var(
        np.concatenate(unpadded(samples, returns))
    )
    assert metrics["critic/explained_variance"] == pytest.approx(want, rel=1e-4)


def test_credit_by_hand():
    """Two responses of two tokens, gamma 0.5, lambda 0.5, KL k1 at 0.1."""
    mask = np.array([False, True, True])
    make = lambda reward: Sample(0, 0, np.zeros(3, np.int32), mask, np.zeros(3, np.float32), reward)  # noqa: E731
    f = lambda *x: np.array(x, np.float32)  # noqa: E731
    one = Signals(logp_old=f(-1, -2), logp_ref=f(-2, -1), value=f(0.5, 0.25))
    two = Signals(logp_old=f(-1, -1), logp_ref=f(-1, -1), value=f(0, 0))
    credits_, metrics = Ppo(gamma=0.5, lam=0.5, kl_coefficient=0.1).credit([make(1.0), make(-1.0)], [one, two])
    # KL is +1 and -1: rewards -0.1 and 1.1; deltas -0.1 + 0.125 - 0.5 = -0.475 and 1.1 - 0.25 = 0.85
    advantages = np.array([-0.475 + 0.25 * 0.85, 0.85, -0.25, -1.0])
    np.testing.assert_allclose(credits_[0].target, advantages[:2] + np.array([0.5, 0.25]), atol=1e-6)
    np.testing.assert_allclose(credits_[1].target, advantages[2:], atol=1e-6)
    white = (advantages - advantages.mean()) / advantages.std(ddof=1)
    np.testing.assert_allclose(np.concatenate([c.advantage for c in credits_]), white, atol=1e-6)
    assert metrics["policy/kl_ref"] == pytest.approx(0.0, abs=1e-7)
    assert metrics["critic/value_mean"] == pytest.approx(0.1875)


def test_equal_rewards_teach_the_critic_and_leave_the_policy_alone():
    samples, signals = step(fresh(), equal=True)
    signals = [Signals(value=np.zeros_like(s.value)) for s in signals]
    credits_, metrics = Ppo().credit(samples, signals)
    assert len(credits_) == len(samples)
    assert all((c.advantage == 0).all() and (c.target == 1).all() for c in credits_)
    assert metrics == {"critic/value_mean": 0.0, "critic/return_mean": 1.0}
    assert Ppo().credit([], []) == ([], {})


@pytest.mark.parametrize("clip", [0.2, 0.5, None])
def test_the_critics_loss_and_gradient_are_verls(clip):
    verl = oracle("verl.trainer.ppo.core_algos")
    rng = fresh()
    samples, _ = step(rng)
    arrays = {name: [rng.normal(size=s.mask.sum()) for s in samples] for name in ("now", "old", "target")}
    flat = {name: torch.from_numpy(np.concatenate(some)) for name, some in arrays.items()}
    now = flat["now"][:, None].clone().requires_grad_(True)
    batch = SimpleNamespace(value_old=flat["old"], target=flat["target"], weight=torch.ones(len(now)))
    loss, metrics = ClippedValueLoss(0.5, clip)(batch, now)
    (loss / len(now)).backward()
    theirs = {name: padded(samples, some) for name, some in arrays.items()}
    theirs["now"].requires_grad_(True)
    mask = padded(samples, [np.ones(s.mask.sum()) for s in samples])
    bound = 1e9 if clip is None else clip
    expected, clipped = verl.compute_value_loss(
        theirs["now"], theirs["target"], theirs["old"], mask, bound, "token-mean"
    )
    expected.backward()
    assert (loss / len(now)).item() == pytest.approx(expected.item(), rel=1e-9)
    np.testing.assert_allclose(now.grad[:, 0], np.concatenate(unpadded(samples, theirs["now"].grad)), atol=1e-12)
    assert float(metrics["critic/clipped"][0] / metrics["critic/clipped"][1]) == pytest.approx(clipped.item(), abs=1e-6)
    assert float(metrics["critic/loss"][0] / metrics["critic/loss"][1]) == pytest.approx(expected.item(), rel=1e-9)


def test_the_critics_loss_is_weighted_token_by_token():
    weight = torch.tensor([0.0, 2.0])
    batch = SimpleNamespace(value_old=torch.zeros(2), target=torch.tensor([9.0, 3.0]), weight=weight)
    loss, _ = ClippedValueLoss(0.5, None)(batch, torch.tensor([[0.0], [1.0]]))
    assert loss.item() == 0.5 * 2 * 4


def test_the_kl_controller_is_verls():
    verl = oracle("verl.trainer.ppo.core_algos")
    rng = fresh()
    theirs = verl.AdaptiveKLController(init_kl_coef=0.2, target_kl=6.0, horizon=1000)
    ours, control = 0.2, KlControl(target=6.0, horizon=1000)
    for _ in range(30):
        kl, n = float(rng.uniform(0, 15)), int(rng.integers(1, 300))
        theirs.update(current_kl=kl, n_steps=n)
        ours = control.next(ours, kl, n)
        assert ours == pytest.approx(theirs.value, rel=1e-12)
    assert KlControl().next(0.2, 100.0, 64) == 0.2


def test_a_controlled_coefficient_moves_after_its_step_and_is_remembered():
    rng = fresh()
    algorithm = Ppo(kl_coefficient=0.5, kl_control=KlControl(target=2.0, horizon=100))
    steps = [step(rng) for _ in range(4)]
    memory = {}
    controlled, coefficient = Controlled(algorithm, memory), 0.5
    for i, (samples, signals) in enumerate(steps):
        if i == 2:  # killed and taken up again
            memory = copy.deepcopy(memory)
            controlled = Controlled(algorithm, memory)
        credits_, metrics = controlled.credit(samples, signals)
        plain, _ = Ppo(kl_coefficient=coefficient).credit(samples, signals)
        assert metrics["policy/kl_coefficient"] == coefficient
        assert all((a.target == b.target).all() for a, b in zip(credits_, plain, strict=True))
        kl = np.mean([kl_of(signal, "k1").sum() for signal in signals])
        coefficient *= 1 + float(np.clip(kl / 2.0 - 1, -0.2, 0.2)) * len(samples) / 100
        assert memory == {"kl_coefficient": pytest.approx(coefficient)}
        coefficient = memory["kl_coefficient"]
    assert (controlled.needs, controlled.losses) == (algorithm.needs, algorithm.losses)


def test_what_it_asks_of_the_learner():
    needs = Ppo(critic=Critic(trunk="shared", lr=1e-5, warmup=3)).needs
    assert (needs.logp_old, needs.logp_ref, bool(needs)) == (False, False, True)
    assert (needs.critic.shared, needs.critic.lr, needs.critic.warmup, needs.critic.heads) == (True, 1e-5, 3, 1)
    assert Ppo(kl_coefficient=0.1).needs.logp_old
    assert pickle.loads(pickle.dumps(needs)) == needs


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"critic": {"trunk": "shared", "start": "rm"}}, "critic.start: 'rm' with trunk: shared"),
        ({"kl_control": {"target": 6.0}}, "kl_control.target: with kl_coefficient 0"),
        (
            {"kl_control": {"target": 6.0}, "kl_coefficient": 0.1, "kl_in": "loss"},
            "expected a start above 0, and kl_in",
        ),
        ({"critic": {"trunc": "shared"}}, "unknown key 'trunc'; did you mean 'trunk'"),
        ({"critic": None}, "critic"),
        ({"critic": {"start": "before"}}, "stage 'before' makes no reward model"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(tmp_path, keys, line):
    with pytest.raises(Refused) as refused:
        load_config(config(tmp_path, keys))
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_critics_start_is_looked_for_before_the_run(tmp_path):
    start = tmp_path / "reward_modle"
    (tmp_path / "reward_model").mkdir()
    line = r"stages.rl.algorithm.critic.start: model .*: no such directory, did you mean 'reward_model'"
    with pytest.raises(Refused, match=line):
        check(load_config(config(tmp_path, {"critic": {"start": str(start)}})))


def config(folder, keys):
    path = folder / "run.yaml"
    text = {"kind": "ppo", **keys}
    path.write_text(
        "model: {init: {}}\ndata: {kind: arithmetic}\nrewards: {sources: {exact: {kind: exact}}}\nstages:\n"
        "  before: {kind: sft, steps: 1, groups_per_step: 2}\n"
        f"  rl: {{kind: rl, steps: 1, groups_per_step: 2, algorithm: {json.dumps(text)}}}\n"
    )
    return path
