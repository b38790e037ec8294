"""Process reward models: labels by hand and by the papers' formulas, the loss against torch's and TRL's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import fresh

from pipeline.algorithms import Process, Ratings
from pipeline.algorithms.process import Infer, rising
from pipeline.algorithms.step_labels import step_labels
from pipeline.packing import plan
from rewards.types import Score
from workers.learner.forward import to_torch
from workers.types import Sample, Signals

CPU = torch.device("cpu")


def labelled(rng, count=12, soft=False):
    """Ragged samples with one to four steps, each of which ends in an own token."""
    out = []
    for i in range(count):
        own = int(rng.integers(4, 20))
        mask = np.arange(own + 3) >= 3
        ends = np.sort(rng.choice(own, int(rng.integers(1, 5)), replace=False)).astype(np.int32)
        labels = rng.random(len(ends)) if soft else rng.integers(0, 2, len(ends))
        ids = np.append(rng.integers(3, 20, own + 2), 100 + i).astype(np.int32)
        out.append(Sample(i, 0, ids, mask, None, 1.0, labels.astype(np.float32), step_ends=ends))
    return out


def learned(algorithm, samples, numbers):
    """(loss, its gradient by sample) over the numbers f64[own] of each sample, as the learner takes it, packed."""
    (update,) = plan(algorithm.credit(samples, [Signals()] * len(samples))[0], 50).updates
    by_last = {int(s.ids[-1]): i for i, s in enumerate(samples)}
    total, gradients, right = 0.0, {}, [0.0, 0.0]
    for batch in update.shards[0]:
        members = [by_last[int(batch.ids[end - 1])] for end in np.cumsum(batch.lengths)]
        values = torch.tensor(np.concatenate([numbers[i] for i in members]))[:, None].requires_grad_()
        loss, metrics = algorithm.scalar.loss(to_torch(batch, CPU), values)
        (loss / update.denominator).backward()
        total += loss.item() / update.denominator
        right = [a + float(b) for a, b in zip(right, metrics["learner/steps_right"], strict=True)]
        gradients |= dict(zip(members, torch.split(values.grad[:, 0], [len(numbers[i]) for i in members]), strict=True))
    return total, gradients, right[0] / right[1]


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("loss", ["cross_entropy", "squared"])
def test_the_loss_is_torchs_at_the_steps_ends_and_nothing_elsewhere(loss, soft):
    rng = fresh()
    samples = labelled(rng, soft=soft)
    numbers = [rng.normal(0, 2, int(s.mask.sum())) for s in samples]
    found, gradients, right = learned(Process(loss=loss), samples, numbers)
    at = torch.tensor(np.concatenate([n[s.step_ends] for n, s in zip(numbers, samples, strict=True)])).requires_grad_()
    labels = torch.tensor(np.concatenate([s.steps for s in samples]).astype(np.float64))
    theirs = torch.nn.functional.mse_loss if loss == "squared" else torch.nn.functional.binary_cross_entropy_with_logits
    expected = theirs(at, labels)
    expected.backward()
    assert found == pytest.approx(expected.item(), rel=1e-6)
    assert right == pytest.approx(((at > (0.5 if loss == "squared" else 0)) == (labels > 0.5)).double().mean().item())
    wanted = np.split(at.grad.numpy(), np.cumsum([len(s.steps) for s in samples])[:-1])
    for i, (sample, ours) in enumerate(zip(samples, wanted, strict=True)):
        gradient = np.zeros(int(sample.mask.sum()))
        gradient[sample.step_ends] = ours
        np.testing.assert_allclose(gradients[i].numpy(), gradient, atol=1e-7)


def test_it_is_trls_two_classes_with_one_number():
    """PRMTrainer trains a token classifier of two labels: cross-entropy of its logits where a label stands."""
    rng = fresh()
    samples = labelled(rng)
    logits = [rng.normal(0, 2, (int(s.mask.sum()), 2)) for s in samples]
    found, _, _ = learned(Process(), samples, [two[:, 1] - two[:, 0] for two in logits])
    targets = []
    for sample in samples:
        row = np.full(int(sample.mask.sum()), -100)
        row[sample.step_ends] = sample.steps
        targets.append(row)
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(np.concatenate(logits)), torch.tensor(np.concatenate(targets))
    )
    assert found == pytest.approx(expected.item(), rel=1e-6)


def test_hard_and_soft_labels_by_hand():
    outcomes = [[(True, 2), (False, 2), (False, 1)], [(False, 1), (False, 1)], [(True, 0)]]
    assert step_labels(outcomes, "hard").tolist() == [1, 0, 1]
    np.testing.assert_allclose(step_labels(outcomes, "soft"), [1 / 3, 0, 1], rtol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_a_right_answers_value_rises_evenly_to_1(n):
    """ReST-MCTS*, below eq. 2: v_k = k / n on a path that is right throughout."""
    outcomes = [[(True, n - 1 - k)] for k in range(n)]
    np.testing.assert_allclose(step_labels(outcomes, "value"), np.arange(1, n + 1) / n, rtol=1e-6)


def test_a_value_by_hand():
    """Three steps, the second wrong: 1/3; 1/3 - (2/3) / 2 = 0; max(0 - 1, 0) = 0. A nearer way out counts for more."""
    wrong = [[(True, 2), (False, 2)], [(False, 1)], [(False, 0)]]
    np.testing.assert_allclose(step_labels(wrong, "value"), [1 / 3, 0, 0], atol=1e-7)
    nearer = [[(True, 4), (True, 1)], [(True, 0)]]
    np.testing.assert_allclose(step_labels(nearer, "value"), [1 / 2, 1], rtol=1e-6)
    late = [[(True, 2)], [(True, 1)], [(False, 0)]]  # 2/3 - (1/3) / 1
    np.testing.assert_allclose(step_labels(late, "value"), [1 / 3, 2 / 3, 1 / 3], rtol=1e-6)


def test_values_stay_between_0_and_1():
    rng = fresh()
    for _ in range(50):
        outcomes = [
            [(bool(rng.random() < 0.5), int(rng.integers(0, 6))) for _ in range(int(rng.integers(1, 5)))]
            for _ in range(int(rng.integers(1, 8)))
        ]
        values = step_labels(outcomes, "value")
        reached = step_labels(outcomes, "hard") > 0
        assert ((values >= 0) & (values <= 1)).all()
        before = np.append(0.0, values[:-1])
        assert (values[reached] >= before[reached] - 1e-6).all()
        assert (values[~reached] <= before[~reached] + 1e-6).all()


def test_what_it_calls_right():
    assert Process().right(np.array([0.1, -0.1])).tolist() == [True, False]
    assert Process(loss="squared").right(np.array([0.6, 0.4])).tolist() == [True, False]
    values = Process(loss="squared", infer=Infer(by="value"))
    assert values.right(np.array([0.3, 0.6, 0.5])).tolist() == [True, True, False]
    # Of sigma(r) where the loss is cross-entropy: 0.62, 0.73, and 0.27 again.
    assert Process(infer=Infer(by="value")).right(np.array([0.5, 1.0, -1.0])).tolist() == [True, True, False]
    assert rising(np.array([0.0, 0.2])).tolist() == [False, True]
    sample = Sample(0, 0, np.zeros(3, np.int32), np.ones(3, bool), None, 1.0, np.array([0.3, 0.2], np.float32))
    assert values.binary(sample).steps.tolist() == [1, 0]


def test_several_attributes_each_have_a_head():
    """Mean over the ratings that there are; the first is the reward."""
    rng = fresh()
    ids = [np.append(rng.integers(3, 20, 5), 100 + i).astype(np.int32) for i in range(6)]
    mask = np.arange(6) > 2
    rated = [{"a": 1.0, "b": -2.0}, {"b": 0.5}, {}, {"a": 3.0}, {"a": 0.0, "b": 0.0}, {"b": 2.0}]
    samples = [
        Sample(i, 0, ids[i], mask, None, float(i), scores={k: Score(v) for k, v in one.items()})
        for i, one in enumerate(rated)
    ]
    algorithm = Ratings(attributes=("a", "b"))
    assert algorithm.scalar.heads == 3
    values = torch.tensor(rng.normal(size=(6, 3)), requires_grad=True)
    (update,) = plan(algorithm.credit(samples, [Signals()] * 6)[0], 10**6).updates
    (batch,) = update.shards[0]
    order = [int(batch.ids[end - 1]) - 100 for end in np.cumsum(batch.lengths)]
    loss, metrics = algorithm.scalar.loss(to_torch(batch, CPU), values[order])
    terms = [(values[i, 0] - i) ** 2 for i in range(6)]
    terms += [
        (values[i, 1 + k] - one[name]) ** 2 for i, one in enumerate(rated) for k, name in enumerate("ab") if name in one
    ]
    assert (loss / update.denominator).item() == pytest.approx((sum(terms) / len(terms)).item(), rel=1e-6)
    assert metrics["learner/rating_error"][1] == len(terms)
