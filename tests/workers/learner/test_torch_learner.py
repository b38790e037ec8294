"""The learner against a plain loop in float64, and against itself: packed otherwise, resumed, in bfloat16."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import fresh, logprobs_alone, make, prompts, reference

from pipeline.algorithms import Grpo, Sft
from pipeline.packing import for_inference, plan, unpack
from rewards.errors import RunFailed
from workers.learner.descent import learning_rate_factor
from workers.learner.engine_torch import TorchLearner
from workers.types import Needs, Optimization, Plan, Sample, Signals

KL = {"kl_coefficient": 0.1}
ALGORITHMS = {
    "token": Grpo(group_size=4),
    "sequence": Grpo(group_size=4, aggregate="sequence", scale=False),
    "kl": Grpo(group_size=4, **KL, updates_per_step=1),
    "kl k2": Grpo(group_size=4, **KL, kl_estimator="k2", clip_low=0.1, clip_high=0.3),
    "kl in reward": Grpo(group_size=4, **KL, kl_in="reward", kl_estimator="k1"),
    "sft": Sft(),
}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    return make(tmp_path_factory.mktemp("usual"), initializer_range=0.02)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """Another model: its log-probs are a reference's, or a stale policy's."""
    return make(tmp_path_factory.mktemp("teacher"), seed=1)


def demonstrations(rng, count):
    out = []
    for i, ids in enumerate(prompts(rng, count, 2, 40)):
        mask = np.arange(len(ids)) >= rng.integers(1, len(ids))
        out.append(Sample(i, 0, ids, mask, None))
    return out


def rolled(rng, path, groups=6, size=4, wander=0.3):
    """Groups of ragged samples with two kinds of reward; the rollout's log-probs wander about the policy's own, so
    that some ratios are clipped. One group has equal rewards."""
    out = []
    truth = reference(path)
    for sample in demonstrations(rng, groups * size):
        place = sample.group
        with torch.no_grad():
            table = logprobs_alone(truth, sample.ids).numpy()
        logp = np.concatenate([[0], table[np.arange(len(sample.ids) - 1), sample.ids[1:]]])
        logp = np.where(sample.mask, logp + rng.normal(size=len(logp)) * wander, 0).astype(np.float32)
        reward = float(rng.choice([0, 0.5, 1])) if place >= size else 1.0
        out.append(replace(sample, group=place // size, index=place % size, logp_rollout=logp, reward=reward))
    return out


def learner(path, algorithm=None, dtype="float32", **spec):
    made = TorchLearner(path, dtype)
    algorithm = algorithm or ALGORITHMS["token"]
    made.begin(Optimization(10, **{"lr": 1e-3, **spec}), algorithm.losses, algorithm.needs.logp_ref)
    return made


def credited(made, algorithm, samples, micro_batch_tokens=10**6):
    signals = [Signals()] * len(samples)
    if algorithm.needs:
        bins, batches = for_inference(samples, micro_batch_tokens)
        signals = unpack(samples, bins, made.infer(batches, algorithm.needs), algorithm.needs)
    return algorithm.credit(samples, signals)[0]


def take_reference(made, teacher):
    """The reference of a stage that is under way: no longer the policy."""
    if made.reference is not None:
        made.reference.load_state_dict(TorchLearner(teacher).policy.state_dict())


def weights(made):
    return {name: p.detach().clone() for name, p in made.policy.named_parameters()}


def gradient(made, update):
    made._accumulate(update)
    return torch.cat([p.grad.flatten() for p in made.policy.parameters()]).double()


# The gradient ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-6)])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_gradient_is_the_same_under_any_packing(path, usual, teacher, name, dtype, tolerance):
    """Exactly so but for rounding. In float32 the model has weights of the usual size, for the wide ones of the other
    tests round more than that away."""
    rng, algorithm = fresh(), ALGORITHMS[name]
    start = path if dtype == torch.float64 else usual
    made = learner(start, algorithm)
    take_reference(made, teacher)
    made.policy.to(dtype)
    samples = demonstrations(rng, 24) if name == "sft" else rolled(rng, start)
    credits_ = credited(made, algorithm, samples)
    longest = max(len(c.sample.ids) for c in credits_)
    (whole,) = plan(credits_, 10**6).updates
    assert len(whole.shards[0]) == 1
    expected = gradient(made, whole)
    assert expected.norm() > 0
    for tokens in (longest, longest + int(rng.integers(1, 20)), int(rng.integers(longest, 300)), 10**6):
        order = rng.permutation(len(credits_))
        (update,) = plan([credits_[i] for i in order], tokens).updates
        assert max(b.lengths.sum() for b in update.shards[0]) <= tokens
        assert update.denominator == pytest.approx(whole.denominator, rel=1e-12)
        assert (gradient(made, update) - expected).norm() <= tolerance * expected.norm()
    assert len(plan(credits_, longest).updates[0].shards[0]) > 3


@pytest.mark.parametrize("options", [{}, {"gradient_checkpointing": True}], ids=str)
def test_the_gradient_is_the_same_whatever_is_computed_twice(usual, options):
    """Logits in chunks, layers once more on the way back, eight micro-batches: against none of it."""
    rng, algorithm = fresh(), ALGORITHMS["token"]
    credits_ = credited(learner(usual, algorithm), algorithm, rolled(rng, usual))
    naive = learner(usual, algorithm)
    naive.plain_head = False
    expected = gradient(naive, plan(credits_, 10**6).updates[0])
    made = TorchLearner(usual, **options)
    made.begin(Optimization(10), algorithm.losses, False)
    for tokens in (10**6, sum(len(c.sample.ids) for c in credits_) // 7):
        (update,) = plan(credits_, tokens).updates
        assert len(update.shards[0]) >= (1 if tokens == 10**6 else 7)
        assert (gradient(made, update) - expected).norm() <= 1e-6 * expected.norm()


def test_one_sequence_of_a_micro_batch_does_not_see_the_others(path):
    """Another sequence changed from beginning to end: the log-probs stay as they were, bit for bit."""
    rng = fresh()
    made, samples = learner(path), rolled(rng, path)
    changed = samples[3]
    other = replace(changed, ids=np.concatenate([rng.integers(3, 20, len(changed.ids) - 1), [5]]).astype(np.int32))
    found = []
    for lot in (samples, [*samples[:3], other, *samples[4:]]):
        bins, batches = for_inference(lot, 10**6)
        found.append(unpack(lot, bins, made.infer(batches, Needs(logp_old=True)), Needs(logp_old=True)))
    for i, (one, two) in enumerate(zip(*found, strict=True)):
        assert (np.abs(one.logp_old - two.logp_old).max() > 1e-3) == (i == 3)
        assert i == 3 or (one.logp_old == two.logp_old).all()


def plain_loss(model, algorithm, samples, truth_old, truth_ref):
    """One loss, sample by sample, in float64: the formulas written out once more."""
    total, denominator = torch.zeros((), dtype=torch.float64), 0.0
    rewards = {}
    for s in samples:
        rewards.setdefault(s.group, []).append(s.reward)
    for s in samples:
        own = torch.from_numpy(s.mask[1:])
        table = logprobs_alone(model, s.ids)
        logp = table.gather(1, torch.from_numpy(s.ids[1:].astype(np.int64))[:, None])[:, 0][own]
        if isinstance(algorithm, Sft):
            total, denominator = total - logp.sum(), denominator + len(logp)
            continue
        group = rewards[s.group]
        if len(set(group)) == 1:
            continue
        advantage = s.reward - sum(group) / len(group)
        if algorithm.scale:
            advantage /= math.sqrt(sum((r - sum(group) / len(group)) ** 2 for r in group) / (len(group) - 1)) + 1e-6
        loss = torch.zeros((), dtype=torch.float64)
        old, ref = truth_old(s)[own], truth_ref(s)[own]
        for t in range(len(logp)):
            ratio = torch.exp(logp[t] - old[t])
            bounded = torch.clamp(ratio, 1 - algorithm.clip_low, 1 + algorithm.clip_high)
            loss = loss - torch.min(ratio * advantage, bounded * advantage)
            if algorithm.kl_coefficient:
                d = ref[t] - logp[t]
                kl = d * d / 2 if algorithm.kl_estimator == "k2" else torch.exp(d) - d - 1
                loss = loss + algorithm.kl_coefficient * kl
        by_token = algorithm.aggregate == "token"
        total = total + (loss if by_token else loss / len(logp))
        denominator += len(logp) if by_token else 1
    return total / denominator


def adamw(parameters, gradients, moments, step, lr, betas, decay, clip):
    """Loshchilov and Hutter, algorithm 2, after clipping by the global norm; weight decay on matrices only."""
    norm = math.sqrt(sum(float((g * g).sum()) for g in gradients.values()))
    factor = min(1.0, clip / (norm + 1e-6))
    for name, p in parameters.items():
        g = gradients[name] * factor
        m, v = moments.setdefault(name, (torch.zeros_like(g), torch.zeros_like(g)))
        m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g * g
        moments[name] = m, v
        if p.ndim >= 2:
            p *= 1 - lr * decay
        p -= lr * (m / (1 - betas[0] ** step)) / ((v / (1 - betas[1] ** step)).sqrt() + 1e-8)
    return norm


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name != "kl in reward"])
def test_updates_are_those_of_a_plain_loop_in_float64(path, teacher, name):
    """Three updates, clipped in norm and in ratio, with warm-up and weight decay, against formulas by hand."""
    rng, algorithm = fresh(), ALGORITHMS[name]
    spec = {"lr": 1e-3, "betas": (0.8, 0.9), "weight_decay": 0.1, "warmup": 2, "clip_grad_norm": 0.05}
    made = learner(path, algorithm, **spec)
    take_reference(made, teacher)
    model, other = reference(path), reference(teacher)
    parameters = dict(model.named_parameters())
    moments, factors = {}, (0.5, 1.0, 1.0)

    def ref(s):
        with torch.no_grad():
            return logprobs_alone(other, s.ids).gather(1, torch.from_numpy(s.ids[1:].astype(np.int64))[:, None])[:, 0]

    for step, factor in enumerate(factors, 1):
        samples = demonstrations(rng, 16) if name == "sft" else rolled(rng, path)
        report = made.update(plan(credited(made, algorithm, samples), 100))
        model.zero_grad()
        loss = plain_loss(model, algorithm, samples, lambda s: torch.from_numpy(s.logp_rollout[1:]), ref)
        loss.backward()
        with torch.no_grad():
            gradients = {n: p.grad.clone() for n, p in parameters.items()}
            norm = adamw(parameters, gradients, moments, step, 1e-3 * factor, (0.8, 0.9), 0.1, 0.05)
        assert report.version == step
        assert report.metrics["learner/loss"] == pytest.approx(loss.item(), rel=1e-4, abs=1e-5)
        assert report.metrics["learner/grad_norm"] == pytest.approx(norm, rel=1e-3)
        assert report.metrics["learner/lr"] == pytest.approx(1e-3 * factor)
        if "policy/clipped" in report.metrics:
            assert 0 < report.metrics["policy/clipped"] < 1
    assert norm > 0.05  # so it was clipped
    before = dict(reference(path).named_parameters())
    moved = torch.cat([(p - before[n]).flatten() for n, p in parameters.items()]).detach()
    found = torch.cat([(p.double() - before[n]).flatten() for n, p in made.policy.named_parameters()]).detach()
    assert (moved - found).norm() <= 2e-3 * moved.norm()


def test_metrics_of_an_update_by_hand(path):
    rng = fresh()
    made = learner(path)
    samples = rolled(rng, path)
    credits_ = credited(made, ALGORITHMS["token"], samples)
    truth, gaps, entropies, ratios, clipped = reference(path), [], [], [], []
    with torch.no_grad():
        for c in credits_:
            s, own = c.sample, torch.from_numpy(c.sample.mask[1:])
            table = logprobs_alone(truth, s.ids)[own]
            logp = table.gather(1, torch.from_numpy(s.ids[1:].astype(np.int64))[own][:, None])[:, 0]
            rollout = torch.from_numpy(s.logp_rollout[1:])[own]
            gaps += (logp - rollout).abs().tolist()
            entropies += (-(table.exp() * table).sum(-1)).tolist()
            ratio = (logp - rollout).exp()
            ratios += ratio.tolist()
            a = torch.from_numpy(c.advantage.copy()).double()
            clipped += (ratio.clamp(0.8, 1.2) * a < ratio * a).tolist()
    metrics = made.update(plan(credits_, 120)).metrics
    assert metrics["policy/logprob_gap_max"] == pytest.approx(max(gaps), rel=1e-4)
    assert metrics["policy/logprob_gap_mean"] == pytest.approx(np.mean(gaps), rel=1e-4)
    assert metrics["policy/entropy"] == pytest.approx(np.mean(entropies), rel=1e-4)
    assert metrics["policy/ratio"] == pytest.approx(np.mean(ratios), rel=1e-4)
    assert metrics["policy/clipped"] == pytest.approx(np.mean(clipped), abs=1e-9)


def test_demonstrations_have_no_gap_to_a_rollout(path):
    made = learner(path, Sft())
    metrics = made.update(plan(Sft().credit(s := demonstrations(fresh(), 8), [Signals()] * len(s))[0], 200)).metrics
    assert set(metrics) == {"learner/loss", "learner/nll", "learner/grad_norm", "learner/lr", "policy/entropy"}
    assert metrics["learner/loss"] == pytest.approx(metrics["learner/nll"])


def test_infer_is_the_log_probs_at_the_temperature(path, teacher):
    rng = fresh()
    made = learner(path, ALGORITHMS["kl"], temperature=0.7)
    take_reference(made, teacher)
    samples = rolled(rng, path)
    needs = Needs(logp_old=True, logp_ref=True)
    bins, batches = for_inference(samples, 90)
    signals = unpack(samples, bins, made.infer(batches, needs), needs)
    for model, field in ((reference(path), "logp_old"), (reference(teacher), "logp_ref")):
        for sample, signal in zip(samples, signals, strict=True):
            with torch.no_grad():
                table = logprobs_alone(model, sample.ids, 0.7).numpy()
            expected = table[np.arange(len(sample.ids) - 1), sample.ids[1:]][sample.mask[1:]]
            np.testing.assert_allclose(getattr(signal, field), expected, atol=1e-4)
    with pytest.raises(RunFailed, match="keeps none"):
        learner(path).infer(batches, needs)


# The schedule ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"warmup": 4}, [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1]),
        ({"schedule": "linear"}, [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]),
        ({"schedule": "linear", "warmup": 2}, [0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]),
        ({"schedule": "linear", "warmup": 2, "decay_share": 0.3}, [0.5, 1, 1, 1, 1, 1, 1, 1, 2 / 3, 1 / 3]),
        (
            {"schedule": "cosine", "decay_share": 0.4},
            [1] * 7 + [(1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2],
        ),
    ],
)
def test_learning_rates_by_hand(spec, expected):
    found = [learning_rate_factor(Optimization(10, **spec), done) for done in range(10)]
    assert found == pytest.approx(expected, abs=1e-12)


# Failing, saving, going on ---------------------------------------------------------------------------------------


def test_a_gradient_that_is_not_finite_ends_the_run_and_leaves_the_weights(path):
    made = learner(path)
    samples = rolled(fresh(), path)
    samples[-1] = replace(samples[-1], logp_rollout=np.full_like(samples[-1].logp_rollout, -np.inf), reward=-5.0)
    before = weights(made)
    with pytest.raises(RunFailed, match=r"the gradient is not finite .* at update 0"):
        made.update(plan(credited(made, ALGORITHMS["token"], samples), 200))
    assert all(torch.equal(before[name], p) for name, p in made.policy.named_parameters())
    assert made.version == 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_update_saved_and_taken_up_is_two_updates(path, tmp_path, dtype):
    rng, algorithm = fresh(), ALGORITHMS["kl"]
    spec = {"warmup": 5, "schedule": "linear", "weight_decay": 0.1}
    lots = [rolled(rng, path) for _ in range(3)]

    def update(made, samples):
        return made.update(plan(credited(made, algorithm, samples), 100))

    straight = learner(path, algorithm, dtype, **spec)
    reports = [update(straight, samples) for samples in lots]
    first = learner(path, algorithm, dtype, **spec)
    update(first, lots[0])
    first.save(tmp_path)
    second = learner(path, algorithm, dtype, **spec)
    with torch.no_grad():  # nothing but the file may matter
        for model in (second.policy, second.reference):
            for p in model.parameters():
                p.add_(1.0)
    second.load(tmp_path)
    assert second.version == 1
    assert [update(second, samples) for samples in lots[1:]] == reports[1:]
    for name, p in straight.policy.named_parameters():
        assert torch.equal(p, dict(second.policy.named_parameters())[name]), name


def test_between_stages_a_checkpoint_is_the_policy_and_its_version(path, teacher, tmp_path):
    first = learner(path)
    first.update(plan(credited(first, ALGORITHMS["token"], rolled(fresh(), path)), 200))
    first.save(tmp_path)
    second = TorchLearner(teacher)
    second.load(tmp_path)
    assert second.version == 1
    assert all(torch.equal(p, weights(first)[name]) for name, p in second.policy.named_parameters())


def test_a_model_that_was_saved_is_loaded_again(path, tmp_path):
    made = learner(path)
    made.update(plan(credited(made, ALGORITHMS["token"], rolled(fresh(), path)), 200))
    made.save_model(tmp_path)
    other = TorchLearner(path)
    other.load_model(tmp_path)
    assert all(torch.equal(p, weights(made)[name]) for name, p in other.policy.named_parameters())
    assert dict(reference(str(tmp_path), torch.float32).named_parameters()).keys() == weights(made).keys()


def test_the_reference_stays_where_the_stage_began(path):
    algorithm = ALGORITHMS["kl"]
    made, samples = learner(path, algorithm, lr=1e-2), rolled(fresh(), path)
    before = weights(made)
    _, batches = for_inference(samples, 10**6)
    (start,) = made.infer(batches, Needs(logp_old=True, logp_ref=True))
    assert (start["logp_old"] == start["logp_ref"]).all()
    made.update(plan(credited(made, algorithm, samples), 200))
    (after,) = made.infer(batches, Needs(logp_old=True, logp_ref=True))
    assert (after["logp_ref"] == start["logp_ref"]).all()
    assert np.abs(after["logp_old"] - start["logp_old"]).max() > 1e-3
    assert all(torch.equal(before[name], p) for name, p in made.reference.named_parameters())
    made.begin(made.spec, algorithm.losses, True)  # the next stage starts from here
    assert all(torch.equal(weights(made)[name], p) for name, p in made.reference.named_parameters())


def test_several_updates_in_a_step_are_one_version(path):
    algorithm = Grpo(group_size=4, updates_per_step=3)
    made = learner(path, algorithm)
    credits_ = credited(made, algorithm, rolled(fresh(), path, wander=0.0))
    report = made.update(plan(credits_, 200, 3))
    assert (report.version, made.done) == (1, 3)
    for gap in ("policy/logprob_gap_mean", "policy/logprob_gap_max"):
        assert 0 < report.metrics[gap] <= 1e-4  # of the first update alone
    assert report.metrics["policy/ratio"] != 1.0  # of all of them


def test_no_group_with_signal_is_a_step_all_the_same(path):
    made = learner(path)
    samples = [replace(sample, reward=1.0) for sample in rolled(fresh(), path)]
    before = weights(made)
    updates = plan(credited(made, ALGORITHMS["token"], samples), 200)
    assert updates == Plan(())
    report = made.update(updates)
    assert (report.version, dict(report.metrics)) == (1, {})
    assert made.export().version == 1
    assert all(torch.equal(before[name], p) for name, p in made.policy.named_parameters())


def test_bfloat16_computes_coarsely_but_learns_finely(path):
    """Steps far below a bfloat16 weight's resolution add up, and what is published is bfloat16."""
    rng = fresh()
    made, exact = learner(path, Sft(), "bfloat16", lr=1e-5), learner(path, Sft(), lr=1e-5)
    updates = plan(Sft().credit(s := demonstrations(rng, 16), [Signals()] * len(s))[0], 200)
    before = weights(made)
    coarse, fine = gradient(made, updates.updates[0]), gradient(exact, updates.updates[0])
    assert 1e-6 < (coarse - fine).norm() / fine.norm() < 0.1
    reports = [made.update(updates) for _ in range(8)]
    assert reports[-1].metrics["learner/loss"] < reports[0].metrics["learner/loss"]
    moved = [(p - before[name]).abs() for name, p in made.policy.named_parameters()]
    assert torch.cat([m.flatten() for m in moved]).median() > 2e-5
    assert {array.dtype for array in made.export().arrays.values()} == {np.dtype(np.uint16)}
