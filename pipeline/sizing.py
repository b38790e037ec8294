"""A run on a cluster that is only described: who would sit where, what each GPU would hold, how long a step takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.config import Config, RlStage
from pipeline.memory import Longest, Needs
from pipeline.rundir import size
from pipeline.spec import Device, Spec
from pipeline.step_time import Rates, StepTime, step_time
from rewards.errors import Refused
from workers.cluster import lacking, seat
from workers.placement import Placement

if TYPE_CHECKING:
    from workers.models.create import ModelSizes


@dataclass(frozen=True, slots=True)
class Held:
    """Bytes of one of a role's processes on each of its devices, by what they are for; and what the device has."""

    role: str
    devices: int
    parts: Mapping[str, int]
    has: float | None

    @property
    def total(self) -> int:
        return sum(self.parts.values())


@dataclass(frozen=True, slots=True)
class Sizing:
    """seats: (node, who sits there); steps: of the stages of reinforcement learning whose devices' rates are known."""

    seats: list[tuple[str, list[str]]]
    held: list[Held]
    steps: dict[str, StepTime]


def size_up(
    config: Config, spec: Spec, placement: Placement, needs: Needs, sizes: ModelSizes, longest: Mapping[str, Longest]
) -> Sizing:
    """Raises `Refused` where the cluster has no room for a role, or a role's share of the model none on its GPU."""
    if lack := lacking(placement, spec.seats):
        raise Refused(f"--cluster: {lack}")
    learner, rollout = config.learner, config.rollout
    held = []
    for role, section, need in (("learner", learner, needs.learner), ("rollout", rollout, needs.rollout)):
        device = spec.device(bool(section.gpus), section.gpu_type)
        each = max(1, section.gpus)
        parts = {name: bytes_ // each for name, bytes_ in need.parts.items()}
        held.append(Held(role, each, parts, device.memory if device and section.gpus else None))
    for one in held:
        if one.has and one.total > one.has:
            most = ", ".join(f"{name} {size(n)}" for name, n in one.parts.items() if n)
            raise Refused(
                f"--cluster: {one.role} would need {size(one.total)} on each GPU ({most}), which has {size(one.has)}; "
                "expected more GPUs to split over, fewer tokens at once (learner.micro_batch_tokens, "
                "rollout.max_rows), or larger ones"
            )
    where = seat(placement, spec.seats).of
    names = [", ".join(ask.name for ask in asks) for asks in placement.bundles]
    seats = [(node.name, [n for n, at in zip(names, where, strict=True) if at == node.name]) for node in spec.seats]
    return Sizing(seats, held, _steps(config, spec, sizes, longest))


def _steps(config: Config, spec: Spec, sizes: ModelSizes, longest: Mapping[str, Longest]) -> dict[str, StepTime]:
    at: list[Device | None] = [spec.device(bool(s.gpus), s.gpu_type) for s in (config.rollout, config.learner)]
    if at[0] is None or at[1] is None:
        return {}
    ranks = getattr(config.learner, "ranks", 1)
    rates = Rates(
        at[0], max(1, config.rollout.gpus), at[1], max(1, config.learner.gpus) * ranks, spec.network_gb_s * 1e9
    )
    return {
        name: step_time(config, stage, sizes, longest[name], rates)
        for name, stage in config.stages.items()
        if isinstance(stage, RlStage)
    }
