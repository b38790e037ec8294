"""What a config may say of who judges: sources, gold, noise, how rewards are combined and shaped."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt, Le
from pydantic import Discriminator, Field, Tag, model_validator

from pipeline.knobs import Knobs, PlugKnobs, knobs_from
from pipeline.refusals import OWN
from pipeline.sections import Count, Pool, Positive, Share, one_of
from rewards.attack import Attack
from rewards.catalog import COMBINERS, SHAPERS, SOURCES
from rewards.errors import nearest
from rewards.noise import NOISES
from rewards.panel import OnFailure


class AskedKnobs(PlugKnobs):
    """What everyone who judges has beside its own keys."""

    timeout_s: Positive = 60.0
    """Seconds one question about a group may take."""
    retries: Annotated[int, Ge(0)] = 0
    """How often rollouts without a score are asked about again."""


class SeatKnobs(AskedKnobs):
    """What every reward source has beside its own keys."""

    weight: float = 1.0
    """Its factor in the reward; 0 watches without rewarding."""
    on_failure: OnFailure = "mask"
    """What then: mask the rollout, drop_group, substitute a value, or abort the run."""
    substitute: float = 0.0
    """The value that stands in, with on_failure: substitute."""


class GoldKnobs(AskedKnobs):
    """What the gold source has beside its own keys."""

    share: Annotated[float, Gt(0), Le(1)] = 0.1
    """The share of every step's rollouts that it is asked about; in an evaluation it is asked about all."""


class OwnKnobs(Knobs):
    """A reward source of your own by import path: a function (in TRL's or verl's signature) or a source class."""

    kind: Annotated[str, Field(json_schema_extra={"pattern": ":"})]
    """package.module:name."""
    params: dict[str, Any] = Field(default_factory=dict)
    """The fields of a source class; of a function: `conversational`, `limit_s`, `gold` and `foil`."""


class PathSeat(OwnKnobs, SeatKnobs):
    """A reward source of your own by import path: a function (in TRL's or verl's signature) or a source class."""


class PathGold(OwnKnobs, GoldKnobs):
    """A gold source of your own by import path."""


def _seat_tag(value: Any) -> str | None:
    kind = value.get("kind") if isinstance(value, Mapping) else getattr(value, "kind", None)
    return OWN if isinstance(kind, str) and ":" in kind else None if kind is None else str(kind)


def _seats(base: type[PlugKnobs], own: type[OwnKnobs]) -> Any:
    named = [Annotated[knobs_from(cls, base, kind), Tag(kind)] for kind, cls in SOURCES.items()]
    return Annotated[functools.reduce(operator.or_, [*named, Annotated[own, Tag(OWN)]]), Discriminator(_seat_tag)]


if TYPE_CHECKING:
    SeatEntry = GoldEntry = Combine = Shape = AttackKnobs = NoiseKnobs = Any
else:
    SeatEntry, GoldEntry = _seats(SeatKnobs, PathSeat), _seats(GoldKnobs, PathGold)
    AttackKnobs, NoiseKnobs = knobs_from(Attack), one_of(NOISES)
    Combine = one_of(COMBINERS)
    Shape = one_of(SHAPERS)


class Rewards(Pool):
    """Who judges."""

    sources: Annotated[dict[str, SeatEntry], Field(min_length=1)]
    """The reward sources by name."""
    noise: NoiseKnobs | None = None
    """Errors put into the scores of stages that learn, on purpose; the clean scores are kept beside them."""
    combine: Combine = Field({"kind": "weighted"}, validate_default=True)
    """How their values become one reward; default: their weighted sum."""
    shape: tuple[Shape, ...] = ()
    """What is done to the reward, or to step rewards, one after the other; evaluations go by the reward before it."""
    attack: AttackKnobs | None = None
    """Answers that say nothing, put before the sources of stages that learn; one that they fool is refused."""
    gold: GoldEntry | None = None
    """What the reward stands for: judged on a slice of the rollouts beside the KL, and never learned from."""
    failure_budget: Share = 0.5
    """The run ends when more than this share of the last `failure_window` rollouts could not be judged."""
    failure_window: Count = 512
    """Rollouts over which the failed share is taken."""

    @model_validator(mode="after")
    def _compared(self) -> Rewards:
        """The reward must not be the gold source's own."""
        rewarding = [(name, seat) for name, seat in self.sources.items() if seat.weight]
        if self.gold is not None and len(rewarding) == 1 and self.noise is None:
            name, seat = rewarding[0]
            apart = {*AskedKnobs.model_fields, *SeatKnobs.model_fields, *GoldKnobs.model_fields}
            if seat.model_dump(exclude=apart) == self.gold.model_dump(exclude=apart):
                said = f"equal to the source {name!r}, which alone is the reward: there is nothing to compare"
                raise ValueError(f"gold: {said}; expected another source, or noise on that one")
        return self

    @model_validator(mode="after")
    def _disturbed(self) -> Rewards:
        for name in self.noise.sources if self.noise else ():
            if name not in self.sources:
                raise ValueError(f"noise.sources: no source {name!r}; {nearest(name, self.sources)}")
        return self

    @model_validator(mode="after")
    def _combined(self) -> Rewards:
        try:
            self.combine.build().check({name: seat.weight for name, seat in self.sources.items()})
        except ValueError as error:
            raise ValueError(f"combine.{error}") from None
        return self
