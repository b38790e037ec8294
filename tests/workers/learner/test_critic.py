"""The critic in the learner, against a plain loop in float64: gradients, packing, warm-up, checkpoints."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import fresh, make, prompts, reference
from transformers import AutoModelForSequenceClassification

from pipeline.algorithms import Grpo
from pipeline.algorithms.critic import Critic
from pipeline.algorithms.ppo import Ppo
from pipeline.packing import for_inference, plan, unpack
from rewards.errors import Refused, RunFailed
from workers.learner.engine_torch import TorchLearner
from workers.models.load import load_tokenizer, save_model
from workers.types import Needs, Optimization, Sample, Signals

TRUNKS = ("separate", "shared")
KL = {"kl_coefficient": 0.1}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    """Weights of the usual size: with the wide ones, float32 rounds too much away to compare packings."""
    return make(tmp_path_factory.mktemp("usual"), initializer_range=0.02)


def ppo(trunk, warmup=0, **keys):
    critic = Critic(trunk, lr=1e-2, warmup=warmup, value_clip=0.3, coefficient=0.7)
    return Ppo(**{"lam": 0.9, "gamma": 0.97, "critic": critic} | keys)


def begun(path, algorithm, dtype=torch.float32, **spec):
    """A learner whose critic has something to say."""
    made = TorchLearner(path)
    made.begin(
        Optimization(10, **{"lr": 1e-3, **spec}), algorithm.losses, algorithm.needs.logp_ref, algorithm.needs.critic
    )
    with torch.no_grad():
        name = "weight" if algorithm.critic.trunk == "shared" else "score.weight"
        head = dict(made.scalar.model.named_parameters())[name]
        head.copy_(torch.from_numpy(np.random.default_rng(0).normal(size=head.shape)) * 0.3)
    made.policy.to(dtype)
    made.scalar.model.to(dtype)
    return made


def rolled(rng, made, count=16):
    """Judged samples, ragged, whose own tokens come in two spans now and then; log-probs near the policy's own."""
    samples = []
    for i, ids in enumerate(prompts(rng, count, 4, 40)):
        mask = np.arange(len(ids)) >= rng.integers(1, len(ids))
        mask[1] |= rng.random() < 0.5
        samples.append(Sample(i, 0, ids, mask, np.zeros(len(ids), np.float32), float(rng.choice([0, 0.5, 1]))))
    out = []
    for sample, signal in zip(samples, signals_of(made, samples, Needs(logp_old=True)), strict=True):
        logp = sample.logp_rollout.copy()
        logp[sample.mask] = signal.logp_old + rng.normal(size=sample.mask.sum()) * 0.3
        out.append(replace(sample, logp_rollout=logp))
    return out


def signals_of(made, samples, needs):
    bins, batches = for_inference(samples, 100)
    return unpack(samples, bins, made.infer(batches, needs), needs)


def credited(made, algorithm, samples, rng=None):
    """With `rng`, as if the values had been others before the step: some are clipped."""
    signals = signals_of(made, samples, algorithm.needs)
    if rng is not None:
        signals = [replace(s, value=s.value + rng.normal(size=len(s.value)) * 0.5) for s in signals]
    return algorithm.credit(samples, signals)[0]


def gradients(made, update):
    made._accumulate(update)
    grads = [(p.grad for p in model.parameters()) for model in (made.policy, made.scalar.model)]
    return [torch.cat([g.flatten() for g in some]).double() for some in grads]


def near(found, expected, tolerance):
    return (found - expected).norm() <= tolerance * expected.norm()


def value_loss(values, credit, start):
    """c max((V - R)^2, (V_clip - R)^2), token by token, with GAE written out."""
    loss = torch.zeros((), dtype=torch.float64)
    sample, old = credit.sample, credit.signals.value.astype(np.float64)
    n, (gamma, lam) = len(old), (start.gamma, start.lam)
    for t in range(n):
        advantage = 0.0
        for k in range(t, n):
            following = old[k + 1] if k + 1 < n else 0.0
            reward = sample.reward if k == n - 1 else 0.0
            advantage += (gamma * lam) ** (k - t) * (reward + gamma * following - old[k])
        target, bound = advantage + old[t], start.critic.value_clip
        near_old = torch.clamp(values[t], old[t] - bound, old[t] + bound)
        loss = loss + start.critic.coefficient * torch.max((values[t] - target) ** 2, (near_old - target) ** 2)
    return loss


def own_places(sample):
    return torch.from_numpy(np.flatnonzero(sample.mask) - 1)


