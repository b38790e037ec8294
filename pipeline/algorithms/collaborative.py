"""Two reward models that review each other's pairs, against labels that are wrong (Collaborative Reward Modeling, Zhang
et al., arXiv 2505.10597).

Every task's pairs belong to one of the two, by its prompt. The other one, which never learns from them and so can't
have learned their errors by heart, reviews them: of a step's tasks, `doubt` at most are left out, those whose better
answer the reviewer has furthest behind. Its margin is r_w - r_l, the mean over a task's ranked pairs; one that it has
ahead is never left out. What is left is learned by Bradley-Terry (`reward_model.py`). The reward is the mean of both.

A reviewer that knows nothing yet would confirm itself: over the first `warmup` steps nothing is left out, over as many
more `doubt` grows to what it is. What differs: the paper also orders all pairs from easy to hard, and its peers return
the pairs with the highest margins whether ahead or not.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Gt, Lt

from pipeline.algorithms.losses import Metrics
from pipeline.algorithms.pairs import Rated, bundle, by_group, log_loss, pair_metrics, pairs, rating
from pipeline.algorithms.reward_model import Depth
from workers.ports import LossFn
from workers.types import Credit, MicroBatch, Needs, Sample, Scalar, Signals

PEERS = 2


@dataclass(frozen=True, slots=True)
class CollaborativeLoss:
    """Bradley-Terry, each bundle by the model that its number says; `values` f32[S, 2]."""

    centring: float

    def __call__(self, batch: MicroBatch, values: Any) -> tuple[Any, Metrics]:
        assert batch.bundle is not None
        better, worse = pairs(batch)
        r = values.gather(1, (batch.bundle % PEERS)[:, None])[:, 0]
        ahead = r[better] - r[worse]
        loss = log_loss(ahead).sum() + self.centring * (r[better] + r[worse]).square().sum()
        return loss, pair_metrics(ahead)


@dataclass(frozen=True, slots=True)
class Collaborative:
    """Two reward models from pairs, some of which are labelled wrong.

    doubt     the share of a step's tasks that reviewers may leave out: about that of wrong labels
    warmup    steps without doubt; it grows over as many more
    depth     layers of the heads
    centring  weight of what holds the rewards of a pair near 0 together
    """

    doubt: Annotated[float, Gt(0), Lt(1)] = 0.4
    warmup: Annotated[int, Ge(0)] = 0
    depth: Depth = 1
    centring: Annotated[float, Ge(0)] = 0.0

    @property
    def needs(self) -> Needs:
        return Needs(critic=self.scalar)

    @property
    def losses(self) -> Sequence[LossFn]:
        return ()

    @property
    def scalar(self) -> Scalar:
        """The models to learn."""
        return Scalar(CollaborativeLoss(self.centring), at="last", depth=self.depth, peers=PEERS)

    @property
    def updates_per_step(self) -> int:
        return 1

    def credit(self, samples: Sequence[Sample], signals: Sequence[Signals]) -> tuple[list[Credit], dict[str, float]]:
        """Every group that is kept is a bundle, whose number says by its remainder whose it is."""
        groups = [(members, bundle(members, mean=False)) for members in by_group(samples, signals)]
        groups = [one for one in groups if one[1]]
        margins = np.array([_margin(members) for members, _ in groups])
        left_out = np.argsort(margins, kind="stable")[: int(self.doubt * len(groups))]
        left_out = set(left_out[margins[left_out] < 0].tolist())
        kept = [one for place, one in enumerate(groups) if place not in left_out]
        found = [_dealt(credit) for _, made in kept for credit in made]
        return found, {"learner/pairs_left_out": len(left_out) / len(groups)} if groups else {}


class Paced:
    """`Collaborative` whose doubt grows with the stage's steps.

    memory  holds how many there were; a stage's checkpoints keep it (`State.memory`)
    """

    def __init__(self, algorithm: Collaborative, memory: dict[str, float]):
        self._at_last, self.memory = algorithm, memory
        self.memory.setdefault("collaborative/step", 0.0)
        self.needs, self.losses, self.scalar = algorithm.needs, algorithm.losses, algorithm.scalar
        self.updates_per_step = algorithm.updates_per_step

    def credit(self, samples: Sequence[Sample], signals: Sequence[Signals]) -> tuple[list[Credit], dict[str, float]]:
        """Credit with the doubt of this step, which is then counted."""
        step, warmup = self.memory["collaborative/step"], self._at_last.warmup
        grown = min(max(step / warmup - 1, 0.0), 1.0) if warmup else 1.0
        self.memory["collaborative/step"] += 1
        return replace(self._at_last, doubt=grown * self._at_last.doubt).credit(samples, signals)


def _dealt(credit: Credit) -> Credit:
    return replace(credit, bundle=PEERS * credit.sample.group + owner(credit.sample), signals=Signals())


def owner(sample: Sample) -> int:
    """Which of the two learns from the answers to this prompt, in every epoch."""
    return zlib.crc32(sample.ids[~sample.mask].astype(np.int64).tobytes()) % PEERS


def _margin(members: Sequence[Rated]) -> float:
    """By how much the reviewer has a group's better answers ahead."""
    said = []
    for sample, signal in members:
        assert signal.value is not None
        said.append((rating(sample), float(signal.value[1 - owner(sample)])))
    return float(np.mean([a - b for high, a in said for low, b in said if high > low]))
