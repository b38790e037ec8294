"""How often a reward model is right about pairs, ratings or steps that it did not learn from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from pipeline.algorithms import Process, Ratings
from pipeline.feeds import OfflineFeed, answers
from pipeline.inferred import InferredFeed
from pipeline.lab.statistics import wilson
from pipeline.packing import for_inference
from rewards.types import Task
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


@dataclass(frozen=True)
class StepAccuracy:
    """The share of the `n` answers whose first wrong step, or that there is none, the model finds; its 95% Wilson
    interval; what it would be for always naming the most common one of these answers; and the share of all steps that
    are called what they are."""

    accuracy: float
    n: int
    interval: tuple[float, float]
    baseline: float
    steps: float

    def metrics(self) -> dict[str, float]:
        """What is logged of it."""
        return {
            "eval/accuracy": self.accuracy,
            "eval/accuracy_low": self.interval[0],
            "eval/accuracy_high": self.interval[1],
            "eval/n": float(self.n),
            "eval/baseline": self.baseline,
            "eval/steps_right": self.steps,
        }

    def results(self) -> dict[str, Any]:
        """What the run's summary says of it."""
        told = {"accuracy": self.accuracy, "n": self.n, "interval": list(self.interval)}
        return {**told, "baseline": self.baseline, "steps_right": self.steps}


@dataclass(frozen=True)
class RatingError:
    """Of `n` ratings that were not learned from: the mean squared error, and the share of their variance explained (0:
    as good as their mean)."""

    error: float
    n: int
    explained: float

    def metrics(self) -> dict[str, float]:
        """What is logged of it."""
        return {"eval/rating_error": self.error, "eval/ratings": float(self.n), "eval/explained": self.explained}

    def results(self) -> dict[str, Any]:
        """What the run's summary says of it."""
        return {"rating_error": self.error, "ratings": self.n, "explained": self.explained}


async def measured(
    algorithm: Any, tasks: Sequence[Task], feed: OfflineFeed | InferredFeed, learner: Learner, micro_batch_tokens: int
) -> list[PairAccuracy | StepAccuracy | RatingError]:
    """What there is to say of the model as it stands on tasks that it did not learn from; nothing where there are none.

    A model of steps is held to labels on file, where some tasks have them, also where it learned from inferred ones.
    """
    if isinstance(algorithm, Process):
        labelled = [task for task in tasks if task.answers and all(one.steps for one in task.answers)]
        if labelled:
            unseen = OfflineFeed(labelled.__getitem__, answers, feed.rollouts, 1, steps=True)
            samples = await unseen.samples(range(len(labelled)))
        elif isinstance(feed, InferredFeed):
            samples = [algorithm.binary(sample) for sample in await feed.unseen(tasks)]
        else:
            return []
        found = await numbers(samples, learner, algorithm.scalar, micro_batch_tokens)
        called = [algorithm.right(n[s.step_ends, 0]) for n, s in zip(found, samples, strict=True)]
        steps = first_errors(samples, called)
        return [steps] if steps else []
    unseen = OfflineFeed(tasks.__getitem__, answers, feed.rollouts, 1)
    samples = await unseen.samples(range(len(tasks)))
    if not samples:
        return []
    said = await numbers(samples, learner, algorithm.scalar, micro_batch_tokens)
    rewards = np.array([n.reshape(algorithm.scalar.peers, -1)[:, 0].mean() for n in said])  # of peers the mean
    pairs = judged(samples, rewards)
    ratings = [rating_error(samples, rewards)] if isinstance(algorithm, Ratings) else []
    return [*([pairs] if pairs else []), *ratings]


async def numbers(
    samples: Sequence[Sample], learner: Learner, scalar: Scalar, micro_batch_tokens: int
) -> list[np.ndarray]:
    """What the model as it stands says of each sample: f32[heads], or f32[own, heads] where it speaks at tokens."""
    bins, batches = for_inference(samples, micro_batch_tokens)
    answers, _ = await learner.infer(batches, Needs(critic=scalar))
    out: list[np.ndarray] = [np.zeros(0)] * len(samples)
    for members, answer in zip(bins, answers, strict=True):
        owned = [1 if scalar.at == "last" else int(samples[i].mask.sum()) for i in members]
        for i, found in zip(members, np.split(answer["value"], np.cumsum(owned)[:-1]), strict=True):
            out[i] = found[0] if scalar.at == "last" else found
    return out


def rating_error(samples: Sequence[Sample], rewards: np.ndarray) -> RatingError:
    """Of the first head's numbers f32[samples] beside the samples' ratings."""
    wanted = np.array([sample.reward for sample in samples], np.float64)
    error = float(np.square(rewards - wanted).mean())
    return RatingError(error, len(wanted), 1 - error / float(wanted.var()) if wanted.var() else 0.0)


def first_errors(samples: Sequence[Sample], called_right: Sequence[np.ndarray]) -> StepAccuracy | None:
    """Of what the model called right, bool[K] each, beside the samples' labels; None where there is no sample."""
    if not samples:
        return None
    labels = [np.asarray(sample.steps) > 0.5 for sample in samples]
    wanted, named = [_first_wrong(one) for one in labels], [_first_wrong(one) for one in called_right]
    right = sum(a == b for a, b in zip(wanted, named, strict=True))
    baseline = max(Counter(wanted).values()) / len(wanted)
    steps = float(np.mean(np.concatenate(labels) == np.concatenate(called_right)))
    return StepAccuracy(right / len(wanted), len(wanted), wilson(right, len(wanted)), baseline, steps)


def _first_wrong(right: np.ndarray) -> int:
    """Its place; -1 where every step is right."""
    return int(np.argmin(right)) if not right.all() else -1


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
