"""ReLIFT: which tasks wait, when they are learned from, and that an update of their own comes of it."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import torch

from pipeline.algorithms import Relift
from pipeline.feeds import Batch
from pipeline.hardest import WithHardest
from pipeline.packing import plan
from rewards.types import Group, Message, Score, ScoredGroup, Task, Verdict
from workers.learner.forward import to_torch
from workers.types import Sample, Signals

TASKS = [Task(f"t{i}", (Message("user", "?"),), demonstration="d" * (i + 1)) for i in range(6)]


class Online:
    """A step's groups as it is told, and one sample of version 7 for each."""

    def __init__(self, *steps):
        self.steps = steps

    async def take(self, step):
        groups = [
            ScoredGroup(Group(i, TASKS[task], ()), tuple(Verdict(r, {"s": Score(r)}) for r in rewards))
            for i, (task, rewards) in enumerate(self.steps[step])
        ]
        return Batch([rollout(i, version=7) for i, _ in enumerate(groups)], groups)

    async def release(self):
        pass


class Renders:
    async def render(self, tasks):
        return [(np.array([1], np.int32), np.full(len(task.demonstration), 2, np.int32)) for task in tasks]


def rollout(group, index=0, reward=1.0, version=0):
    ids, mask = np.arange(4, dtype=np.int32), np.arange(4) > 1
    return Sample(group, index, ids, mask, np.where(mask, -1, 0).astype(np.float32), reward, version=version)


def shown(batch):
    return [int(sample.mask.sum()) - 1 for sample in batch.samples if sample.logp_rollout is None]


def test_as_soon_as_enough_wait_the_newest_are_learned_from():
    memory = {}
    steps = [[(0, [0.0, 0.0]), (1, [0.0, 1.0])], [(2, [0.0, -1.0]), (3, [0.0, 0.0])], [(4, [1.0, 1.0])]]
    feed = WithHardest(Online(*steps), Renders(), TASKS, 2, 0.0, memory)

    async def go():
        first, second = await feed.take(0), await feed.take(1)
        kept = dict(memory)
        # A run that was killed here goes on with what its checkpoint kept.
        again = WithHardest(Online(*steps, [(5, [0.0])]), Renders(), TASKS, 2, 0.0, kept)
        return first, second, await again.take(2), await again.take(3), kept

    first, second, third, fourth, kept = asyncio.run(go())
    assert (shown(first), shown(second), shown(third), shown(fourth)) == ([], [2, 3], [], [0, 5])
    assert list(memory.values()) == [0.0] and kept == {}
    assert {sample.version for sample in second.samples} == {7}
    assert all(sample.reward is None for sample in second.samples if sample.logp_rollout is None)


def test_a_task_waits_once():
    memory = {}
    feed = WithHardest(Online([(0, [0.0]), (1, [0.0])], [(0, [0.0])]), Renders(), TASKS, 3, 0.0, memory)
    asyncio.run(feed.take(0))
    asyncio.run(feed.take(1))
    assert list(memory.values()) == [1.0, 0.0]


def test_demonstrations_are_an_update_of_their_own_with_the_likelihoods_gradient():
    samples = [rollout(0, 0, 1.0), rollout(0, 1, 0.0)]
    samples.append(Sample(-1, 0, np.arange(5, dtype=np.int32), np.arange(5) > 1, None, None))
    algorithm = Relift(group_size=2)
    credits_, metrics = algorithm.credit(samples, [Signals()] * 3)
    assert metrics == {"learner/demonstrations": 1.0}
    assert [c.advantage[0] for c in credits_[:2]] == [0.5, -0.5]
    updates = plan(credits_, 100).updates
    assert [update.denominator for update in updates] == [4.0, 3.0]
    batch = to_torch(updates[1].shards[0][0], torch.device("cpu"))
    assert batch.logp_rollout is None
    logp = torch.tensor([-1.0, -2.0, -3.0], requires_grad=True)
    loss, found = algorithm.losses[0](batch, logp, None)
    loss.backward()
    assert loss.item() == 6.0
    assert logp.grad.tolist() == [-1, -1, -1]
    assert set(found) == {"learner/nll"}
    before = to_torch(updates[0].shards[0][0], torch.device("cpu"))
    logp = torch.full((4,), -1.0, requires_grad=True)
    algorithm.losses[0](before, logp, None)[0].backward()
    assert sorted(logp.grad.tolist()) == [-0.5, -0.5, 0.5, 0.5]


def test_with_nothing_to_show_it_is_grpo_without_the_spread():
    credits_, metrics = Relift(group_size=2).credit([rollout(0, 0, 3.0), rollout(0, 1, 0.0)], [Signals()] * 2)
    assert [c.advantage[0] for c in credits_] == [1.5, -1.5]
    assert metrics["learner/demonstrations"] == 0.0
    assert len(plan(credits_, 100).updates) == 1


@pytest.mark.parametrize("tokens", [10, 100])
def test_rollouts_and_demonstrations_are_inferred_together(tokens):
    """With several updates per step the learner says log-probs of both, in one micro-batch or in two."""
    from pipeline.packing import for_inference

    samples = [rollout(0), Sample(-1, 0, np.arange(5, dtype=np.int32), np.arange(5) > 1, None, None)]
    _, batches = for_inference(samples, tokens)
    found = np.concatenate([b.logp_rollout for b in batches])
    assert sorted(found.tolist()) == [-1, -1, 0, 0, 0]
