"""A run's bundles in pods, or on nodes: how many of which size.

GPUs are what is scarce: a role's bundles with GPUs fill one pod after the other, up to as many GPUs as a node has.
Bundles without any get a pod each on Kubernetes, where the scheduler finds room for them; on Slurm, where nodes are
alike, they go to the nodes with the fewest CPUs asked for.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace

from rewards.errors import Refused
from workers.placement import Ask, Placement


@dataclass(frozen=True, slots=True)
class Pod:
    """What one pod, or node, holds: bundles of one role; CPUs and GPUs that they ask for together."""

    role: str
    cpus: float
    gpus: int
    gpu_type: str | None = None
    spare: bool = False

    @property
    def whole_cpus(self) -> int:
        return max(1, math.ceil(self.cpus))


@dataclass(frozen=True, slots=True)
class Pods:
    """`count` pods alike; a run starts with `least` of them."""

    name: str
    pod: Pod
    count: int
    least: int


def pods_of(placement: Placement, gpus_per_node: int) -> list[Pod]:
    """Raises `Refused` where one process asks for more GPUs than a node has."""
    out: list[Pod] = []
    for asks, resources in zip(placement.bundles, placement.resources, strict=True):
        first, gpus = asks[0], int(resources["GPU"])
        if gpus > gpus_per_node:
            raise Refused(f"--gpus-per-node: {gpus_per_node}, but {first.name} asks for {gpus} GPUs; expected as many")
        pod = Pod(first.role, resources["CPU"], gpus, _type(asks), first.spare)
        last = out[-1] if out else None
        alike = last and (last.role, last.gpu_type, last.spare) == (pod.role, pod.gpu_type, pod.spare)
        if last and alike and gpus and not first.spread and last.gpus + gpus <= gpus_per_node:
            out[-1] = replace(last, cpus=last.cpus + pod.cpus, gpus=last.gpus + gpus)
        else:
            out.append(pod)
    return out


def _type(asks: tuple[Ask, ...]) -> str | None:
    return next((ask.gpu_type for ask in asks if ask.gpu_type), None)


def groups_of(pods: list[Pod]) -> list[Pods]:
    """Pods that are alike, together. Their names: the role's, with a number where a role has several."""
    needed = Counter(pod for pod in pods if not pod.spare)
    spare = Counter(replace(pod, spare=False) for pod in pods if pod.spare)
    kinds = list(dict.fromkeys([*needed, *spare]))
    roles = Counter(pod.role for pod in kinds)
    seen: Counter[str] = Counter()
    out = []
    for pod in kinds:
        name = f"{pod.role}-{seen[pod.role]}" if roles[pod.role] > 1 else pod.role
        seen[pod.role] += 1
        out.append(Pods(name, pod, needed[pod] + spare[pod], needed[pod]))
    return out


def nodes_of(pods: list[Pod], gpus_per_node: int) -> list[Pod]:
    """Nodes for all pods, spare ones too: those without GPUs sit on the others' nodes.

    Raises `Refused` where pods ask for GPUs of different types: a Slurm job's nodes are alike.
    """
    types = {pod.gpu_type for pod in pods if pod.gpu_type}
    if len(types) > 1:
        raise Refused(f"gpu_type: {' and '.join(sorted(types))} in one Slurm job, whose nodes are alike; expected one")
    nodes: list[Pod] = []
    for pod in sorted(pods, key=lambda pod: -pod.gpus):
        room = [i for i, node in enumerate(nodes) if node.gpus + pod.gpus <= gpus_per_node]
        if not room:
            nodes.append(replace(pod, role="node", gpu_type=next(iter(types), None)))
            continue
        i = min(room, key=lambda i: nodes[i].cpus) if not pod.gpus else room[0]
        nodes[i] = replace(nodes[i], cpus=nodes[i].cpus + pod.cpus, gpus=nodes[i].gpus + pod.gpus)
    return nodes
