"""A reward model on the real learner: its gradient sample by sample, what it learns, and what other tools load."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import fresh, make, prompts
from transformers import AutoModelForSequenceClassification

from pipeline.algorithms import BradleyTerry, Ratings
from pipeline.held_out import judged
from pipeline.packing import for_inference, plan
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
