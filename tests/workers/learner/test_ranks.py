"""Many ranks compute what one does: real processes, real exchanges by gloo, against a learner in this process."""

from __future__ import annotations

import asyncio
import os
import signal
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ranks import ask, gradient, remake, rolled, signals_of, weights
from tiny import fresh, make
from transformers import AutoModelForCausalLM

from pipeline.algorithms import Grpo
from pipeline.algorithms.critic import Critic
from pipeline.algorithms.ppo import Ppo
from pipeline.packing import plan
from rewards.errors import Refused, RunFailed
from workers.learner.engine_torch import TorchLearner
from workers.learner.team import LearnerTeam
from workers.models import Lora
from workers.types import Needs, Optimization, Plan
from workers.weights.proof import checksum

KL = Grpo(group_size=4, kl_coefficient=0.1)
PPO = Ppo(group_size=4, kl_coefficient=0.1, critic=Critic())
SHARED = Ppo(group_size=4, critic=Critic(trunk="shared"))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make(tmp_path_factory.mktemp("model"), initializer_range=0.02)


@pytest.fixture(scope="module")
def runner():
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def team(request, ray_cluster, path, runner):
    team = LearnerTeam(partial(TorchLearner, path), 0.5, 120.0, ranks=request.param)
    try:
        runner.run(team.start())
        yield team
    finally:
        runner.run(team.close())


def alone(path, algorithm):
    learner = TorchLearner(path)
    begin(learner, algorithm)
    return learner


def begin(learner, algorithm):
    return learner.begin(Optimization(10, lr=1e-3), algorithm.losses, algorithm.needs.logp_ref, algorithm.needs.critic)


def credits_of(runner, path, team, algorithm, samples):
    """By the signals of many ranks; and the gradient that one process has of them, from all logits at once."""
    signals = runner.run(signals_of(team, samples, algorithm.needs, 10**6, len(team.actors)))
    credits_ = algorithm.credit(samples, signals)[0]
    one = alone(path, algorithm)
    one.plain_head = False
    return credits_, gradient(SimpleNamespace(engine=one), plan(credits_, 10**6).updates[0])


def agree(runner, team, algorithm, credits_, expected):
    """In one micro-batch for each rank, and in as many as it takes."""
    for tokens in (max(len(c.sample.ids) for c in credits_), 10**6):
        update = plan(credits_, tokens, ranks=len(team.actors)).updates[0]
        runner.run(begin(team, algorithm))
        for found in runner.run(ask(team, gradient, update)):
            assert np.linalg.norm(found - expected) <= 1e-6 * np.linalg.norm(expected)


@pytest.mark.parametrize("algorithm", [KL, PPO, SHARED], ids=["kl", "critic", "shared critic"])
def test_gradients_are_those_of_one_process(runner, team, path, algorithm):
    samples = rolled(fresh(), path)
    runner.run(ask(team, remake, path, "torch", {}))
    runner.run(begin(team, algorithm))
    agree(runner, team, algorithm, *credits_of(runner, path, team, algorithm, samples))


ZERO = [
    *({"stage": stage} for stage in range(4)),
    {"stage": 1, "offload": True},
    {"stage": 3, "gradient_checkpointing": True, "chunked": False},
]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("torch", {"gradient_checkpointing": True}),
        ("torch", {"chunked": False}),
        *(pytest.param("deepspeed", options, marks=pytest.mark.slow) for options in ZERO),
    ],
    ids=str,
)
def test_gradients_are_the_same_however_they_are_computed(runner, team, path, kind, options):
    """Policy and critic, by FSDP2 and by every stage of ZeRO; layers or logits computed twice or once."""
    samples = rolled(fresh(), path)
    runner.run(ask(team, remake, path, kind, options))
    runner.run(begin(team, PPO))
    agree(runner, team, PPO, *credits_of(runner, path, team, PPO, samples))


