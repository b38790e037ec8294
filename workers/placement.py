"""Who sits where: the processes of a run in bundles, each role's in a placement group of Ray's.

    split    every process has a bundle of its own: learner | rollout-0 | rollout-1 | judge-0 ...
    shared   learner and rollout-0 take turns on the devices of one bundle: learner, rollout-0 | rollout-1 | judge-0 ...
             (of a learner of many ranks, learner-1 and rollout-1 do as well, and so on)

A process may use all CPUs and GPUs it asks for. Those that take turns count for half each with Ray, so that both fit
into a bundle as large as the larger of them; half a GPU twice in a bundle of one GPU is the same GPU. A run gets
all of its places before anything starts in one of them, or says what it waits for; those that are spare may come later.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from workers.ray_actors import Actor, Bundle, Stalled, release, reserve, start_actor

# In a process of its own: asking a GPU makes a context on it, which would stay for as long as the driver does.
_ASK_GPUS = (
    "import json, torch; print(json.dumps([torch.cuda.mem_get_info(i) for i in range(torch.cuda.device_count())]))"
)
# What a bundle asks of the resource that Ray gives each node with GPUs of a type (1 of it, however many they are).
OF_A_TYPE = 0.001


@dataclass(frozen=True, slots=True, order=True)
class Gpu:
    """Bytes of its memory."""

    free: int
    total: int


@dataclass(frozen=True, slots=True)
class Machine:
    """What is here: CPUs, free bytes of memory, GPUs."""

    cpus: int
    memory: int
    gpus: tuple[Gpu, ...]


def this_machine() -> Machine:
    """Look at this machine."""
    import torch

    gpus: tuple[Gpu, ...] = ()
    if torch.cuda.device_count():
        asked = subprocess.run([sys.executable, "-c", _ASK_GPUS], capture_output=True, text=True, check=True)
        gpus = tuple(Gpu(*pair) for pair in json.loads(asked.stdout))
    return Machine(os.cpu_count() or 1, psutil.virtual_memory().available, gpus)


@dataclass(frozen=True, slots=True)
class Ask:
    """What one process asks for. `cpus` is also its number of threads (one at least).

    gpu_type  only GPUs of this type, by Ray's name
    spread    its role's processes sit on as many nodes as possible; else on as few
    spare     the run starts without it where there is no room, and takes it in when there is
    """

    name: str
    cpus: float
    gpus: int = 0
    gpu_type: str | None = None
    spread: bool = False
    spare: bool = False

    @property
    def role(self) -> str:
        return self.name.partition("-")[0]


@dataclass(frozen=True, slots=True)
class Placement:
    """`bundles[i]` are the processes of one bundle; where there are two, they take turns."""

    bundles: tuple[tuple[Ask, ...], ...]

    @property
    def resources(self) -> list[dict[str, float]]:
        """What each bundle asks of Ray."""
        return [
            {"CPU": max(ask.cpus for ask in bundle), "GPU": float(max(ask.gpus for ask in bundle))}
            | {f"accelerator_type:{ask.gpu_type}": OF_A_TYPE for ask in bundle if ask.gpu_type}
            for bundle in self.bundles
        ]

    @property
    def groups(self) -> list[list[int]]:
        """Numbers of bundles that are reserved together: each role's; a spare process's alone."""
        groups: dict[str, list[int]] = {}
        for i, (first, *_) in enumerate(self.bundles):
            groups.setdefault(first.name if first.spare else first.role, []).append(i)
        return list(groups.values())

    @property
    def cpus(self) -> float:
        return sum(bundle["CPU"] for bundle in self.resources)

    @property
    def gpus(self) -> int:
        return int(sum(bundle["GPU"] for bundle in self.resources))


def arrange(learner: Sequence[Ask], rollouts: Sequence[Ask], judges: Sequence[Ask], shared: bool) -> Placement:
    """The run's processes in bundles. Shared: each learner rank with a rollout worker, as far as both go."""
    if not shared:
        return Placement(tuple((ask,) for ask in (*learner, *rollouts, *judges)))
    pairs = tuple(zip(learner, rollouts, strict=False))
    rest = (*learner[len(pairs) :], *rollouts[len(pairs) :], *judges)
    return Placement((*pairs, *((ask,) for ask in rest)))


class Reserved:
    """A placement whose bundles are reserved. `start` is `start_actor` for processes by their names in it."""

    def __init__(self, placement: Placement, bundles: Sequence[Bundle]):
        self._bundles = bundles
        self._of = {
            ask.name: (ask, bundle, 1 / len(asks))
            for asks, bundle in zip(placement.bundles, bundles, strict=True)
            for ask in asks
        }

    def start(self, cls: type, *args: Any, name: str, cpus: float, **kwargs: Any) -> Actor:
        """See `start_actor`: in the process's bundle, with its GPUs."""
        ask, bundle, share = self._of[name]
        return start_actor(cls, *args, name=name, cpus=cpus, gpus=ask.gpus, bundle=bundle, share=share, **kwargs)

    def release(self) -> None:
        """Give the bundles back."""
        release(self._bundles)


async def reserved(placement: Placement, timeout_s: float) -> Reserved:
    """Reserve the bundles; those of spare processes are only asked for.

    Raises `Stalled`, with what the cluster has, where the others are not free in time; then nothing stays reserved.
    """
    resources, of = placement.resources, {}
    for numbers in placement.groups:
        first = placement.bundles[numbers[0]][0]
        wait_s = None if first.spare else timeout_s
        try:
            bundles = await reserve(first.role, [resources[i] for i in numbers], first.spread, wait_s)
        except Stalled:
            release([*of.values()])
            raise
        of |= dict(zip(numbers, bundles, strict=True))
    return Reserved(placement, [of[i] for i in range(len(resources))])
