"""What travels between the head and the hands: requests, samples, micro-batches, reports.

    Request -> (rollout worker) -> Group -> (judges) -> ScoredGroup -> Sample -> Credit -> MicroBatch -> StepReport

Axes: P prompt tokens, C completion tokens, L tokens of one sample, N the policy's own tokens of a micro-batch,
S sequences of a micro-batch, T tokens of a micro-batch.
Arrays are numpy and read-only above the learner (zero-copy through Ray's object store) and torch inside it.
Log-probs travel in float32; the log-prob at own token t is that of ids[t] given ids[:t].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rewards.types import Score, ScoredGroup, Task


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to draw a completion. `temperature` 0 takes the likeliest token.

    seed               the run's named stream; each sample draws from (seed, group, index) alone
    greedy             the last of a prompt's completions takes the likeliest tokens, whatever the temperature
    max_prompt_tokens  what a longer prompt comes to is `long_prompts`: "drop" (its rollouts are failures, nothing is
                       generated) or "refuse" (the run ends)
    offsets            tell where in its text each token of a completion ends
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()
    seed: int = 0
    greedy: bool = False
    max_prompt_tokens: int | None = None
    long_prompts: str = "drop"
    offsets: bool = False

    def temperature_of(self, index: int, n: int) -> float:
        """The temperature of completion `index` of n."""
        return 0.0 if self.greedy and index == n - 1 else self.temperature


@dataclass(frozen=True, slots=True)
class Request:
    """Ask for `n` rollouts of one task; the answer is the Group with this id.

    begun  i32[B]: an answer's first tokens, which every rollout goes on from
    """

    group_id: int
    task: Task
    n: int
    sampling: Sampling
    begun: np.ndarray | None = None


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
    logp_rollout  f32[L], zero where the token is not the policy's own; None where nothing was rolled out
    reward        the judges', or the raters' of an answer on file; None where nothing judged it
    steps         f32[K] step rewards, where steps were judged
    step_ends     i32[K] with them: the own token that each step ends in, counted among own tokens
    scores        every source's score by the source's name, as in `Verdict`
    """

    group: int
    index: int
    ids: np.ndarray
    mask: np.ndarray
    logp_rollout: np.ndarray | None
    reward: float | None = None
    steps: np.ndarray | None = None
    version: int = 0
    scores: Mapping[str, Score] = field(default_factory=dict)
    step_ends: np.ndarray | None = None

    @property
    def total(self) -> float:
        """The reward for the whole, and all step rewards."""
        steps = 0.0 if self.steps is None else float(self.steps.sum(dtype=np.float64))
        return (self.reward or 0.0) + steps


@dataclass(frozen=True, slots=True)
class Needs:
    """What an algorithm asks the learner to compute before credit is given; `critic`: the values of this one.

    greedy  no question to the learner: the last rollout of each group is to take the likeliest tokens
    """

    logp_old: bool = False
    logp_ref: bool = False
    critic: Scalar | None = None
    greedy: bool = False

    def __bool__(self) -> bool:
        return self.logp_old or self.logp_ref or self.critic is not None


@dataclass(frozen=True, slots=True)
class Signals:
    """The learner's answer for one sample, f32[own tokens of the sample] each; only what `Needs` asked for. `value`
    of a model that speaks at a sequence's end is f32[its numbers]."""

    logp_old: np.ndarray | None = None
    logp_ref: np.ndarray | None = None
    value: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Credit:
    """What the learner is to do with one sample.

    advantage  f32[own]: what multiplies each own token's log-prob gradient
    weight     f32[own]: each own token's weight in the loss's sum
    mass       what this sample adds to the sum's common denominator
    bundle     samples with the same number are compared with each other, and never computed apart
    label      how good the sample is, for losses that compare; f32[heads] where a reward model has several
    target     f32[own]: what the critic's values are to become, or a step's label
    apart      learned from in an update of its own, after the step's others
    """

    sample: Sample
    signals: Signals
    advantage: np.ndarray
    weight: np.ndarray
    mass: float
    bundle: int | None = None
    label: float | np.ndarray | None = None
    target: np.ndarray | None = None
    apart: bool = False


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Whole sequences laid end to end; attention never crosses from one to the next.

    ids, position  i64[T]: tokens, and their places in their own sequences
    lengths        i64[S], summing to T
    own            i64[N]: where in T the policy's own tokens stand (never the first of a sequence)
    owner          i64[N]: the sequence each own token belongs to
    bundle, label  i64[S], f32[S] (or f32[S, heads]), where the algorithm compares: which sequences with each other,
        and how good each is
    logp_*, advantage, weight  f32[N]; logp_old is the rollout's where the algorithm did not ask for the learner's,
        and logp_rollout is None where nothing was rolled out (demonstrations)
    value_old, target  f32[N], where there is a critic: its values before the step, and what they are to become
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
    bundle: Any | None = None
    label: Any | None = None
    value_old: Any | None = None
    target: Any | None = None


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
class Scalar:
    """A scalar model in the learner: a critic beside the policy, or a reward model in a stage without policy losses.

    loss          of its numbers, a `workers.ports.ScalarLoss`
    lr            its own peak rate, by the stage's schedule; None: the stage's
    at            "own": in the state that each own token is drawn in, N of them; "read": in the one after it, N;
                  "last": at each sequence's end, S
    heads, depth  numbers per place; layers of the head
    shared        a head on the policy's own trunk, not a transformer of its own
    start         the directory of a scalar model to start from; None: the policy's trunk as it stands, a head of zeros
    warmup        updates at the start of the stage in which it learns alone
    seed          of the head's inner layers
    peers         models side by side that share nothing; the first one's numbers come first
    """

    loss: Any
    lr: float | None = None
    at: str = "own"
    heads: int = 1
    depth: int = 1
    shared: bool = False
    start: str | None = None
    warmup: int = 0
    seed: int = 0
    peers: int = 1


@dataclass(frozen=True, slots=True)
class Published:
    """Weights as they stand in shared memory.

    arrays  by name, each parameter (bfloat16 as its uint16 bits)
    probe   i32[K]: the tokens whose log-probs prove them
    """

    version: int
    arrays: Mapping[str, np.ndarray]
    probe: np.ndarray


@dataclass(frozen=True, slots=True)
class Proof:
    """What somebody makes of the weights that it holds, see `workers.weights.proof`: the sum of all their bits (None:
    in another number format, or not whole), f32[K - 1] log-probs of the probe, and how far rounding may move them."""

    checksum: int | None
    logprobs: np.ndarray
    tolerance: float
