"""SFT: maximum likelihood of demonstrations, on the assistant's tokens only, averaged over all tokens of the update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.algorithms.losses import NegativeLogLikelihood
from workers.ports import LossFn
from workers.types import Credit, Needs, Sample, Signals


@dataclass(frozen=True, slots=True)
class Sft:
    """Supervised fine-tuning."""

    updates_per_step: int = 1

    @property
    def needs(self) -> Needs:
        return Needs()

    @property
    def losses(self) -> Sequence[LossFn]:
        return (NegativeLogLikelihood(),)

    def credit(self, samples: Sequence[Sample], signals: Sequence[Signals]) -> tuple[list[Credit], dict[str, float]]:
        """Every own token counts the same."""
        credits_ = [
            Credit(sample, signal, np.zeros(own, np.float32), np.ones(own, np.float32), float(own))
            for sample, signal in zip(samples, signals, strict=True)
            if (own := int(sample.mask.sum()))
        ]
        return credits_, {}