def test_a_separate_critics_gradient_is_that_of_a_plain_loop(path, tmp_path):
    rng, algorithm = fresh(), ppo("separate")
    made = begun(path, algorithm, torch.float64)
    credits_ = credited(made, algorithm, rolled(rng, made), rng)
    save_model(made.scalar.model, load_tokenizer(path), tmp_path)
    truth = AutoModelForSequenceClassification.from_pretrained(
        tmp_path, dtype=torch.float64, attn_implementation="sdpa"
    )
    total = torch.zeros((), dtype=torch.float64)
    for credit in credits_:
        ids = torch.from_numpy(credit.sample.ids.astype(np.int64))
        hidden = truth.base_model(ids[None]).last_hidden_state[0]
        total = total + value_loss(truth.score(hidden[own_places(credit.sample)])[:, 0], credit, algorithm)
    (total / sum(c.mass for c in credits_)).backward()
    names = dict(made.scalar.model.named_parameters())
    expected = torch.cat([dict(truth.named_parameters())[name].grad.flatten() for name in names])
    (update,) = plan(credits_, 120).updates
    assert len(update.shards[0]) > 1
    assert near(gradients(made, update)[1], expected, 1e-6)
    assert 0 < made.update(plan(credits_, 120)).metrics["critic/clipped"] < 1


def test_a_shared_trunks_gradient_is_the_sum_of_both_losses(path):
    rng, algorithm = fresh(), ppo("shared")
    made = begun(path, algorithm, torch.float64)
    credits_ = credited(made, algorithm, rolled(rng, made), rng)
    truth, head = reference(path), made.scalar.model.weight.detach().clone().requires_grad_(True)
    total = torch.zeros((), dtype=torch.float64)
    for credit in credits_:
        sample, places = credit.sample, own_places(credit.sample)
        ids = torch.from_numpy(sample.ids.astype(np.int64))
        hidden = truth.base_model(ids[None]).last_hidden_state[0][places]
        total = total + value_loss((hidden @ head.T)[:, 0], credit, algorithm)
        logp = truth.get_output_embeddings()(hidden).log_softmax(-1).gather(1, ids[places + 1][:, None])[:, 0]
        ratio = (logp - torch.from_numpy(sample.logp_rollout[sample.mask])).exp()
        advantage = torch.from_numpy(credit.advantage.copy())
        total = total - torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).sum()
    (total / sum(c.mass for c in credits_)).backward()
    policy, critic = gradients(made, plan(credits_, 120).updates[0])
    expected = torch.cat([dict(truth.named_parameters())[n].grad.flatten() for n, _ in made.policy.named_parameters()])
    assert near(policy, expected, 1e-6)
    assert near(critic, head.grad.flatten(), 1e-6)


@pytest.mark.parametrize("trunk", TRUNKS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
def test_the_gradient_is_the_same_under_any_packing(usual, trunk, dtype, tolerance):
    rng, algorithm = fresh(), ppo(trunk)
    made = begun(usual, algorithm, dtype)
    credits_ = credited(made, algorithm, rolled(rng, made), rng)
    longest = max(len(c.sample.ids) for c in credits_)
    expected = gradients(made, plan(credits_, 10**6).updates[0])
    assert min(e.norm() for e in expected) > 0
    for tokens in (longest, int(rng.integers(longest, 200)), 10**6):
        order = rng.permutation(len(credits_))
        found = gradients(made, plan([credits_[i] for i in order], tokens).updates[0])
        assert all(near(f, e, tolerance) for f, e in zip(found, expected, strict=True))


def test_a_separate_critic_leaves_the_policys_gradient_alone(path):
    rng, algorithm = fresh(), ppo("separate")
    made = begun(path, algorithm)
    credits_ = credited(made, algorithm, rolled(rng, made), rng)
    (update,) = plan(credits_, 120).updates
    with_critic = gradients(made, update)[0]
    alone = TorchLearner(path)
    alone.begin(made.spec, algorithm.losses, False)
    alone._accumulate(update)
    assert torch.equal(torch.cat([p.grad.flatten() for p in alone.policy.parameters()]).double(), with_critic)
    one, two = made.update(plan(credits_, 120)), alone.update(plan(credits_, 120))
    assert all(torch.equal(p, q) for p, q in zip(made.policy.parameters(), alone.policy.parameters(), strict=True))
    assert one.metrics["learner/grad_norm"] == two.metrics["learner/grad_norm"]


@pytest.mark.parametrize("trunk", TRUNKS)
def test_warm_up_moves_the_critic_alone(path, trunk):
    rng, algorithm = fresh(), ppo(trunk, warmup=2)
    made = begun(path, algorithm, warmup=2)
    before = [p.detach().clone() for p in made.policy.parameters()]
    rates = []
    for update in range(4):
        critic = [p.detach().clone() for p in made.scalar.model.parameters()]
        metrics = made.update(plan(credited(made, algorithm, rolled(rng, made)), 120)).metrics
        assert any(not torch.equal(p, q) for p, q in zip(critic, made.scalar.model.parameters(), strict=True))
        still = all(torch.equal(p, q) for p, q in zip(before, made.policy.parameters(), strict=True))
        assert still == (update < 2)
        rates.append((metrics.get("learner/lr"), metrics["critic/lr"]))
    # Each has its own warm-up: the policy's begins where the critic's time alone is over.
    assert rates == [(None, 0.005), (None, 0.01), (0.0005, 0.01), (0.001, 0.01)]


def test_a_critic_learns_what_is_to_come(path):
    rng, algorithm = fresh(), ppo("separate", critic=Critic(lr=1e-2, warmup=100), gamma=1.0, lam=1.0)
    made = begun(path, algorithm)
    samples = rolled(rng, made)
    told = [algorithm.credit(samples, signals_of(made, samples, algorithm.needs))[1]["critic/explained_variance"]]
    for _ in range(30):
        made.update(plan(credited(made, algorithm, samples), 10**6))
    told.append(algorithm.credit(samples, signals_of(made, samples, algorithm.needs))[1]["critic/explained_variance"])
    assert told[1] > 0.5 > told[0]


@pytest.mark.parametrize("trunk", TRUNKS)
def test_one_update_saved_and_taken_up_is_two_updates(path, tmp_path, trunk):
    rng, algorithm = fresh(), ppo(trunk, warmup=1, **KL)
    spec = {"warmup": 5, "schedule": "linear", "weight_decay": 0.1}
    straight = begun(path, algorithm, **spec)
    lots = [rolled(rng, straight) for _ in range(4)]

    def update(made, samples):
        return made.update(plan(credited(made, algorithm, samples), 100))

    reports = [update(straight, samples) for samples in lots]
    first = begun(path, algorithm, **spec)
    for samples in lots[:2]:
        update(first, samples)
    first.sleep()
    assert all(x.device.type == "cpu" for s in first.scalar.descent.optimizer.state.values() for x in s.values())
    first.save(tmp_path)
    second = begun(path, algorithm, **spec)
    with torch.no_grad():  # nothing but the file may matter
        for model in (second.policy, second.reference, second.scalar.model):
            for p in model.parameters():
                p.add_(1.0)
    second.load(tmp_path)
    assert [update(second, samples) for samples in lots[2:]] == reports[2:]
    for one, two in ((straight.policy, second.policy), (straight.scalar.model, second.scalar.model)):
        assert all(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters(), strict=True))


