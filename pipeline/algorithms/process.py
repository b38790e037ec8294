"""Process reward models: a number for every step of an answer (Lightman et al., arXiv 2305.20050).

    p_k = sigma(r_k),  r_k read at the token that holds the last character of step k
    L   = -y_k log p_k - (1 - y_k) log(1 - p_k), or (r_k - y_k)^2 with `loss: squared`          mean over all steps

The labels y_k stand on file, 1 for a right step, 0 for a wrong one or anything between. Or they are inferred: the
policy that the stage starts from writes answers, and from the end of every step of theirs goes on several times; what
becomes of that is the step's label (`step_labels.py`, `pipeline/inferred.py`). What differs from TRL's PRMTrainer: one
number per step, whose sigma is what its two classes' softmax is; no separator, for steps are told by their own text.

The policy that the stage starts from gives the trunk, and stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge

from pipeline.algorithms.losses import Metrics
from pipeline.algorithms.reward_model import Depth
from rewards.steps import Steps
from workers.ports import LossFn
from workers.types import Credit, MicroBatch, Needs, Sample, Scalar, Signals


@dataclass(frozen=True, slots=True)
class StepLoss:
    """See the page above; `values` f32[N, 1], of which those of weight 0 end no step."""

    squared: bool

    def __call__(self, batch: MicroBatch, values: Any) -> tuple[Any, Metrics]:
        assert batch.target is not None
        r, y = values[:, 0], batch.target
        if self.squared:
            each, right = (r - y).square(), (r > 0.5) == (y > 0.5)
        else:
            zero = r.new_zeros(())
            each, right = y * zero.logaddexp(-r) + (1 - y) * zero.logaddexp(r), (r > 0) == (y > 0.5)
        return (each * batch.weight).sum(), {"learner/steps_right": ((right * batch.weight).sum(), batch.weight.sum())}


@dataclass(frozen=True, slots=True)
class Infer:
    """How labels are inferred: what becomes of an answer that is gone on with from the end of each step.

    by        hard: 1 where one rollout came out right; soft: the share that did; value: how far the answer is on its
              way, 0 to 1, falling where no rollout came out right
    attempts  answers per task whose steps are labelled
    rollouts  how often each step is gone on from
    pass_at   the reward from which an answer is right
    steps     how an answer falls into steps
    """

    by: Literal["hard", "soft", "value"] = "hard"
    attempts: Annotated[int, Ge(1)] = 1
    rollouts: Annotated[int, Ge(1)] = 8
    pass_at: float = 0.5
    steps: Steps = field(default_factory=Steps)


@dataclass(frozen=True, slots=True)
class Process:
    """A reward model of steps.

    depth  layers of the head
    loss   cross_entropy reads sigma of its numbers, squared the numbers themselves
    infer  labels come from rollouts that the stage's rewards judge; without it, from the data
    """

    depth: Depth = 1
    loss: Literal["cross_entropy", "squared"] = "cross_entropy"
    infer: Infer | None = None

    @property
    def needs(self) -> Needs:
        return Needs()

    @property
    def losses(self) -> Sequence[LossFn]:
        return ()

    @property
    def scalar(self) -> Scalar:
        """The model to learn."""
        return Scalar(StepLoss(self.loss == "squared"), at="read", depth=self.depth)

    @property
    def updates_per_step(self) -> int:
        return 1

    def credit(self, samples: Sequence[Sample], signals: Sequence[Signals]) -> tuple[list[Credit], dict[str, float]]:
        """Every step counts the same."""
        return [_credit(*one) for one in zip(samples, signals, strict=True) if one[0].steps is not None], {}

    def right(self, numbers: np.ndarray) -> np.ndarray:
        """bool[K]: which steps the model's numbers f[K] call right: a probability above 1/2, a value that rises."""
        p = numbers if self.loss == "squared" else 1 / (1 + np.exp(-numbers))
        return self._right(p)

    def binary(self, sample: Sample) -> Sample:
        """The same with 1 for a right step and 0 for a wrong one in place of inferred labels."""
        assert sample.steps is not None
        return replace(sample, steps=self._right(sample.steps).astype(np.float32))

    def _right(self, labels: np.ndarray) -> np.ndarray:
        return rising(labels) if self.infer is not None and self.infer.by == "value" else labels > 0.5


def rising(values: np.ndarray) -> np.ndarray:
    """bool[K]: where each value is above the one before, the first above 0. f[K]"""
    return np.diff(values, prepend=0.0) > 0


def _credit(sample: Sample, signal: Signals) -> Credit:
    assert sample.steps is not None and sample.step_ends is not None, "steps come with their places"
    own = int(sample.mask.sum())
    weight, target = np.zeros(own, np.float32), np.zeros(own, np.float32)
    weight[sample.step_ends], target[sample.step_ends] = 1.0, sample.steps
    return Credit(sample, signal, np.zeros(own, np.float32), weight, float(weight.sum()), target=target)
