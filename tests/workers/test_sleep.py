"""What sleeps gives its memory back, and wakes as if nothing had been; on the CPU, and marked `gpu` on a device."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import torch
from tiny import make

from pipeline.algorithms import Sft
from pipeline.packing import plan
from rewards.errors import RunFailed
from workers.learner.engine_torch import TorchLearner
from workers.rollout.renderer import Renderer
from workers.rollout.torch_engine import torch_engine
from workers.types import Credit, Optimization, Prompt, Sample, Sampling, Signals

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(autouse=True)
def device_is_here(request):
    if "cuda" in request.node.name and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")


def work(rng):
    ids, ones = rng.integers(3, 20, (4, 12)).astype(np.int32), np.ones(11, np.float32)
    samples = [Sample(i, 0, row, np.arange(12) > 0, np.zeros(12, np.float32)) for i, row in enumerate(ids)]
    return plan([Credit(sample, Signals(), ones, ones, 11.0) for sample in samples], 100)


def learned(path, device, sleeps):
    learner, rng = TorchLearner(path, device=device), np.random.default_rng(0)
    learner.begin(Optimization(10, lr=1e-2), Sft().losses, True)
    for _ in range(4):
        learner.update(work(rng))
        if sleeps:
            learner.sleep()
            assert all(p.grad is None for p in learner.policy.parameters())
            moments = [x for state in learner.moving["learner"].optimizer.state.values() for x in state.values()]
            assert moments and all(x.device.type == "cpu" for x in moments)
    return [p.detach().cpu() for p in learner.policy.parameters()]


@pytest.mark.parametrize("device", DEVICES)
def test_a_learner_that_slept_learns_on_as_before(tmp_path, device):
    path = make(tmp_path)
    for rested, awake in zip(learned(path, device, True), learned(path, device, False), strict=True):
        assert torch.equal(rested, awake)


@pytest.mark.parametrize("device", DEVICES)
def test_a_learner_that_sleeps_can_be_saved_and_loaded(tmp_path, device):
    path, rng = make(tmp_path), np.random.default_rng(0)
    learner = TorchLearner(path, device=device)
    learner.sleep()  # before its first stage
    learner.begin(Optimization(10, lr=1e-2), Sft().losses, False)
    learner.update(work(rng))
    learner.sleep()
    learner.save(tmp_path)
    other = TorchLearner(path, device=device)
    other.begin(Optimization(10, lr=1e-2), Sft().losses, False)
    other.load(tmp_path)
    after = work(rng)
    assert learner.update(after).metrics["learner/loss"] == other.update(after).metrics["learner/loss"]
    for one, two in zip(learner.policy.parameters(), other.policy.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("device", DEVICES)
def test_an_engine_sleeps_until_it_is_given_weights(tmp_path, device):
    path = make(tmp_path)
    published = TorchLearner(path).export()

    async def scenario():
        engine = torch_engine(path, Renderer.load(path), 8, device=device)
        parameters = list(engine.core.model.parameters())
        prompt = Prompt(0, np.array([5, 6, 7], np.int32), 2, Sampling(20, seed=3))

        async def texts():
            return [c.ids.tolist() async for lot in engine.generate([prompt]) for _, cs in lot for c in cs]

        before = await texts()
        held = torch.cuda.memory_reserved() if device == "cuda" else 0
        await engine.sleep()
        await engine.sleep()
        assert sum(p.untyped_storage().nbytes() for p in parameters) == 0
        if device == "cuda":
            assert torch.cuda.memory_reserved() < held
        with pytest.raises(RunFailed, match="asked to generate while it sleeps"):
            await texts()
        with pytest.raises(ValueError, match="do not fit"):
            await engine.load(type(published)(9, {}, published.probe))
        with pytest.raises(RunFailed, match="while it sleeps"):  # it has no old weights to fall back on
            await texts()
        await engine.load(published)
        assert await texts() == before
        running = asyncio.create_task(texts())
        while not engine.sinks:
            await asyncio.sleep(0)
        with pytest.raises(RunFailed, match="asked to sleep with 1 prompts in flight"):
            await engine.sleep()
        assert await running == before
        await engine.close()

    asyncio.run(scenario())
