"""Errors put into the scores on purpose, so that a run shows how much of them its algorithm bears.

    source's score --(retries, on_failure)--> clean --(noise)--> what the reward is made of; the clean one stays beside

Every draw follows from (run and stage, source, task, visit) and the rollout's place in its group, and from nothing
else: a resumed or differently batched run draws the same. What a draw is shared by is its `scope`:

    sample   every rollout has a draw of its own
    prompt   the rollouts of one visit to a prompt share one: a flip turns the whole group around, which keeps the size
             of its advantages and negates them (Lv et al., arXiv 2505.22653, flip question-wise)
    task     all visits to a prompt in the stage share one: an error that never averages out

Noise is a training stage's own; an evaluation is never disturbed. A score that is missing stays missing. Step rewards
are left as they are.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Ge, Gt, Le

from rewards.errors import Refused, RunFailed
from rewards.types import Failure, Group, Score

Rate = Annotated[float, Ge(0), Le(1)]
Scope = Literal["sample", "prompt", "task"]
Bounds = tuple[float, float] | None


def bounds_of(source: object) -> Bounds:
    """Between which a source says that its values lie (`bounds`); None where it does not say."""
    return getattr(source, "bounds", None)


@dataclass(frozen=True, slots=True)
class Place:
    """Where scores stand: whose they are, and of which group.

    seed       of the run and the stage
    source     the seat's name
    bounds     of the source's values, see `bounds_of`
    timeout_s  what the seat allows for an answer
    """

    seed: int
    source: str
    bounds: Bounds
    timeout_s: float
    group: Group


@dataclass(frozen=True)
class Noise(ABC):
    """What every kind of noise can be told.

    sources  the sources whose scores it changes; none named: all that reward
    """

    sources: tuple[str, ...] = ()

    bounded: ClassVar[bool] = False

    def apply(self, place: Place, scores: Sequence[Score]) -> list[Score]:
        """The group's scores with noise, in order; each keeps its value as it was in `clean`."""
        return [
            score if score.value is None else replace(self._one(place, score, score.value, draw), clean=score.value)
            for score, draw in zip(scores, self._draws(place).tolist(), strict=True)
        ]

    def _draws(self, place: Place) -> np.ndarray:
        """f64[G]: what is drawn for each rollout."""
        return np.zeros(len(place.group.rollouts))

    @abstractmethod
    def _one(self, place: Place, score: Score, value: float, draw: float) -> Score:
        """The score with noise; `value` is its value."""

    def disturbs(self, name: str, weight: float) -> bool:
        """Whether the scores of the source of that name and weight are changed."""
        return name in self.sources if self.sources else weight != 0

    def bounds(self, own: Bounds) -> Bounds:
        """Between which values this noise moves; None where it knows none. `own`: the source's."""
        return None

    def middle(self, own: Bounds) -> float | None:
        """Above which value a score counts as positive; None where this noise knows no such line."""
        found = self.bounds(own)
        return None if found is None else sum(found) / 2

    def check(self, name: str, own: Bounds) -> None:
        """Raises `Refused` where this noise means nothing for the source of that name."""
        if self.bounded and self.bounds(own) is None:
            raise Refused(
                f"rewards.noise: kind {type(self).__name__.lower()} needs values between two bounds, and source "
                f"{name!r} names none; give `low` and `high`, or kind: gaussian for values without bounds"
            )


@dataclass(frozen=True)
class Drawn(Noise):
    """Noise that is drawn.

    scope  what shares a draw: nothing (sample), one visit's rollouts (prompt), all visits to a prompt (task)
    """

    scope: Scope = "sample"

    def _drawn(self, place: Place, draw: Callable[[np.random.Generator, int], np.ndarray]) -> np.ndarray:
        """f64[G]: `draw(rng, n)`, each rollout its own or all the same."""
        words = [place.seed, zlib.crc32(place.source.encode()), zlib.crc32(place.group.task.id.encode())]
        visit = [] if self.scope == "task" else [place.group.id]
        rng, n = np.random.default_rng(np.random.SeedSequence([*words, *visit])), len(place.group.rollouts)
        return draw(rng, n) if self.scope == "sample" else np.repeat(draw(rng, 1), n)


