"""IPO: identity preference optimization (arXiv 2310.12036), eq. 17, from pairs on file.

    L = (d(y_w) - d(y_l) - 1 / (2 beta))^2                               mean over pairs

d(y) is the mean of log pi - log pi_ref over y's own tokens. The paper writes sequences' log-ratios; with sums the
square would grow with the answers' length, and means are what its authors say they used (as TRL has it).
beta is the paper's tau: the margin that is aimed at is 1 / (2 beta), and no further is gained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Gt

from pipeline.algorithms.losses import Metrics
from pipeline.algorithms.pairs import bundle, by_group, pair_metrics, pairs, per_sequence
from workers.ports import LossFn
from workers.types import Credit, MicroBatch, Needs, Sample, Signals


@dataclass(frozen=True, slots=True)
class IpoLoss:
    """See the page above."""

    beta: float

    def __call__(self, batch: MicroBatch, logp: Any, entropy: Any) -> tuple[Any, Metrics]:
        better, worse = pairs(batch)
        score = per_sequence(batch, (logp - batch.logp_ref) * batch.weight)
        margin = score[better] - score[worse]
        return (margin - 1 / (2 * self.beta)).square().sum(), pair_metrics(margin)


@dataclass(frozen=True, slots=True)
class Ipo:
    """Identity preference optimization.

    beta  the better answer's mean log-ratio is to be 1 / (2 beta) above the other's
    """

    beta: Annotated[float, Gt(0)] = 0.1

    @property
    def needs(self) -> Needs:
        return Needs(logp_ref=True)

    @property
    def losses(self) -> Sequence[LossFn]:
        return (IpoLoss(self.beta),)

    @property
    def updates_per_step(self) -> int:
        return 1

    def credit(self, samples: Sequence[Sample], signals: Sequence[Signals]) -> tuple[list[Credit], dict[str, float]]:
        """Every group whose ratings differ is a bundle."""
        groups = by_group(samples, signals)
        return [credit for members in groups for credit in bundle(members, mean=True)], {}
