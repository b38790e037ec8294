"""Nodes, and which of a run's bundles each would hold. No process is started here and no cluster is asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from workers.placement import Placement


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of a cluster: its name, and what it has by Ray's names (CPU, GPU, accelerator_type:H100 ...)."""

    name: str
    resources: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Seating:
    """`of[i]` is the node of bundle i, or None where no node has room; `missing` the names of those processes."""

    of: tuple[str | None, ...]
    missing: tuple[str, ...]


def seat(placement: Placement, nodes: Sequence[Node]) -> Seating:
    """Seats those that ask for a type of GPU, then the largest, and so on; each on the fullest node that has room, or,
    for roles that are spread, on the one with the fewest of that role. Ray decides for itself; this says if it can.
    """
    free = {node.name: Counter(node.resources) for node in nodes}
    sitting: Counter[tuple[str, str]] = Counter()
    of: list[str | None] = [None] * len(placement.bundles)
    resources = placement.resources

    def size(i: int) -> tuple[bool, int, float, float]:
        return placement.bundles[i][0].spare, -len(resources[i]), -resources[i]["GPU"], -resources[i]["CPU"]

    for i in sorted(range(len(of)), key=size):
        first = placement.bundles[i][0]
        room = [name for name, has in free.items() if all(has[kind] >= n - 1e-9 for kind, n in resources[i].items())]
        if not room:
            continue
        spread = {name: sitting[first.role, name] if first.spread else 0 for name in room}
        of[i] = name = min(room, key=lambda name: (spread[name], free[name]["GPU"], free[name]["CPU"]))
        sitting[first.role, name] += 1
        free[name].subtract(resources[i])
    missing = [asks[0].name for asks, where in zip(placement.bundles, of, strict=True) if where is None]
    return Seating(tuple(of), tuple(missing))


def lacking(placement: Placement, nodes: Sequence[Node]) -> str | None:
    """What the nodes lack for the run to start, by role, in words; None where they have room."""
    missing = [i for i, where in enumerate(seat(placement, nodes).of) if where is None]
    needed = [i for i in missing if not placement.bundles[i][0].spare]
    if not needed:
        return None
    asked = Counter((placement.bundles[i][0].role, _told(placement.resources[i])) for i in needed)
    lacks = ", ".join(f"{role}: {n} x ({what})" for (role, what), n in asked.items())
    total = sum((Counter(node.resources) for node in nodes), Counter())
    return f"no room for {lacks}; {len(nodes)} nodes have {total['CPU']:g} CPU and {total['GPU']:g} GPU together" + (
        f", the largest {max(node.resources.get('CPU', 0) for node in nodes):g} CPU and "
        f"{max(node.resources.get('GPU', 0) for node in nodes):g} GPU"
        if nodes
        else ""
    )


def _told(resources: Mapping[str, float]) -> str:
    kinds = [kind.removeprefix("accelerator_type:") for kind in resources if kind.startswith("accelerator_type:")]
    amounts = [f"{resources[kind]:g} {kind}" for kind in ("CPU", "GPU") if resources[kind]]
    return " + ".join(amounts) + (f" {kinds[0]}" if kinds else "")