ENGINES = [
    ("torch", {}),
    ("torch", {"lora": Lora(rank=4)}),
    pytest.param("deepspeed", {"stage": 1}, marks=pytest.mark.slow),
    pytest.param("deepspeed", {"stage": 3}, marks=pytest.mark.slow),
    pytest.param("deepspeed", {"stage": 2, "lora": Lora(rank=4)}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("kind", "options"), ENGINES, ids=str)
def test_a_step_is_that_of_one_process(runner, team, path, tmp_path, kind, options):
    """Log-probs, metrics, weights; and fewer samples than ranks, or none."""
    rng, ranks = fresh(), len(team.actors)
    one = TorchLearner(path, lora=options.get("lora"))
    begin(one, KL)
    runner.run(ask(team, remake, path, kind, options))
    runner.run(begin(team, KL))
    version = runner.run(team.version()) - one.version
    for count in (24, 24, 1, 0):
        samples = rolled(rng, path)
        ours = runner.run(signals_of(team, samples, KL.needs, 60, ranks))

        async def infer(batches, needs):
            return one.infer(batches, needs), 0.0

        class Team:
            pass

        Team.infer = staticmethod(infer)
        theirs = runner.run(signals_of(Team, samples, KL.needs, 60, 1))
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a.logp_ref, b.logp_ref, atol=2e-6)
        credits_ = KL.credit(samples, theirs)[0][:count]
        report = runner.run(team.update(plan(credits_, 100, ranks=ranks)))
        expected = one.update(plan(credits_, 100))
        assert report.version == expected.version + version
        assert report.metrics == pytest.approx(dict(expected.metrics), rel=1e-4, abs=1e-6)
    held = runner.run(ask(team, weights))
    mine = weights(SimpleNamespace(engine=one))
    for found in held:
        assert np.abs(found - mine).max() <= 2e-5
    expected = one.export()
    published = runner.run(asyncio.wait_for(_await(team.export()), 60))
    runner.run(team.version())
    proof = runner.run(asyncio.wait_for(_await(team.proof()), 60))
    runner.run(team.version())
    for name, array in expected.arrays.items():
        np.testing.assert_allclose(published.arrays[name], array, atol=2e-5)
    assert proof.checksum == checksum(published.arrays.values())
    np.testing.assert_allclose(proof.logprobs, one.proof().logprobs, atol=1e-4)
    assert published.version == report.version
    runner.run(team.save_model(tmp_path))
    for name, parameter in AutoModelForCausalLM.from_pretrained(tmp_path).named_parameters():
        np.testing.assert_array_equal(parameter.detach().numpy(), published.arrays[name])


async def _await(reference):
    return await reference


@pytest.mark.parametrize(("kind", "options"), [engine for engine in ENGINES if "lora" not in str(engine)], ids=str)
def test_a_checkpoint_goes_on_with_another_number_of_ranks(runner, team, path, tmp_path, kind, options):
    rng, ranks = fresh(), len(team.actors)
    samples = [rolled(rng, path) for _ in range(2)]
    runner.run(ask(team, remake, path, kind, options))
    runner.run(begin(team, PPO))

    def lot(i, ranks):
        signals = runner.run(signals_of(team, samples[i], PPO.needs, 10**6, len(team.actors)))
        return plan(PPO.credit(samples[i], signals)[0], 100, ranks=ranks)

    first, second = lot(0, ranks), lot(1, ranks)
    alike = lot(1, 1)
    runner.run(team.update(first))
    runner.run(team.save(tmp_path))
    assert len(list(tmp_path.glob("model-*.safetensors"))) == ranks
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    there = runner.run(ask(team, weights))[0]
    assert (torch.cat([p.detach().flatten().double() for p in plain.parameters()]).numpy() == there).all()
    expected = runner.run(team.update(second)).metrics
    one = alone(path, PPO)
    one.load(tmp_path)
    assert dict(one.update(alike).metrics) == pytest.approx(dict(expected), rel=1e-4, abs=1e-6)
    again = tmp_path / "again"
    again.mkdir()
    one.save(again)  # by one process, for many
    runner.run(begin(team, PPO))
    runner.run(team.load(again))
    mine = torch.cat([p.detach().flatten().double() for p in one.policy.parameters()]).numpy()
    assert all((found == mine).all() for found in runner.run(ask(team, weights)))


def test_a_checkpoint_of_another_model_is_refused(runner, path, tmp_path):
    other = TorchLearner(make(tmp_path / "other", intermediate_size=64))
    other.save(tmp_path)
    with pytest.raises(Refused, match=r"holds another model: its model\..*mlp.* is \(64, 32\), expected \(48, 32\)"):
        TorchLearner(path).load(tmp_path)


class Raising(TorchLearner):
    """One rank of it raises in an update, while the other waits for it in an exchange; or its process goes."""

    def __init__(self, path, how):
        super().__init__(path)
        self.how = how

    def update(self, plan):
        if self.ranks.number == 1:
            if self.how == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            raise RunFailed("rank 1 has had enough") if self.how == "raises" else ZeroDivisionError("by zero")
        self.ranks.wait()


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("raises", RunFailed, r"^rank 1 has had enough$"),
        pytest.param("errs", ZeroDivisionError, r"^by zero$", marks=pytest.mark.slow),
        pytest.param("dies", RunFailed, r"^learner-1 died: ", marks=pytest.mark.slow),
    ],
)
def test_a_rank_that_fails_ends_them_all_with_its_own_message(ray_cluster, runner, path, how, error, message):
    team = LearnerTeam(partial(Raising, path, how), 0.5, 120.0, ranks=2)
    runner.run(team.start())
    with pytest.raises(error, match=message):
        runner.run(asyncio.wait_for(team.update(Plan(())), 60))
    with pytest.raises(RunFailed, match=r"^learner-0 died"):
        runner.run(asyncio.wait_for(team.infer([], Needs()), 30))
