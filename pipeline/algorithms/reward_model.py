"""Reward models: a number for every answer, learned from which of two people liked better, or from their ratings.

Bradley-Terry (Ouyang et al., arXiv 2203.02155, eq. 1), over every ranked pair of a task's answers:

    L = -log sigma(r_w - r_l - m) + centring (r_w + r_l)^2               mean over pairs

m is 0, or with `margin` the difference of the ratings (Llama 2, arXiv 2307.09288, eq. 2). Only differences of r matter,
so `centring` (Eisenstein et al., arXiv 2312.09244, eq. 2) may hold it near 0. With `neutral` the next task's pair under
this task's prompt is to be a tie (Crome, Srivastava et al., arXiv 2506.16507: what answers that miss the question have
more of, length or format, is no reason): sum over the step's such pairs, of the same denominator,

    + neutral (-1/2) (log sigma(d) + log sigma(-d)),   d = r_1 - r_2

Crome's causal pairs, which differ in one criterion alone, are pairs as any: they stand in the data.
Ratings: L = (r - rating)^2, mean over answers (HelpSteer2, arXiv 2406.08673); with `attributes` one head for the
rating and one for each of them (ArmoRM, arXiv 2406.12845), mean over those that an answer has. The first head's number
is the reward.

r stands at the last token. The head has `depth` layers (BaseReward, arXiv 2509.16127, found two the best).
The policy that the stage starts from gives the trunk, and stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Le

from pipeline.algorithms.losses import Metrics
from pipeline.algorithms.pairs import bundle, by_group, log_loss, pair_metrics, pairs
from pipeline.tasks.convex import Convex
from workers.ports import LossFn
from workers.types import Credit, MicroBatch, Needs, Sample, Scalar, Signals

Depth = Annotated[int, Ge(1), Le(3)]


@dataclass(frozen=True, slots=True)
class BradleyTerryLoss:
    """See the page above; `values` f32[S, 1]. Answers whose label is not a number are to be ties."""

    margin: bool
    centring: float
    neutral: float = 0.0

    def __call__(self, batch: MicroBatch, values: Any) -> tuple[Any, Metrics]:
        assert batch.label is not None and batch.bundle is not None
        better, worse = pairs(batch)
        r = values[:, 0]
        ahead = r[better] - r[worse]
        wanted = batch.label[better] - batch.label[worse] if self.margin else 0.0
        loss = log_loss(ahead - wanted).sum() + self.centring * (r[better] + r[worse]).square().sum()
        if self.neutral:
            tied = batch.label.isnan()
            same = (batch.bundle[:, None] == batch.bundle[None, :]) & tied[:, None] & tied[None, :]
            one, other = same.triu(1).nonzero().unbind(1)
            apart = r[one] - r[other]
            loss = loss + self.neutral * 0.5 * (log_loss(apart) + log_loss(-apart)).sum()
        return loss, pair_metrics(ahead)


@dataclass(frozen=True, slots=True)
class RatingsLoss:
    """See the page above; `values` f32[S, heads], labels the same, not a number where an answer lacks the attribute."""

    def __call__(self, batch: MicroBatch, values: Any) -> tuple[Any, Metrics]:
        assert batch.label is not None
        known = ~batch.label.isnan()
        error = (values[known] - batch.label[known]).square()
        return error.sum(), {"learner/rating_error": (error.detach().sum(), error.numel())}


@dataclass(frozen=True, slots=True)
class BradleyTerry:
    """A reward model from pairs.

    depth     layers of the head
    margin    the better answer is to be ahead by the difference of the ratings, not by just anything
    centring  weight of what holds the rewards of a pair near 0 together
    neutral   weight of ties: another task's pair under this prompt is to be worth the same
    augment   worse answers are learned from misspelt, too (ConvexDA)
    """

    depth: Depth = 1
    margin: bool = False
    centring: Annotated[float, Ge(0)] = 0.0
    neutral: Annotated[float, Ge(0)] = 0.0
    augment: Convex | None = None

    @property
    def needs(self) -> Needs:
        return Needs()

    @property
    def losses(self) -> Sequence[LossFn]:
        return ()

    @property
    def scalar(self) -> Scalar:
        """The model to learn."""
        return Scalar(BradleyTerryLoss(self.margin, self.centring, self.neutral), at="last", depth=self.depth)

    @property
    def updates_per_step(self) -> int:
        return 1

    def credit(self, samples: Sequence[Sample], signals: Sequence[Signals]) -> tuple[list[Credit], dict[str, float]]:
        """Every group whose ratings differ is a bundle; so are answers to another prompt, of a number below 0."""
        found = [credit for members in by_group(samples, signals) for credit in bundle(members, mean=False)]
        if self.neutral and found:
            found += [_tied(*one) for one in zip(samples, signals, strict=True) if one[0].reward is None]
        return found, {}


def _tied(sample: Sample, signal: Signals) -> Credit:
    own = int(sample.mask.sum())
    zeros, ones = np.zeros(own, np.float32), np.ones(own, np.float32)
    return Credit(sample, signal, zeros, ones, 0.0, -1 - sample.group, np.nan)


@dataclass(frozen=True, slots=True)
class Ratings:
    """A reward model from absolute ratings.

    depth       layers of the head
    attributes  further ratings of an answer, by name, each with a head of its own
    """

    depth: Depth = 1
    attributes: tuple[str, ...] = ()

    @property
    def needs(self) -> Needs:
        return Needs()

    @property
    def losses(self) -> Sequence[LossFn]:
        return ()

    @property
    def scalar(self) -> Scalar:
        """The model to learn."""
        return Scalar(RatingsLoss(), at="last", heads=1 + len(self.attributes), depth=self.depth)

    @property
    def updates_per_step(self) -> int:
        return 1

    def credit(self, samples: Sequence[Sample], signals: Sequence[Signals]) -> tuple[list[Credit], dict[str, float]]:
        """Every answer on its own."""
        rated = [one for members in by_group(samples, signals) for one in members]
        return [self._credit(*one, number) for number, one in enumerate(rated)], {}

    def _credit(self, sample: Sample, signal: Signals, number: int) -> Credit:
        own = int(sample.mask.sum())
        found = [sample.scores[name].value if name in sample.scores else None for name in self.attributes]
        label = np.array([sample.reward, *found], np.float32)  # None becomes not a number
        mass = float(np.isfinite(label).sum())
        return Credit(sample, signal, np.zeros(own, np.float32), np.ones(own, np.float32), mass, number, label)
