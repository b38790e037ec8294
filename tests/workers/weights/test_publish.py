"""Learner and rollout workers as real actors: weights published, one log-prob on both sides, culprits named.

The actors take seconds to start, so all tests share them; the last one ends the learner.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import ALPHABET, fresh, make

from pipeline.algorithms import Grpo
from pipeline.packing import plan
from pipeline.samples import to_samples
from rewards.errors import RunFailed
from rewards.types import Message, ScoredGroup, Task, Verdict
from workers.learner.engine_torch import TorchLearner
from workers.learner.team import LearnerTeam
from workers.messages import Wave
from workers.ray_actors import Died, Stalled, call, shared
from workers.rollout.pool import RolloutPool
from workers.rollout.torch_engine import torch_engine
from workers.rollout.worker import RolloutWorker
from workers.types import Optimization, Request, Sampling, Signals
from workers.weights.transport import ObjectStoreTransport

ALGORITHM = Grpo(group_size=4)


class StickyLearner(TorchLearner):
    """Hangs in the method whose name stands in the file `sticks`, for as long as the file is there."""

    def __init__(self, path, sticks):
        super().__init__(path)
        self.sticks = sticks

    def _stick(self, method):
        while self.sticks.exists() and self.sticks.read_text() == method:
            time.sleep(0.02)

    def update(self, plan):
        self._stick("update")
        return super().update(plan)

    def export(self):
        self._stick("export")
        return super().export()

    def proof(self):
        self._stick("proof")
        return super().proof()


def engine(path, renderer):
    return torch_engine(path, renderer, 64)


@dataclass
class World:
    path: str
    sticks: Path
    runner: asyncio.Runner
    learner: LearnerTeam
    pool: RolloutPool
    transport: ObjectStoreTransport

    def run(self, work: Any):
        return self.runner.run(work)


@pytest.fixture(scope="module")
def world(ray_cluster, tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    path, sticks = make(folder / "model"), folder / "sticks"
    learner, pool = LearnerTeam(partial(StickyLearner, path, sticks), 0.5, 120.0), RolloutPool(2, 0.5, 120.0)

    async def start():
        await asyncio.gather(learner.start(), pool.start())
        await pool.open(path, engine)
        await learner.begin(Optimization(10, lr=2e-2), ALGORITHM.losses, False)

    async def stop():
        await asyncio.gather(learner.close(), pool.close())

    with asyncio.Runner() as runner:
        try:
            runner.run(start())
            yield World(path, sticks, runner, learner, pool, ObjectStoreTransport(learner, pool))
        finally:
            runner.run(stop())


def requests(rng, count, **sampling):
    texts = ["".join(rng.choice(list(ALPHABET), int(rng.integers(1, 12)))) for _ in range(count)]
    knobs = Sampling(**({"max_new_tokens": 16} | sampling))
    return [Request(i, Task(f"task-{i}", (Message("user", text),)), 4, knobs) for i, text in enumerate(texts)]


async def collect(rollouts, wave):
    groups = [group async for generated in rollouts.run(wave) for group in generated.groups]
    return sorted(groups, key=lambda group: group.id)


def judged(rng, groups):
    return [ScoredGroup(g, tuple(Verdict(float(rng.random()), {}) for _ in g.rollouts)) for g in groups]


def test_a_wave_over_two_workers_is_that_of_one(world):
    rng = fresh()
    wave = requests(rng, 7, seed=int(rng.integers(99)))
    alone = RolloutWorker("alone")
    alone.open(world.path, engine)

    def texts(groups):
        return [[rollout.text for rollout in group.rollouts] for group in groups]

    assert texts(world.run(collect(world.pool, wave))) == texts(asyncio.run(collect(alone, Wave(tuple(wave)))))


def test_what_is_published_is_what_generates(world):
    rng = fresh()

    async def step(publish):
        if publish:
            await world.transport.publish()
        groups = await collect(world.pool, requests(rng, 5, seed=int(rng.integers(99))))
        assert [group.id for group in groups] == list(range(5))
        samples = to_samples(judged(rng, groups))
        report = await world.learner.update(plan(ALGORITHM.credit(samples, [Signals()] * 20)[0], 200))
        assert report.seconds > 0
        return report.version, {s.version for s in samples}, report.metrics["policy/logprob_gap_max"]

    begun = world.run(world.learner.version())
    steps = [world.run(step(publish)) for publish in (True, True, True, False)]
    assert [version for version, _, _ in steps] == [begun + 1, begun + 2, begun + 3, begun + 4]
    assert [versions for _, versions, _ in steps] == [{begun}, {begun + 1}, {begun + 2}, {begun + 2}]
    # Not published before the last: the policy has moved on, and the gap says so.
    assert max(gap for _, _, gap in steps[:3]) <= 1e-4 < 1e-2 < steps[3][2]


def test_a_broken_engine_is_named_and_its_worker_goes_on(world):
    good = requests(fresh(), 4)
    bad = [replace(good[0], sampling=replace(good[0].sampling, temperature=float("nan")))]
    with pytest.raises(RunFailed, match=r"^rollout-0: the model's logits"):
        world.run(collect(world.pool, bad))
    assert len(world.run(collect(world.pool, good))) == 4


@pytest.mark.parametrize(("key", "other"), [("checksum", 0), ("logprobs", np.zeros(3, np.float32))])
def test_a_worker_that_does_not_hold_what_was_published_is_named(world, key, other):
    async def publish():
        weights = world.learner.export()
        proof = await world.learner.proof()
        await world.pool.load(weights, shared(replace(proof, **{key: other})))

    with pytest.raises(RunFailed, match=r"^rollout-[01]: (the weights it holds are not version|with version) \d+"):
        world.run(publish())
    world.run(world.transport.publish())


@pytest.mark.parametrize("method", ["update", "export", "proof"])
def test_a_learner_that_gives_no_answer_is_named(world, method):
    world.sticks.write_text(method)
    world.learner.timeout_s = 0.5
    try:
        if method == "update":
            with pytest.raises(Stalled, match=r"^learner\.update gave no answer in 0\.5 s$"):
                world.run(world.learner.update(plan([], 100)))
        else:
            with pytest.raises(Stalled, match=r"^learner\.version gave no answer in 0\.5 s$"):
                world.run(world.transport.publish())
    finally:
        world.sticks.unlink()
        world.learner.timeout_s = 120.0


def test_a_dead_learner_is_named_not_those_who_wait_for_its_weights(world):
    pid = world.run(call(world.learner.actors[0], "__ray_call__", lambda _: os.getpid(), timeout_s=10))
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(Died, match=r"^learner died: "):
        world.run(world.transport.publish())
