"""From a config's rewards to the panel that judges: seats, noise, gold, how rewards are combined and shaped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import is_dataclass
from typing import Any

from pydantic import ValidationError

from pipeline.config import Config, Rewards, RlStage, SeatKnobs
from pipeline.knobs import PlugKnobs, knobs_from
from pipeline.refusals import refusal
from pipeline.reward_sections import AskedKnobs, OwnKnobs
from pipeline.shaping import shapers_of
from pipeline.stage_kinds import judged_by
from pipeline.streams import key
from rewards.catalog import resolve
from rewards.errors import Refused
from rewards.gold import Gold
from rewards.noise import Noise, bounds_of
from rewards.panel import Panel, Seat
from rewards.sources.function import Function


def panels(config: Config) -> list[Rewards]:
    """The different panels of the run's stages, in their order."""
    out: list[Rewards] = []
    for stage in config.stages.values():
        if (rewards := judged_by(stage)) is not None and rewards not in out:
            out.append(rewards)
    return out


def panel_of(rewards: Rewards, seed: int | None = None) -> Panel:
    """The panel that the config describes. Without a `seed` it is an evaluation's: there is no noise, and gold judges
    everything.

    Raises `Refused` where an import path does not import, and for noise that means nothing for a source.
    """
    seats = tuple(_seat(name, knobs) for name, knobs in rewards.sources.items())
    combiner, shapers = rewards.combine.build(), dict(shapers_of(rewards)[0])
    noise = None if seed is None else noise_of(rewards, seats)
    return Panel(seats, noise, seed or 0, combiner, shapers, _gold(rewards, seed))


def _gold(rewards: Rewards, seed: int | None) -> Gold | None:
    if rewards.gold is None:
        return None
    asked = {field: getattr(rewards.gold, field) for field in AskedKnobs.model_fields}
    seat = Seat("gold", _source("rewards.gold", rewards.gold), **asked)
    return Gold(seat, 1.0 if seed is None else rewards.gold.share)


def noise_of(rewards: Rewards, seats: Sequence[Seat]) -> Noise | None:
    """The noise that the config describes. Raises `Refused` where it means nothing for a source."""
    if rewards.noise is None:
        return None
    noise: Noise = rewards.noise.build()
    for seat in seats:
        if noise.disturbs(seat.name, seat.weight):
            noise.check(seat.name, bounds_of(seat.source))
            if getattr(seat.source, "judges_steps", False):
                raise Refused(
                    f"rewards.noise: source {seat.name!r} counts by its step rewards, which noise leaves as they are; "
                    "expected noise.sources to name others"
                )
    return noise


def judging_seed(config: Config, name: str) -> int | None:
    """What this stage's judges draw from; None where they draw nothing: noise and slices are for stages that learn."""
    stage = config.stages[name]
    draws = isinstance(stage, RlStage) and (stage.rewards.noise or stage.rewards.gold)
    return key(config.seed, "judging", name) if draws else None


def judges_steps(rewards: Rewards) -> bool:
    """Whether one of the sources says that it judges steps (`judges_steps`, a class variable)."""
    return any(getattr(seat.source, "judges_steps", False) for seat in panel_of(rewards).seats)


def _seat(name: str, knobs: SeatKnobs) -> Seat:
    common = {field: getattr(knobs, field) for field in SeatKnobs.model_fields}
    return Seat(name, _source(f"rewards.sources.{name}", knobs), **common)


def _source(where: str, knobs: PlugKnobs) -> Any:
    return _own_source(where, knobs) if isinstance(knobs, OwnKnobs) else knobs.build()


def _own_source(where: str, knobs: OwnKnobs) -> Any:
    try:
        found = resolve(knobs.kind)
    except Refused as error:
        raise Refused(f"{where}.kind: {error}") from error
    cls, given = (found, knobs.params) if isinstance(found, type) else (Function, {**knobs.params, "path": knobs.kind})
    try:
        return knobs_from(cls).model_validate(given).build() if is_dataclass(cls) else cls(**given)
    except ValidationError as error:
        raise refusal(error, given, f"{where}.params") from None
    except TypeError as error:
        raise Refused(f"{where}.params: {knobs.kind} does not take them: {error}") from None
