"""DPO: direct preference optimization (arXiv 2305.18290), eq. 7, from pairs on file.

    z = beta (d(y_w) - d(y_l)),  d(y) = log pi(y) - log pi_ref(y), summed over y's own tokens
    L = -(1 - s) log sigma(z) - s log sigma(-z)                          mean over pairs

s is label smoothing, the share of labels thought wrong (conservative DPO, Mitchell 2023). `length_normalised` takes d
as the mean over y's tokens (Tulu 3, arXiv 2411.15124; beta is then 5, not 0.1).

Dynamic reward scaling (MM-RLHF, arXiv 2502.10391): beta grows with how much better y_w was rated,

    beta(m) = beta (1 + scale (1 - exp(-rate m))),  m = rating(y_w) - rating(y_l),

and learns from all ranked pairs of a group, not only its extremes. What differs: their published code overrides the
factor by others; this is the paper's. `sft` adds the better answer's negative log-likelihood, mean over its tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Ge, Gt, Lt

from pipeline.algorithms.losses import Metrics
from pipeline.algorithms.pairs import bundle, by_group, log_loss, pair_metrics, pairs, per_sequence
from workers.ports import LossFn
from workers.types import Credit, MicroBatch, Needs, Sample, Signals


@dataclass(frozen=True, slots=True)
class DpoLoss:
    """See the page above; the scores' weights come with the credit (sum or mean). Each pair counts once."""

    beta: float
    label_smoothing: float = 0.0
    scale: float = 0.0
    rate: float = 0.5
    sft: float = 0.0

    def __call__(self, batch: MicroBatch, logp: Any, entropy: Any) -> tuple[Any, Metrics]:
        better, worse = pairs(batch)
        score = per_sequence(batch, (logp - batch.logp_ref) * batch.weight)
        margin = score[better] - score[worse]
        rated = batch.label[better] - batch.label[worse]  # pyright: ignore[reportOptionalSubscript]
        z = self.beta * (1 + self.scale * (1 - (-self.rate * rated).exp())) * margin
        loss = (1 - self.label_smoothing) * log_loss(z) + self.label_smoothing * log_loss(-z)
        if self.sft:
            mean = per_sequence(batch, logp) / per_sequence(batch, logp.new_ones(len(logp)))
            loss = loss - self.sft * mean[better]
        return loss.sum(), pair_metrics(margin)


@dataclass(frozen=True, slots=True)
class Dpo:
    """Direct preference optimization.

    beta               how far the policy may go from the reference: higher is nearer
    label_smoothing    the share of the labels that is thought wrong
    length_normalised  compare the answers' mean log-ratios instead of their sums
    scale              dynamic reward scaling: beta grows by up to this share of it where ratings differ much; 0: off
    rate               how soon it does, per unit of rating
    sft                weight of the better answer's negative log-likelihood
    """

    beta: Annotated[float, Gt(0)] = 0.1
    label_smoothing: Annotated[float, Ge(0), Lt(0.5)] = 0.0
    length_normalised: bool = False
    scale: Annotated[float, Ge(0)] = 0.0
    rate: Annotated[float, Gt(0)] = 0.5
    sft: Annotated[float, Ge(0)] = 0.0

    @property
    def needs(self) -> Needs:
        return Needs(logp_ref=True)

    @property
    def losses(self) -> Sequence[LossFn]:
        return (DpoLoss(self.beta, self.label_smoothing, self.scale, self.rate, self.sft),)

    @property
    def updates_per_step(self) -> int:
        return 1

    def credit(self, samples: Sequence[Sample], signals: Sequence[Signals]) -> tuple[list[Credit], dict[str, float]]:
        """Every group whose ratings differ is a bundle."""
        groups = by_group(samples, signals)
        return [credit for members in groups for credit in bundle(members, self.length_normalised)], {}
