"""Learner and engines that share devices, as real actors: the two never work at the same time, and who sleeps sleeps.

Both are asked as fast as the loop can, without the pauses that a synchronous run has by itself.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from tiny import ALPHABET, make

from pipeline.algorithms import Sft
from pipeline.packing import plan
from rewards.errors import RunFailed
from rewards.types import Message, Task
from workers.learner.engine_torch import TorchLearner
from workers.rollout.served import ServedEngine
from workers.rollout.torch_engine import TorchCore
from workers.turns import LearnerInTurn, RolloutsInTurn, Turns
from workers.types import Credit, Optimization, Request, Sample, Sampling, Signals
from workers.weights.transport import ObjectStoreTransport

pytestmark = pytest.mark.usefixtures("ray_cluster")


class Diary:
    """Writes down who did what, from when to when."""

    def __init__(self, folder: Path, who: str):
        self.path = folder / who

    def entry(self, what, work):
        start = time.monotonic()
        out = work()
        with self.path.open("a") as file:
            file.write(f"{what} {start} {time.monotonic()}\n")
        return out


class DiaryCore(TorchCore):
    def __init__(self, folder, path, renderer):
        super().__init__(path, renderer, 64)
        self.diary = Diary(folder, "engine")

    def step(self):
        return self.diary.entry("step", super().step)

    def load(self, weights):
        return self.diary.entry("load", lambda: super(DiaryCore, self).load(weights))

    def sleep(self):
        self.diary.entry("sleep", super().sleep)
        assert sum(p.numel() for p in self.model.parameters()) == 0


class DiaryLearner(TorchLearner):
    def __init__(self, folder, path):
        super().__init__(path)
        self.diary = Diary(folder, "learner")

    def update(self, plan):
        return self.diary.entry("update", lambda: super(DiaryLearner, self).update(plan))

    def sleep(self):
        self.diary.entry("sleep", super().sleep)
        assert all(p.grad is None for p in self.policy.parameters())


def engine(folder, path, renderer):
    return ServedEngine(partial(DiaryCore, folder, path, renderer))


def demonstrations(rng):
    samples = []
    for i in range(8):
        ids = rng.integers(3, 20, 12).astype(np.int32)
        samples.append(Sample(i, 0, ids, np.arange(12) > 3, np.zeros(12, np.float32)))
    ones = np.ones(8, np.float32)
    return plan([Credit(sample, Signals(), ones, ones, 8.0) for sample in samples], 64)


def wave(n):
    sampling = Sampling(max_new_tokens=8)
    return [Request(i, Task(f"t{i}", (Message("user", ALPHABET[i : i + 5]),)), 2, sampling) for i in range(n)]


def entries(folder, who):
    lines = [line.split() for line in (folder / who).read_text().splitlines()]
    return [(what, float(start), float(end)) for what, start, end in lines]


def test_they_never_work_at_the_same_time(tmp_path):
    path, turns = make(tmp_path / "model"), Turns()
    learner = LearnerInTurn(partial(DiaryLearner, tmp_path, path), 0.5, 120.0, turns=turns)
    rollouts = RolloutsInTurn(1, 0.5, 120.0, turns=turns)
    transport = ObjectStoreTransport(learner, rollouts)

    async def learning(rng):
        for _ in range(6):
            await learner.update(demonstrations(rng))
            await transport.publish()

    async def generating():
        found = 0
        for _ in range(12):
            try:
                found += sum([len(g.groups) async for g in rollouts.run(wave(4))])
            except RunFailed as error:  # its turn began after an update and before the publish
                assert "no weights" in str(error)
            await asyncio.sleep(0)
        return found

    async def scenario():
        await asyncio.gather(learner.start(), rollouts.start())
        await rollouts.open(path, partial(engine, tmp_path))
        await learner.begin(Optimization(10, lr=1e-2), Sft().losses, False)
        await transport.publish()
        try:
            _, found = await asyncio.gather(learning(np.random.default_rng(0)), generating())
            await learner.save(tmp_path)  # only reads: it needs no turn
            found += sum([len(g.groups) async for g in rollouts.run(wave(4))])
            assert await learner.version() == 6
            return found
        finally:
            await asyncio.gather(learner.close(), rollouts.close())

    assert asyncio.run(scenario()) >= 8
    learned = [e for e in entries(tmp_path, "learner") if e[0] == "update"]
    generated = [e for e in entries(tmp_path, "engine") if e[0] != "sleep"]
    assert len(learned) == 6 and sum(what == "load" for what, _, _ in generated) == 7
    overlaps = [(a, b) for a in learned for b in generated if a[1] < b[2] and b[1] < a[2]]
    assert not overlaps
    # Whoever works, the other's last entry is that it went to sleep.
    for worked, other in ((learned, "engine"), (generated, "learner")):
        for _, start, _ in worked:
            assert [what for what, begun, _ in entries(tmp_path, other) if begun < start][-1] == "sleep"
