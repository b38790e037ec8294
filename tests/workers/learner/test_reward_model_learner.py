"""A reward model on the real learner: its gradient sample by sample, what it learns, and what other tools load."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import fresh, make, prompts
from transformers import AutoModelForSequenceClassification

from pipeline.algorithms import BradleyTerry, Collaborative, Process, Ratings
from pipeline.algorithms.collaborative import owner
from pipeline.held_out import first_errors, judged, numbers, rating_error
from pipeline.packing import for_inference, plan, unpack
from rewards.types import Score
from workers.learner.engine_torch import TorchLearner
from workers.models.attention import Packed
from workers.types import Needs, Optimization, Sample, Signals


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make(tmp_path_factory.mktemp("policy"))


def pairs(rng, groups):
    """Answers with more 5s than 6s are the better ones."""
    out = []
    while len(out) < 2 * groups:
        members = []
        for index, ids in enumerate(prompts(rng, 2, 6, 20, 9)):
            mask = np.arange(len(ids)) >= 2
            members.append(Sample(len(out) // 2, index, ids, mask, None, float((ids == 5).sum() - (ids == 6).sum())))
        if members[0].reward != members[1].reward:
            out += members
    return out


def learner(path, algorithm, **spec):
    made = TorchLearner(path)
    made.begin(Optimization(updates=60, **spec), algorithm.losses, False, algorithm.scalar)
    return made


def update(algorithm, samples, tokens):
    return plan(algorithm.credit(samples, [Signals()] * len(samples))[0], tokens)


def gradient(made, taken):
    made._accumulate(taken.updates[0])
    return torch.cat([p.grad.flatten() for p in made.scalar.model.parameters()]).double()


def stirred(made, seed):
    """The last layer starts at zero, where the trunk has no gradient."""
    torch.manual_seed(seed)
    last = [p for name, p in made.scalar.model.named_parameters() if name.startswith("score")][-1]
    with torch.no_grad():
        last.normal_(0, 0.3)


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("kind", [BradleyTerry, Ratings])
def test_the_gradient_is_that_of_each_answer_on_its_own(path, kind, depth):
    rng, algorithm = fresh(), kind(depth=depth)
    samples = pairs(rng, 10)
    made = learner(path, algorithm)
    stirred(made, int(rng.integers(2**31)))
    model = made.scalar.model
    expected = torch.zeros(sum(p.numel() for p in model.parameters()), dtype=torch.float64)
    rewards = []
    for s in samples:  # one sequence at a time: nothing to pack
        batch = for_inference([s], 10**6)[1]
        rewards.append(made.infer(batch, Needs(critic=algorithm.scalar))[0]["value"][0, 0])
    r = torch.tensor(np.array(rewards), dtype=torch.float64, requires_grad=True)
    if kind is Ratings:
        loss = sum((r[i] - s.reward) ** 2 for i, s in enumerate(samples)) / len(samples)
    else:
        better = [
            (2 * g, 2 * g + 1) if samples[2 * g].reward > samples[2 * g + 1].reward else (2 * g + 1, 2 * g)
            for g in range(10)
        ]
        loss = -sum(torch.log(torch.sigmoid(r[a] - r[b])) for a, b in better) / 10
    loss.backward()
    for s, weight in zip(samples, r.grad.tolist(), strict=True):
        made.scalar.descent.zero()
        tensors = torch.tensor(s.ids.astype(np.int64))[None]
        # transformers' own forward pass would pool at the padding token: its trunk and the head, by hand
        hidden = model.base_model(
            tensors,
            position_ids=torch.arange(len(s.ids))[None],
            attend=Packed(torch.tensor([len(s.ids)])),
            use_cache=False,
        ).last_hidden_state[0, -1]
        (model.score(hidden)[0] * weight).backward()
        expected += torch.cat([p.grad.flatten() for p in model.parameters()]).double()
    assert expected.norm() > 0
    for tokens in (60, 10**6):
        found = gradient(made, update(algorithm, samples, tokens))
        assert (found - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("algorithm", [BradleyTerry(), BradleyTerry(depth=2, margin=True, centring=0.01), Ratings()])
def test_it_learns_which_answer_is_better_and_the_policy_stays(path, tmp_path, algorithm):
    rng = np.random.default_rng(3)
    made = learner(path, algorithm, lr=3e-3)
    before = [p.detach().clone() for p in made.policy.parameters()]
    train, unseen = pairs(rng, 640), pairs(rng, 150)
    for start in range(0, 1280, 64):
        made.update(update(algorithm, train[start : start + 64], 10**6))
    bins, batches = for_inference(unseen, 500)
    rewards = np.zeros(len(unseen), np.float32)
    for members, answer in zip(bins, made.infer(batches, Needs(critic=algorithm.scalar)), strict=True):
        rewards[members] = answer["value"][:, 0]
    found = judged(unseen, rewards)
    assert found is not None
    assert found.interval[0] > 0.6
    assert all(torch.equal(a, b) for a, b in zip(before, made.policy.parameters(), strict=True))
    if algorithm.depth == 1:
        made.save_model(tmp_path)
        loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=torch.float32).eval()
        with torch.no_grad():
            for s, reward in zip(unseen[:10], rewards[:10], strict=True):
                theirs = loaded(torch.tensor(s.ids.astype(np.int64))[None]).logits[0, 0].item()
                assert theirs == pytest.approx(float(reward), abs=1e-4)


def stepped(rng, count):
    """A step ends with a 7, and is right where its answer held no 6 so far."""
    out = []
    for i in range(count):
        ids = rng.choice([4, 5, 6, 7], int(rng.integers(6, 16)), p=[0.4, 0.35, 0.05, 0.2]).astype(np.int32)
        ids[-1] = 7
        own = ids[2:]
        ends = np.flatnonzero(own == 7).astype(np.int32)
        labels = np.array([6 not in own[: end + 1] for end in ends], np.float32)
        out.append(Sample(i, 0, ids, np.arange(len(ids)) >= 2, None, 1.0, labels, step_ends=ends))
    return out


def test_a_steps_number_is_read_at_its_last_token(path):
    """What stands after it has no say in it, and what the saved model says there is the same."""
    rng, algorithm = fresh(), Process()
    made = learner(path, algorithm)
    stirred(made, int(rng.integers(2**31)))
    samples = stepped(rng, 12)
    found = asyncio.run(numbers(samples, Asked(made), algorithm.scalar, 60))
    for sample, ours in zip(samples, found, strict=True):
        for end in sample.step_ends:
            cut = replace(sample, ids=sample.ids[: 2 + end + 1], mask=sample.mask[: 2 + end + 1])
            last = replace(algorithm.scalar, at="last")
            (alone,) = made_at(made, last, cut)
            assert ours[end, 0] == pytest.approx(alone, abs=1e-5)


def made_at(made, scalar, sample):
    before, made.scalar.spec = made.scalar.spec, scalar
    found = made.infer(for_inference([sample], 10**6)[1], Needs(critic=scalar))[0]["value"][:, 0]
    made.scalar.spec = before
    return found.tolist()


class Asked:
    """The learner as the head asks it."""

    def __init__(self, made):
        self.made = made

    async def infer(self, batches, needs):
        return self.made.infer(batches, needs), 0.0


@pytest.mark.parametrize("loss", ["cross_entropy", "squared"])
def test_it_learns_where_answers_go_wrong(path, loss):
    rng, algorithm = np.random.default_rng(5), Process(loss=loss)
    made = learner(path, algorithm, lr=5e-3)
    for _ in range(40):
        made.update(update(algorithm, stepped(rng, 48), 10**6))
    unseen = stepped(rng, 200)
    found = asyncio.run(numbers(unseen, Asked(made), algorithm.scalar, 500))
    called = [algorithm.right(n[s.step_ends, 0]) for n, s in zip(found, unseen, strict=True)]
    accuracy = first_errors(unseen, called)
    assert accuracy is not None
    assert accuracy.interval[0] > accuracy.baseline
    assert accuracy.steps > 0.8


def test_each_attribute_has_a_number_of_its_own(path):
    algorithm = Ratings(attributes=("fives", "sixes"))
    rng = np.random.default_rng(4)
    made = learner(path, algorithm, lr=3e-3)

    def rated(count):
        counted = {"fives": 5, "sixes": 6}
        return [
            replace(s, scores={name: Score(float((s.ids == token).sum())) for name, token in counted.items()})
            for s in pairs(rng, count)
        ]

    for _ in range(60):
        made.update(update(algorithm, rated(32), 10**6))
    unseen = rated(60)
    found = np.array(asyncio.run(numbers(unseen, Asked(made), algorithm.scalar, 500)))
    for column, name in enumerate(("fives", "sixes"), 1):
        wanted = np.array([s.scores[name].value for s in unseen])
        assert np.corrcoef(found[:, column], wanted)[0, 1] > 0.5
    assert rating_error(unseen, found[:, 0]).explained > 0.1


def reviewed(made, algorithm, samples, tokens=10**6):
    """The plan of a step whose samples the models as they stand have reviewed."""
    bins, batches = for_inference(samples, tokens)
    signals = unpack(samples, bins, made.infer(batches, algorithm.needs), algorithm.needs)
    return plan(algorithm.credit(samples, signals)[0], tokens)


@pytest.mark.parametrize("whose", [0, 1])
def test_of_two_that_review_each_other_one_learns_from_its_own_pairs_alone(path, whose):
    rng, algorithm = fresh(), Collaborative(doubt=0.3, centring=0.01)
    made = learner(path, algorithm)
    for _, head in made.scalar.model.parts():
        with torch.no_grad():
            head.weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(int(rng.integers(2**31))))
    samples = [s for s in pairs(rng, 30) if owner(s) == whose]
    found = []
    for tokens in (60, 10**6):
        made.scalar.descent.zero()
        made._accumulate(reviewed(made, algorithm, samples, tokens).updates[0])
        theirs, own = [], []
        for name, p in made.scalar.model.named_parameters():
            (own if name.startswith("peers.") == bool(whose) else theirs).append(p.grad)
        assert all(g is None or not g.any() for g in theirs)
        found.append(torch.cat([g.flatten() for g in own]).double())
    assert found[0].norm() > 0 and (found[0] - found[1]).norm() <= 1e-5 * found[0].norm()
