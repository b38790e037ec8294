"""The learner's gradients against those of TRL's own trainers, on the same models and the same batches."""

from __future__ import annotations

from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from tiny import fresh, make, reference
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from pipeline.algorithms import BradleyTerry, Dpo, Ipo, Kto, Simpo
from pipeline.packing import for_inference, plan, unpack
from workers.learner.engine_torch import TorchLearner
from workers.types import Optimization, Sample, Signals

WORDS = "0123456789+-="


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return make(tmp_path_factory.mktemp("teacher"), seed=1)


def text(rng, low, high):
    return "".join(rng.choice(list(WORDS), int(rng.integers(low, high))))


def arguments(cls, folder, **more):
    return cls(
        output_dir=str(folder), use_cpu=True, report_to="none", bf16=False, max_length=None,
        per_device_train_batch_size=6, gradient_checkpointing=False, **more,
    )  # fmt: skip


def theirs(trainer):
    """(TRL's loss, its gradient, the batch) of the first batch."""
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.eval()
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in trainer.model.parameters()]).double(), batch


def rows(batch, rewards, group=lambda i: i, prefix=""):
    """The batch's rows as samples, without their padding. Without a mask of the answer all but the first token is."""
    out = []
    real = batch[f"{prefix}attention_mask"].bool().numpy()
    own = batch[f"{prefix}completion_mask"].bool().numpy() if f"{prefix}completion_mask" in batch else None
    for i, ids in enumerate(batch[f"{prefix}input_ids"].numpy()):
        row = ids[real[i]].astype(np.int32)
        mask = np.arange(len(row)) > 0 if own is None else own[i][real[i]]
        out.append(Sample(group(i), i, row, mask, None, rewards[i]))
    return out


def ours(path, teacher, algorithm, samples):
    """(the learner's loss, its gradient), with the teacher as the reference."""
    made = TorchLearner(path)
    made.begin(Optimization(updates=1), algorithm.losses, bool(algorithm.needs.logp_ref))
    if made.reference is not None:
        made.reference.load_state_dict(TorchLearner(teacher).policy.state_dict())
    signals = [Signals()] * len(samples)
    if algorithm.needs:
        bins, batches = for_inference(samples, 60)
        signals = unpack(samples, bins, made.infer(batches, algorithm.needs), algorithm.needs)
    (update,) = plan(algorithm.credit(samples, signals)[0], 100).updates
    metrics, _ = made._accumulate(update)
    loss = sum(m["learner/loss"].total for m in metrics)
    return loss, torch.cat([p.grad.flatten() for p in made.policy.parameters()]).double()


def agree(one, other):
    assert one[0] == pytest.approx(other[0], rel=1e-5)
    assert other[1].norm() > 0
    assert (one[1] - other[1]).norm() <= 1e-5 * other[1].norm()


@pytest.mark.parametrize(
    ("algorithm", "kind", "beta"),
    [
        (Dpo(beta=0.3), "sigmoid", 0.3),
        (Dpo(beta=2.0, length_normalised=True), "sigmoid_norm", 2.0),
        (Ipo(beta=0.4), "ipo", 0.4),
    ],
)
def test_dpo_and_ipo(path, teacher, tmp_path, algorithm, kind, beta):
    from trl import DPOConfig, DPOTrainer

    rng = fresh()
    data = datasets.Dataset.from_list(
        [{"prompt": text(rng, 2, 8), "chosen": text(rng, 1, 9), "rejected": text(rng, 1, 9)} for _ in range(6)]
    )
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32),
        ref_model=AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32),
        args=arguments(DPOConfig, tmp_path, beta=beta, loss_type=kind),
        train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(path),
    )
    loss, gradient, batch = theirs(trainer)
    samples = rows(batch, [1.0] * 6 + [0.0] * 6, lambda i: i % 6)
    samples.sort(key=lambda s: s.group)
    agree(ours(path, teacher, algorithm, samples), (loss, gradient))


