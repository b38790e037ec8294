"""How often a reward model is right about pairs that it did not learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from pipeline.feeds import OfflineFeed
from pipeline.lab.statistics import wilson
from pipeline.packing import for_inference
from workers.ports import Learner
from workers.types import Needs, Sample, Scalar


@dataclass(frozen=True)
class PairAccuracy:
    """The share of the `n` pairs whose better answer has the higher reward (equal ones count as wrong), its 95% Wilson
    interval, and the mean difference of the two rewards."""

    accuracy: float
    n: int
    interval: tuple[float, float]
    margin: float

    def metrics(self) -> dict[str, float]:
        """What is logged of it."""
        return {
            "eval/accuracy": self.accuracy,
            "eval/accuracy_low": self.interval[0],
            "eval/accuracy_high": self.interval[1],
            "eval/n": float(self.n),
            "eval/margin": self.margin,
        }

    def results(self) -> dict[str, Any]:
        """What the run's summary says of it."""
        return {"accuracy": self.accuracy, "n": self.n, "interval": list(self.interval), "margin": self.margin}


async def pair_accuracy(
    feed: OfflineFeed, tasks: int, learner: Learner, scalar: Scalar, micro_batch_tokens: int
) -> PairAccuracy | None:
    """Of the model as it stands, on the feed's first `tasks` tasks; None where they hold no pair."""
    samples = await feed.samples(range(tasks))
    if not samples:
        return None
    bins, batches = for_inference(samples, micro_batch_tokens)
    answers, _ = await learner.infer(batches, Needs(critic=scalar))
    rewards = np.zeros(len(samples), np.float32)
    for members, answer in zip(bins, answers, strict=True):
        rewards[members] = answer["value"][:, 0]
    return judged(samples, rewards)


def judged(samples: Sequence[Sample], rewards: np.ndarray) -> PairAccuracy | None:
    """Every ranked pair of every group; `rewards` f32[samples]."""
    margins: list[float] = []
    for _, group in groupby(zip(samples, rewards.tolist(), strict=True), key=lambda one: one[0].group):
        members = list(group)
        margins += [r - other for a, r in members for b, other in members if (a.reward or 0.0) > (b.reward or 0.0)]
    if not margins:
        return None
    right = sum(margin > 0 for margin in margins)
    return PairAccuracy(right / len(margins), len(margins), wilson(right, len(margins)), float(np.mean(margins)))
