"""Bundles on paper, and processes in them on a real Ray."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys

import pytest

from workers.placement import Ask, arrange, reserved
from workers.ray_actors import Stalled, call, kill, ready, start_actor

LEARNER, ROLLOUTS = [Ask("learner", 2, 1)], [Ask("rollout-0", 1.5, 1), Ask("rollout-1", 1.5, 1)]
JUDGES = [Ask("judge-0", 0.5)]


def test_split_gives_every_process_its_own():
    placement = arrange(LEARNER, ROLLOUTS, JUDGES, shared=False)
    assert [[ask.name for ask in asks] for asks in placement.bundles] == [
        ["learner"],
        ["rollout-0"],
        ["rollout-1"],
        ["judge-0"],
    ]
    assert placement.resources == [
        {"CPU": 2, "GPU": 1},
        {"CPU": 1.5, "GPU": 1},
        {"CPU": 1.5, "GPU": 1},
        {"CPU": 0.5, "GPU": 0},
    ]
    assert (placement.cpus, placement.gpus) == (5.5, 3)


def test_shared_lets_learner_and_the_first_rollout_worker_take_turns():
    placement = arrange(LEARNER, ROLLOUTS, JUDGES, shared=True)
    assert [len(asks) for asks in placement.bundles] == [2, 1, 1]
    assert placement.resources[0] == {"CPU": 2, "GPU": 1}
    assert (placement.cpus, placement.gpus) == (4.0, 2)


def test_each_role_is_reserved_together_and_a_spare_process_alone():
    rollouts = [Ask(f"rollout-{i}", 1, 1, "H100", True, spare=i > 1) for i in range(4)]
    placement = arrange(LEARNER, rollouts, JUDGES, shared=False)
    assert placement.groups == [[0], [1, 2], [3], [4], [5]]
    assert placement.resources[1] == {"CPU": 1, "GPU": 1, "accelerator_type:H100": 0.001}
    assert arrange(LEARNER, rollouts, JUDGES, shared=True).groups == [[0], [1], [2], [3], [4]]


def test_many_ranks_take_turns_with_as_many_rollout_workers():
    ranks = [Ask(f"learner-{i}", 1) for i in range(3)]

    def names(ranks, rollouts, shared):
        bundles = arrange(ranks, rollouts, JUDGES, shared).bundles
        return [" ".join(ask.name for ask in asks) for asks in bundles]

    pairs = ["learner-0 rollout-0", "learner-1 rollout-1"]
    assert names(ranks, ROLLOUTS, True) == [*pairs, "learner-2", "judge-0"]
    assert names(ranks[:1], ROLLOUTS, True) == [pairs[0], "rollout-1", "judge-0"]
    assert names(ranks[:2], ROLLOUTS, False) == ["learner-0", "learner-1", "rollout-0", "rollout-1", "judge-0"]


class Worker:
    def where(self):
        return os.environ["OMP_NUM_THREADS"]


def test_processes_that_take_turns_fit_where_one_of_them_does(ray_cluster):
    """Two processes of 3 CPUs each, on a Ray of 4: in turns they fit, with 3 threads each; side by side they don't."""
    learner, rollout = Ask("learner", 3), Ask("rollout-0", 3)

    async def scenario():
        seats = await reserved(arrange([learner], [rollout], [Ask("judge-0", 0.5)], shared=True), 20)
        try:
            actors = [seats.start(Worker, name=ask.name, cpus=ask.cpus) for ask in (learner, rollout)]
            for actor in actors:
                await ready(actor, 60)
                assert await call(actor, "where", timeout_s=60) == "3"
            one_more = start_actor(Worker, name="stranger", cpus=1)
            with pytest.raises(Stalled, match="stranger did not start"):  # what is reserved is nobody else's
                await ready(one_more, 0.5)
            kill(one_more)
        finally:
            seats.release()
        with pytest.raises(Stalled, match=r"no room .* asks for 3 CPU; there are 4 CPU .* and 0 GPU"):
            await reserved(arrange([learner], [rollout], [], shared=False), 0.5)

    asyncio.run(scenario())


GPUS = """
import asyncio, json, os
from workers.placement import Ask, arrange, reserved
from workers.ray_actors import call, start_ray, stop_ray

class Worker:
    def gpus(self):
        return os.environ.get("CUDA_VISIBLE_DEVICES")

async def main(shared):
    asks = [Ask("learner", 0.5, 1)], [Ask("rollout-0", 0.5, 1)]
    seats = await reserved(arrange(*asks, [], shared), 20)
    actors = [seats.start(Worker, name=ask.name, cpus=ask.cpus) for ask in (*asks[0], *asks[1])]
    found = [await call(actor, "gpus", timeout_s=60) for actor in actors]
    seats.release()
    return found

start_ray(2)
print(json.dumps([asyncio.run(main(True)), asyncio.run(main(False))]))
stop_ray()
"""


@pytest.mark.slow
def test_in_turns_they_see_the_same_gpu_and_apart_two():
    """On a Ray that is told of two GPUs; it only counts them, so they need not be there."""
    env = {**os.environ, "RAY_OVERRIDE_RESOURCES": json.dumps({"GPU": 2})}
    found = subprocess.run([sys.executable, "-c", GPUS], env=env, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr
    together, apart = json.loads(found.stdout.splitlines()[-1])
    assert together[0] == together[1] and together[0] in ("0", "1")
    assert set(apart) == {"0", "1"}