@dataclass(frozen=True)
class Bounded(Drawn):
    """Noise on values between two bounds.

    low, high  the lowest and the highest value that a source gives; default: what the source says of itself
    """

    low: float | None = None
    high: float | None = None

    bounded: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Raises `ValueError` for bounds that are none."""
        if (self.low is None) != (self.high is None):
            raise ValueError("`low` and `high` go together, found one of them")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(f"low: {self.low:g} is not below high: {self.high:g}")

    def bounds(self, own: Bounds) -> Bounds:
        """(low, high) from the config, or else the source's own."""
        return own if self.low is None or self.high is None else (self.low, self.high)

    def _draws(self, place: Place) -> np.ndarray:
        return self._drawn(place, lambda rng, n: rng.random(n))


@dataclass(frozen=True)
class Flip(Bounded):
    """A score is turned around between the source's bounds: 1 becomes 0, 0.2 becomes 0.8.

    Give `rate`, or the two others: one of a verifier's two errors may be far more frequent.

    rate            share of all scores that are flipped
    false_positive  share of the scores in the lower half that are flipped: wrong answers that pass
    false_negative  share of the scores in the upper half that are flipped: right answers that do not
    """

    rate: Rate | None = None
    false_positive: Rate | None = None
    false_negative: Rate | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        apart = self.false_positive is not None or self.false_negative is not None
        if apart == (self.rate is not None):
            found = "both" if apart else "neither"
            raise ValueError(f"{found} of `rate` and `false_positive`/`false_negative` given, expected one")

    def _one(self, place: Place, score: Score, value: float, draw: float) -> Score:
        low, high = self.bounds(place.bounds) or (0.0, 1.0)
        if not low <= value <= high:
            raise RunFailed(
                f"rewards.noise: source {place.source!r} gave {value:g}, and a flip needs values within [{low:g}, "
                f"{high:g}]; set rewards.noise.low and high, or use kind: gaussian"
            )
        apart = self.false_negative if value > (low + high) / 2 else self.false_positive
        rate = apart if self.rate is None else self.rate
        return replace(score, value=low + high - value) if draw < (rate or 0.0) else score


@dataclass(frozen=True)
class Random(Bounded):
    """A control: every score is drawn, whatever the answer.

    share  how often the draw is the higher of the source's bounds; else it is the lower one
    """

    share: Rate = 0.5

    def _one(self, place: Place, score: Score, value: float, draw: float) -> Score:
        low, high = self.bounds(place.bounds) or (0.0, 1.0)
        return replace(score, value=high if draw < self.share else low)


@dataclass(frozen=True)
class Gaussian(Drawn):
    """A normal error is added.

    std  its standard deviation
    """

    std: Annotated[float, Gt(0)] = 0.1

    def _draws(self, place: Place) -> np.ndarray:
        return self.std * self._drawn(place, lambda rng, n: rng.standard_normal(n))

    def _one(self, place: Place, score: Score, value: float, draw: float) -> Score:
        return replace(score, value=value + draw)


@dataclass(frozen=True)
class Quantise(Noise):
    """Scores are rounded to a grid: a judge that knows a few marks only.

    step  the distance between two marks; 0 is one of them
    """

    step: Annotated[float, Gt(0)] = 0.5

    def _one(self, place: Place, score: Score, value: float, draw: float) -> Score:
        return replace(score, value=self.step * round(value / self.step))


@dataclass(frozen=True)
class Dropout(Drawn):
    """A score goes missing: the rollout has no reward and is not learned from. `failure_budget` counts it.

    rate  how often
    """

    rate: Rate = 0.1

    def _draws(self, place: Place) -> np.ndarray:
        return self._drawn(place, lambda rng, n: rng.random(n))

    def _one(self, place: Place, score: Score, value: float, draw: float) -> Score:
        gone = Failure(f"source:{place.source}", "dropped", "by rewards.noise")
        return replace(score, value=None, failure=gone) if draw < self.rate else score


@dataclass(frozen=True)
class Delay(Drawn):
    """A score comes late, by an exponential time; where that is beyond the source's `timeout_s`, never.

    seconds  the mean
    """

    seconds: Annotated[float, Gt(0)] = 1.0

    def _draws(self, place: Place) -> np.ndarray:
        return self.seconds * self._drawn(place, lambda rng, n: rng.standard_exponential(n))

    def _one(self, place: Place, score: Score, value: float, draw: float) -> Score:
        if draw < place.timeout_s:
            return replace(score, latency=score.latency + draw)
        late = Failure(f"source:{place.source}", "timeout", f"{draw:.1f} s late, by rewards.noise")
        return replace(score, value=None, failure=late, latency=score.latency + place.timeout_s)


NOISES: dict[str, type] = {
    "flip": Flip,
    "gaussian": Gaussian,
    "quantise": Quantise,
    "dropout": Dropout,
    "delay": Delay,
    "random": Random,
}
