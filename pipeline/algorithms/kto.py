"""KTO: Kahneman-Tversky optimization (arXiv 2402.01306), eqs. 7 and 8, from answers that are each good or bad.

    r(y) = log pi(y) - log pi_ref(y), summed over y's own tokens
    L    = good (1 - sigma(beta (r(y) - z))) for a good answer, bad (1 - sigma(beta (z - r(y)))) for a bad one
    z    = max(0, mean of r over answers to other prompts)               no gradient; mean over samples

An answer of a pair is good where it is the better one; one that stands alone is good where its rating is above 0.
z estimates the KL to the reference. It is taken from mismatched samples, as in the paper: each prompt of the step
with the next task's answers. They come with the step without a rating, and only z is learned from them.
What differs from TRL: z is the whole step's, theirs is each device's micro-batch's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Gt

from pipeline.algorithms.losses import Metrics
from pipeline.algorithms.pairs import Rated, by_group, per_sequence
from workers.ports import LossFn
from workers.types import Credit, MicroBatch, Needs, Sample, Signals


@dataclass(frozen=True, slots=True)
class KtoLoss:
    """See the page above. Labels are +1 and -1; the credit's advantage is z, at every own token."""

    beta: float
    good: float
    bad: float

    def __call__(self, batch: MicroBatch, logp: Any, entropy: Any) -> tuple[Any, Metrics]:
        assert batch.label is not None
        z = per_sequence(batch, batch.advantage * batch.weight)
        above = batch.label * (per_sequence(batch, logp - batch.logp_ref) - z)
        factor = (batch.label > 0) * self.good + (batch.label < 0) * self.bad
        loss = factor * (1 - (self.beta * above).sigmoid())
        return loss.sum(), {"learner/right_side": ((above > 0).sum(), len(above))}


@dataclass(frozen=True, slots=True)
class Kto:
    """Kahneman-Tversky optimization.

    beta  how far the policy may go from the reference: higher is nearer
    good  weight of good answers
    bad   weight of bad answers
    """

    beta: Annotated[float, Gt(0)] = 0.1
    good: Annotated[float, Ge(0)] = 1.0
    bad: Annotated[float, Ge(0)] = 1.0

    @property
    def needs(self) -> Needs:
        return Needs(logp_old=True, logp_ref=True)

    @property
    def losses(self) -> Sequence[LossFn]:
        return (KtoLoss(self.beta, self.good, self.bad),)

    @property
    def updates_per_step(self) -> int:
        return 1

    def credit(self, samples: Sequence[Sample], signals: Sequence[Signals]) -> tuple[list[Credit], dict[str, float]]:
        """Every rated sample on its own, against the z of the step's unrated ones."""
        others = [_log_ratio(signal) for s, signal in zip(samples, signals, strict=True) if s.reward is None]
        z = max(0.0, float(np.mean(others)))
        sided = [(one, side) for members in by_group(samples, signals) for one, side in _sides(members)]
        credits_ = [_credit(*one, side, z, number) for number, (one, side) in enumerate(sided)]
        return credits_, {"policy/kl_ref_others": z}


def _log_ratio(signal: Signals) -> float:
    assert signal.logp_old is not None and signal.logp_ref is not None
    return float((signal.logp_old.astype(np.float64) - signal.logp_ref).sum())


def _sides(members: Sequence[Rated]) -> list[tuple[Rated, float]]:
    """+1 for good answers and -1 for bad ones; those in the middle of their group are neither."""
    ratings = np.array([sample.reward for sample, _ in members])
    alone = np.where(ratings > 0, 1.0, -1.0)
    sides = np.sign(2 * ratings - ratings.max() - ratings.min()) if len(members) > 1 else alone
    return [(one, float(side)) for one, side in zip(members, sides, strict=True) if side]


def _credit(sample: Sample, signal: Signals, side: float, z: float, number: int) -> Credit:
    own = int(sample.mask.sum())
    level, weight = np.full(own, z, np.float32), np.full(own, 1 / own, np.float32)
    return Credit(sample, signal, level, weight, 1.0, number, side)
