"""What travels between the head and the hands: requests, samples, micro-batches, reports.

    Request -> (rollout worker) -> Group -> (judges) -> ScoredGroup -> Sample -> Credit -> MicroBatch -> StepReport

Axes: P prompt tokens, C completion tokens, L tokens of one sample, N the policy's own tokens of a micro-batch,
S sequences of a micro-batch, T tokens of a micro-batch.
Arrays are numpy and read-only above the learner (zero-copy through Ray's object store) and torch inside it.
Log-probs travel in float32; the log-prob at own token t is that of ids[t] given ids[:t].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rewards.types import ScoredGroup, Task


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to draw a completion. `temperature` 0 takes the likeliest token.

    seed               the run's named stream; each sample draws from (seed, group, index) alone
    max_prompt_tokens  what a longer prompt comes to is `long_prompts`: "drop" (its rollouts are failures, nothing is
                       generated) or "refuse" (the run ends)
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()
    seed: int = 0
    max_prompt_tokens: int | None = None
    long_prompts: str = "drop"


@dataclass(frozen=True, slots=True)
class Request:
    """Ask for `n` rollouts of one task; the answer is the Group with this id."""

    group_id: int
    task: Task
    n: int
    sampling: Sampling


@dataclass(frozen=True, slots=True)
class Prompt:
    """A request as an engine sees it: token ids in. `prompt_ids` i32[P]."""

    id: int
    prompt_ids: np.ndarray
    n: int
    sampling: Sampling


@dataclass(frozen=True, slots=True)
class Completion:
    """One of an engine's n answers to a prompt.

    ids       i32[C]
    logprobs  f32[C], at the sampling temperature
    stop      "stop" (stop token or string) or "length"
    versions  (first token, version) of each span that the same weights wrote, in order
    """

    ids: np.ndarray
    logprobs: np.ndarray
    stop: str
    versions: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Judged:
    """Groups with their verdicts, and the seconds that the judge worker spent on them."""

    groups: tuple[ScoredGroup, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Sample:
    """One sequence to learn from.

    ids, mask     i32[L], bool[L]: the sequence, and which tokens are the policy's own
    logp_rollout  f32[L], zero where the token is not the policy's own
    reward        None where nothing judged it (demonstrations)
    """

    group: int
    index: int
    ids: np.ndarray
    mask: np.ndarray
    logp_rollout: np.ndarray
    reward: float | None = None
    steps: np.ndarray | None = None
    version: int = 0


@dataclass(frozen=True, slots=True)
class Needs:
    """What an algorithm asks the learner to compute before credit is given."""

    logp_old: bool = False
    logp_ref: bool = False

    def __bool__(self) -> bool:
        return self.logp_old or self.logp_ref


@dataclass(frozen=True, slots=True)
class Signals:
    """The learner's answer for one sample, f32[own tokens of the sample] each; only what `Needs` asked for."""

    logp_old: np.ndarray | None = None
    logp_ref: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Credit:
    """What the learner is to do with one sample.

    advantage  f32[own]: what multiplies each own token's log-prob gradient
    weight     f32[own]: each own token's weight in the loss's sum
    mass       what this sample adds to the sum's common denominator
    """

    sample: Sample
    signals: Signals
    advantage: np.ndarray
    weight: np.ndarray
    mass: float


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Whole sequences laid end to end; attention never crosses from one to the next.

    ids, position  i64[T]: tokens, and their places in their own sequences
    lengths        i64[S], summing to T
    own            i64[N]: where in T the policy's own tokens stand (never the first of a sequence)
    owner          i64[N]: the sequence each own token belongs to
    logp_*, advantage, weight  f32[N]; logp_old is the rollout's where the algorithm did not ask for the learner's,
        and logp_rollout is None where nothing was rolled out (demonstrations)
    """

    ids: Any
    position: Any
    lengths: Any
    own: Any
    owner: Any
    logp_rollout: Any
    logp_old: Any
    logp_ref: Any | None
    advantage: Any
    weight: Any


@dataclass(frozen=True, slots=True)
class Update:
    """One optimizer update: `shards[rank]` micro-batches, whose summed loss is divided by `denominator`."""

    shards: tuple[tuple[MicroBatch, ...], ...]
    denominator: float


@dataclass(frozen=True, slots=True)
class Plan:
    """The optimizer updates of one step, in order."""

    updates: tuple[Update, ...]


@dataclass(frozen=True, slots=True)
class StepReport:
    """What an update did: the weights' new version, metrics averaged over the step, and the learner's own seconds."""

    version: int
    metrics: Mapping[str, float]
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Optimization:
    """How a stage moves the weights. `updates` is the number of optimizer updates the schedule spans.

    schedule     "constant", or "linear" or "cosine" decay to zero over the last `decay_share` of the updates
    temperature  the sampling temperature, at which all log-probs are taken
    """

    updates: int
    lr: float = 1e-6
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    warmup: int = 0
    schedule: str = "constant"
    decay_share: float = 1.0
    clip_grad_norm: float = 1.0
    temperature: float = 1.0


@dataclass(frozen=True, slots=True)
class Mean:
    """A metric with its own arithmetic: a sum and a count that add up over micro-batches and ranks."""

    total: float
    count: float

    def __add__(self, other: Mean) -> Mean:
        return Mean(self.total + other.total, self.count + other.count)

    @property
    def value(self) -> float:
        return self.total / self.count if self.count else 0.0


@dataclass(frozen=True, slots=True)
class Probe:
    """What the learner makes of a few tokens: `ids` i32[K], and f32[K - 1] the log-probs of all but the first."""

    ids: np.ndarray
    logprobs: np.ndarray


@dataclass(frozen=True, slots=True)
class Published:
    """Weights as they stand in shared memory, and how whoever takes them over can prove that it did.

    arrays    by name, each parameter (bfloat16 as its uint16 bits)
    checksum  the sum of all their bits, see `workers.weights.proof`
    """

    version: int
    arrays: Mapping[str, np.ndarray]
    checksum: int
    probe: Probe


def add_means(parts: Sequence[Mapping[str, Mean]]) -> dict[str, Mean]:
    """Sum metrics by name."""
    out: dict[str, Mean] = {}
    for part in parts:
        for name, mean in part.items():
            out[name] = out[name] + mean if name in out else mean
    return out