@pytest.mark.parametrize("swapped", [False, True])
def test_kto(path, teacher, tmp_path, swapped):
    """Swapped: as where the policy is nearer to the mismatched answers than the reference, so that z is not 0."""
    from trl import KTOConfig, KTOTrainer

    rng = fresh()
    policy, anchor = (teacher, path) if swapped else (path, teacher)
    data = datasets.Dataset.from_list(
        [
            {"prompt": text(rng, 2, 8), "completion": text(rng, 1, 9), "label": bool(rng.random() < 0.5)}
            for _ in range(4)
        ]
        + [{"prompt": "1+", "completion": "2", "label": True}, {"prompt": "3-", "completion": "4", "label": False}]
    )
    trainer = KTOTrainer(
        model=AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32),
        ref_model=AutoModelForCausalLM.from_pretrained(anchor, dtype=torch.float32),
        args=arguments(KTOConfig, tmp_path, beta=0.2, desirable_weight=1.3, undesirable_weight=0.6),
        train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(policy),
    )
    loss, gradient, batch = theirs(trainer)
    rewards = [1.0 if label else 0.0 for label in batch["label"]]
    samples = rows(batch, rewards)
    samples += rows(batch, [None] * 6, prefix="KL_")
    agree(ours(policy, anchor, Kto(beta=0.2, good=1.3, bad=0.6), samples), (loss, gradient))


def test_simpo(path, teacher):
    """TRL has its loss in the CPO trainer, as a function of mean log-probs."""
    from trl.experimental.cpo import CPOTrainer

    rng = fresh()
    samples = []
    for i in range(12):
        ids = np.array([*rng.integers(3, 15, int(rng.integers(4, 15)))], np.int32)
        samples.append(Sample(i // 2, i % 2, ids, np.arange(len(ids)) > 1, None, 1.0 - i % 2))
    settings = SimpleNamespace(
        alpha=0.0, beta=1.5, loss_type="simpo", simpo_gamma=0.8, label_smoothing=0.0,
        accelerator=SimpleNamespace(device="cpu"),
    )  # fmt: skip
    model = reference(path, torch.float32)
    means = []
    for s in samples:
        ids = torch.tensor(s.ids.astype(np.int64))
        table = model(ids[None]).logits[0, :-1].log_softmax(-1)
        means.append(table.gather(1, ids[1:, None])[1:, 0].mean())
    losses, _, _ = CPOTrainer.cpo_loss(settings, torch.stack(means[::2]), torch.stack(means[1::2]))  # type: ignore[arg-type]
    losses.mean().backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters()]).double()
    agree(ours(path, teacher, Simpo(beta=1.5, gamma=0.8), samples), (losses.mean().item(), gradient))


@pytest.mark.parametrize("margin", [False, True])
def test_bradley_terry(path, tmp_path, margin):
    from trl import RewardConfig, RewardTrainer

    rng, algorithm = fresh(), BradleyTerry(margin=margin, centring=0.05)
    made = TorchLearner(path)
    made.begin(Optimization(updates=1), (), False, algorithm.scalar)
    assert made.scalar is not None
    torch.manual_seed(int(rng.integers(2**31)))
    with torch.no_grad():
        made.scalar.model.get_submodule("score").weight.normal_(0, 0.3)
    made.save_model(tmp_path / "model")
    margins = [round(float(rng.uniform(0.5, 2)), 3) if margin else 1.0 for _ in range(6)]
    data = datasets.Dataset.from_list(
        [{"chosen": text(rng, 4, 9), "rejected": text(rng, 4, 9), **({"margin": m} if margin else {})} for m in margins]
    )
    trainer = RewardTrainer(
        model=AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", dtype=torch.float32),
        args=arguments(RewardConfig, tmp_path, center_rewards_coefficient=0.05),
        train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(path),
    )
    loss, gradient, batch = theirs(trainer)
    gaps = batch["margin"].tolist() if margin else [1.0] * 6
    samples = rows(batch, [*gaps, *[0.0] * 6], lambda i: i % 6)
    samples.sort(key=lambda s: s.group)
    (update,) = plan(algorithm.credit(samples, [Signals()] * 12)[0], 60).updates
    metrics, _ = made._accumulate(update)
    found = torch.cat([p.grad.flatten() for p in made.scalar.model.parameters()]).double()
    agree((sum(m["learner/loss"].total for m in metrics), found), (loss, gradient))
