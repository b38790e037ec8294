"""SimPO: simple preference optimization (arXiv 2405.14734), eq. 6, from pairs on file, without a reference.

    L = -log sigma( beta (m(y_w) - m(y_l)) - gamma )                     mean over pairs

m(y) is the mean of log pi over y's own tokens: what ranks answers when they are drawn is what is trained. `sft` adds
the better answer's negative log-likelihood, mean over its tokens, as CPO (arXiv 2401.08417) does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Ge, Gt

from pipeline.algorithms.losses import Metrics
from pipeline.algorithms.pairs import bundle, by_group, log_loss, pair_metrics, pairs, per_sequence
from workers.ports import LossFn
from workers.types import Credit, MicroBatch, Needs, Sample, Signals


@dataclass(frozen=True, slots=True)
class SimpoLoss:
    """See the page above; the credit's weights make each sequence's sum a mean."""

    beta: float
    gamma: float
    sft: float = 0.0

    def __call__(self, batch: MicroBatch, logp: Any, entropy: Any) -> tuple[Any, Metrics]:
        better, worse = pairs(batch)
        score = per_sequence(batch, logp * batch.weight)
        margin = score[better] - score[worse]
        loss = log_loss(self.beta * margin - self.gamma) - self.sft * score[better]
        return loss.sum(), pair_metrics(margin)


@dataclass(frozen=True, slots=True)
class Simpo:
    """Simple preference optimization.

    beta   scale of the mean log-probs
    gamma  by how much the better answer is to be ahead, after scaling
    sft    weight of the better answer's negative log-likelihood
    """

    beta: Annotated[float, Gt(0)] = 2.0
    gamma: Annotated[float, Ge(0)] = 1.0
    sft: Annotated[float, Ge(0)] = 0.0

    @property
    def needs(self) -> Needs:
        return Needs()

    @property
    def losses(self) -> Sequence[LossFn]:
        return (SimpoLoss(self.beta, self.gamma, self.sft),)

    @property
    def updates_per_step(self) -> int:
        return 1

    def credit(self, samples: Sequence[Sample], signals: Sequence[Signals]) -> tuple[list[Credit], dict[str, float]]:
        """Every group whose ratings differ is a bundle."""
        groups = by_group(samples, signals)
        return [credit for members in groups for credit in bundle(members, mean=True)], {}