def test_a_critics_gradient_that_is_not_finite_ends_the_run_and_leaves_all_weights(path):
    algorithm = ppo("separate")
    made = begun(path, algorithm)
    credits_ = credited(made, algorithm, rolled(fresh(), made))
    credits_[3] = replace(credits_[3], target=np.full_like(credits_[3].target, np.inf))
    before = [p.detach().clone() for m in (made.policy, made.scalar.model) for p in m.parameters()]
    with pytest.raises(RunFailed, match=r"the critic's gradient is not finite .* at update 0"):
        made.update(plan(credits_, 120))
    after = [p for m in (made.policy, made.scalar.model) for p in m.parameters()]
    assert all(torch.equal(p, q) for p, q in zip(before, after, strict=True))


def test_a_critic_starts_from_a_reward_model(path, tmp_path):
    algorithm = ppo("separate")
    made = begun(path, algorithm)
    save_model(made.scalar.model, load_tokenizer(path), tmp_path / "rm")
    starting = replace(algorithm, critic=replace(algorithm.critic, start=str(tmp_path / "rm")))
    other = TorchLearner(path)
    other.begin(Optimization(10), starting.losses, False, starting.needs.critic)
    pairs = zip(made.scalar.model.parameters(), other.scalar.model.parameters(), strict=True)
    assert all(torch.equal(p, q) for p, q in pairs)


def test_what_a_critic_can_not_start_from(path, tmp_path):
    other = make(tmp_path / "bpe", tokenizer="bpe")
    for start, line in ((path, "no head of numbers"), (other, "its vocabulary is not the policy's")):
        algorithm = ppo("separate", critic=Critic(start=start))
        with pytest.raises(Refused, match=line):
            TorchLearner(path).begin(Optimization(10), algorithm.losses, False, algorithm.needs.critic)
    made = TorchLearner(path)
    made.begin(Optimization(10), Grpo().losses, False)
    with pytest.raises(RunFailed, match="asked for a critic's values, but keeps none"):
        made.infer([], ppo("separate").needs)


def test_values_are_dealt_back_to_their_samples(path):
    rng, algorithm = fresh(), ppo("separate")
    made = begun(path, algorithm)
    samples = rolled(rng, made)
    alone = [signals_of(made, [sample], algorithm.needs)[0] for sample in samples]
    for signal, single, sample in zip(signals_of(made, samples, algorithm.needs), alone, samples, strict=True):
        assert isinstance(signal, Signals) and signal.value.shape == (sample.mask.sum(),)
        np.testing.assert_allclose(signal.value, single.value, atol=1e-5)
