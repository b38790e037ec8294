"""The worker in this process, with a real engine: from tasks to groups."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from tiny import ALPHABET, fresh, make

from rewards.errors import RunFailed
from rewards.types import Message, Task
from workers.messages import Wave
from workers.rollout.torch_engine import torch_engine
from workers.rollout.worker import RolloutWorker
from workers.types import Request, Sampling


def engine(path, renderer):
    return torch_engine(path, renderer, 64)


def opened(name, path):
    worker = RolloutWorker(name)
    worker.open(path, engine)
    return worker


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    path = make(tmp_path_factory.mktemp("model"))
    return opened("rollout-0", path)


def wave(rng, count, n=3, **sampling):
    texts = ["".join(rng.choice(list(ALPHABET), int(rng.integers(1, 12)))) for _ in range(count)]
    return [
        Request(7 + 3 * i, Task(f"task-{i}", (Message("user", text),)), n, Sampling(**sampling))
        for i, text in enumerate(texts)
    ]


def groups(worker, requests):
    async def collect():
        return [generated async for generated in worker.run(Wave(tuple(requests)))]

    lots = asyncio.run(collect())
    assert all(lot.groups and lot.seconds > 0 and lot.who == "rollout-0" for lot in lots)
    return {group.id: group for lot in lots for group in lot.groups}


def test_every_request_becomes_its_group(worker):
    requests = wave(fresh(), 20, max_new_tokens=20)
    found = groups(worker, requests)
    assert found.keys() == {request.group_id for request in requests}
    for request in requests:
        group = found[request.group_id]
        assert group.task is request.task
        assert [rollout.index for rollout in group.rollouts] == [0, 1, 2]
        for rollout in group.rollouts:
            (turn,) = rollout.turns
            assert turn.prompt_ids.tolist() == worker.renderer.prompt(request.task.messages).tolist()
            assert turn.text == rollout.text == worker.renderer.text(turn.completion_ids)
            assert len(turn.completion_ids) == len(turn.logprobs)


def test_the_text_ends_before_the_first_stop_string_and_the_ids_after_it(worker):
    rng = fresh()
    free = groups(worker, wave(np.random.default_rng(0), 20, max_new_tokens=40))
    texts = [rollout.text for group in free.values() for rollout in group.rollouts]
    stops = tuple(sorted({text[3:5] for text in rng.permutation([t for t in texts if len(t) > 6])[:3].tolist()}))
    cut = groups(worker, wave(np.random.default_rng(0), 20, max_new_tokens=40, stop=stops))
    hits = 0
    for id, group in cut.items():
        for before, after in zip(free[id].rollouts, group.rollouts, strict=True):
            turn = after.turns[0]
            assert not any(stop in turn.text for stop in stops)
            places = [before.text.index(stop) for stop in stops if stop in before.text]
            assert turn.text == before.text[: min(places)] if places else turn.text == before.text
            if places:
                assert turn.stop == "stop"
                assert any(stop in worker.renderer.text(turn.completion_ids) for stop in stops)
                hits += 1
    assert hits


def test_a_broken_engine_is_named(tmp_path):
    path = make(tmp_path, "gpt2")  # 512 places
    worker = opened("rollout-3", path)
    request = Request(0, Task("long", (Message("user", "1" * 513),)), 1, Sampling(2))
    with pytest.raises(RunFailed, match=r"^rollout-3: the engine failed: IndexError: "):
        groups(worker, [request])


def test_rollouts_go_on_from_what_was_begun_as_if_it_had_been_drawn(worker):
    """Greedy: from every prefix of an answer comes the rest of it."""
    (request,) = wave(fresh(), 1, n=1, max_new_tokens=16, temperature=0.0)
    (whole,) = (r.turns[0] for r in groups(worker, [request])[request.group_id].rollouts)
    for cut in range(1, len(whole.completion_ids)):
        begun = whole.completion_ids[:cut]
        sampling = Sampling(16 - cut, temperature=0.0)
        onwards = Request(3, request.task, 2, sampling, begun)
        for rollout in groups(worker, [onwards])[3].rollouts:
            (turn,) = rollout.turns
            assert turn.prompt_ids.tolist() == [*whole.prompt_ids.tolist(), *begun.tolist()]
            assert turn.completion_ids.tolist() == whole.completion_ids[cut:].tolist()


def test_steps_end_in_the_token_that_holds_their_last_character(worker):
    rng = fresh()
    texts = ["".join(rng.choice(list(ALPHABET), int(rng.integers(2, 12)))) for _ in range(5)]
    ends = [sorted(rng.choice(len(text), 2, replace=False).tolist()) for text in texts]
    answers = [worker.renderer.answer(text) for text in texts]
    found = worker.step_ends([(ids, [end + 1 for end in some]) for ids, some in zip(answers, ends, strict=True)])
    assert [places.tolist() for places in found] == ends  # one token per character
