"""A prompt longer than allowed: dropped as a failure, with the numbers, or refused with the task's name."""

from __future__ import annotations

import asyncio

import pytest
from tiny import make

from rewards.errors import RunFailed
from rewards.types import Message, Task
from workers.messages import Wave
from workers.rollout.torch_engine import torch_engine
from workers.rollout.worker import RolloutWorker
from workers.types import Request, Sampling


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    worker = RolloutWorker("rollout-0")
    worker.open(make(tmp_path_factory.mktemp("model")), lambda path, renderer: torch_engine(path, renderer, 64))
    return worker


def groups(worker, lengths, **sampling):
    """Asks with prompts of these many characters beside what the chat template writes."""
    requests = tuple(
        Request(4 + i, Task(f"task-{i}", (Message("user", "1" * n),)), 2, Sampling(5, **sampling))
        for i, n in enumerate(lengths)
    )

    async def collect():
        return [group async for generated in worker.run(Wave(requests)) for group in generated.groups]

    found = asyncio.run(collect())
    assert sorted(group.id for group in found) == [request.group_id for request in requests]
    return {group.id: group for group in found}


def tokens(worker, n):
    return len(worker.renderer.prompt((Message("user", "1" * n),)))


@pytest.mark.parametrize("lengths", [(9, 10, 11, 3), (11, 12)])
def test_what_is_too_long_is_dropped_and_the_rest_is_written(worker, lengths):
    limit = tokens(worker, 10)
    free = groups(worker, lengths)
    found = groups(worker, lengths, max_prompt_tokens=limit)
    for id, n in enumerate(lengths, 4):
        rollouts = found[id].rollouts
        assert [r.index for r in rollouts] == [0, 1]
        if n <= 10:
            assert [r.failure for r in rollouts] == [None, None]
            assert [r.text for r in rollouts] == [r.text for r in free[id].rollouts]
        else:
            detail = f"a prompt of {tokens(worker, n)} tokens, rollout.max_prompt_tokens allows {limit}"
            assert {str(r.failure) for r in rollouts} == {f"rollout long_prompt: {detail}"}
            assert [r.turns for r in rollouts] == [(), ()]
    assert all(r.failure is None for group in free.values() for r in group.rollouts)


def test_what_is_too_long_is_refused_with_its_tasks_name(worker):
    limit, long = tokens(worker, 10), tokens(worker, 11)
    refusing = {"max_prompt_tokens": limit, "long_prompts": "refuse"}
    assert len(groups(worker, (9, 10), **refusing)) == 2
    with pytest.raises(RunFailed) as refused:
        groups(worker, (9, 11, 12), **refusing)
    assert str(refused.value) == (
        f"task 'task-1' has a prompt of {long} tokens, rollout.max_prompt_tokens allows {limit}; "
        "allow more, or set rollout.long_prompts=drop"
    )
