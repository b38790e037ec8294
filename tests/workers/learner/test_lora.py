"""Adapters: what is published and saved is the merged model, the reference is the adapter as it was; peft agrees."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peft import PeftModel
from ranks import rolled
from tiny import fresh, make, reference
from transformers import AutoModelForCausalLM

from pipeline.algorithms import Grpo
from pipeline.packing import for_inference, plan
from rewards.errors import Refused
from workers.learner.engine_torch import TorchLearner
from workers.models import Lora
from workers.types import Needs, Optimization, Signals
from workers.weights.proof import checksum

KL = Grpo(group_size=4, kl_coefficient=0.1)


@pytest.fixture(scope="module", params=["qwen3", "gpt2"])
def path(request, tmp_path_factory):
    return make(tmp_path_factory.mktemp("model"), request.param)


def learner(path, **spec):
    made = TorchLearner(path, lora=Lora(rank=4, alpha=8.0, **spec))
    made.begin(Optimization(10, lr=1e-2), KL.losses, True)
    return made


def step(made, samples):
    signals = [Signals(logp_ref=s.logp_rollout[s.mask]) for s in samples]
    made.update(plan(KL.credit(samples, signals)[0], 200))


def logprobs(made, samples):
    (found,) = made.infer(for_inference(samples, 10**6)[1], Needs(logp_old=True, logp_ref=True))
    return found["logp_old"], found["logp_ref"]


def test_adapters_alone_learn_and_everybody_else_sees_a_plain_model(path, tmp_path):
    rng = fresh()
    made, samples = learner(path), rolled(rng, path)
    plain = {n: p.detach().clone() for n, p in reference(path, torch.float32).named_parameters()}
    start = logprobs(made, samples)
    assert (start[0] == start[1]).all()  # B is zero
    for _ in range(2):
        step(made, samples)
    old, ref = logprobs(made, samples)
    assert np.abs(old - start[0]).max() > 1e-3
    assert (ref == start[0]).all()
    frozen = {n: p for n, p in made.policy.named_parameters() if ".lora_" not in n}
    assert all(torch.equal(p, plain[n.replace(".base_layer.", ".")]) for n, p in frozen.items())
    moved = sum(p.numel() for g in made.moving["learner"].optimizer.param_groups for p in g["params"])
    assert moved < sum(p.numel() for p in plain.values()) / 2

    published = made.export()
    assert {n: a.shape for n, a in published.arrays.items()} == {n: tuple(p.shape) for n, p in plain.items()}
    assert made.proof().checksum == checksum(published.arrays.values())
    made.save_model(tmp_path)
    saved = reference(str(tmp_path), torch.float32)
    for name, parameter in saved.named_parameters():
        assert np.array_equal(published.arrays[name], parameter.detach().numpy())
    merged = TorchLearner(str(tmp_path))
    merged.begin(made.spec, KL.losses, False)
    (found,) = merged.infer(for_inference(samples, 10**6)[1], Needs(logp_old=True))
    np.testing.assert_allclose(found["logp_old"], old, atol=2e-5)
    worn: torch.nn.Module = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(path), tmp_path / "adapter")
    ids = torch.from_numpy(samples[0].ids.astype(np.int64))[None]
    with torch.no_grad():
        torch.testing.assert_close(worn(ids).logits, saved(ids).logits, rtol=1e-4, atol=1e-4)

    made.begin(made.spec, KL.losses, True)  # the next stage's reference is what this one learned
    old, ref = logprobs(made, samples)
    assert (old == ref).all()


def test_a_checkpoint_brings_adapters_and_reference_back(path, tmp_path):
    rng = fresh()
    made, samples = learner(path), rolled(rng, path)
    step(made, samples)
    made.save(tmp_path)
    other = learner(path)
    other.load(tmp_path)
    for one in (made, other):
        step(one, samples)
    assert all((a == b).all() for a, b in zip(logprobs(made, samples), logprobs(other, samples), strict=True))


def test_targets_by_name(path):
    if "q_proj" in str(reference(path)):
        made = learner(path, targets=("q_proj", "v_proj"))
        names = {n.split(".")[-4] for n, _ in made.policy.named_parameters() if ".lora_A.default" in n}
        assert names == {"q_proj", "v_proj"}
    with pytest.raises(Refused, match=r"learner\.lora\.targets: .*no_such"):
        learner(path, targets=("no_such",))
