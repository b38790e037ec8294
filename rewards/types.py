"""What a rollout is, and what it is worth: the records that cross the judges' border.

    Task --(policy)--> Group of G Rollouts, each of one or more Turns
    Group --(sources)--> G Scores per source --(panel)--> G Verdicts = ScoredGroup

Axes: P prompt tokens, C completion tokens, G rollouts of one group, K reasoning steps.
Every record is frozen and every array read-only: a stage returns a new record, nothing is filled in later.
The small ones that exist once per rollout say how they are pickled (`__reduce__`): the default, field by field, would
cost a step of short rollouts more than judging them.
A `Score` or a `Verdict` without a number carries a `Failure` that says why; a failure is never 0.0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation; `role` is system, user, assistant or tool."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Rated:
    """An answer on file, and how good its raters found it. Without ratings the better of two has 1, the other 0.

    attributes  further ratings by name
    steps       labels of its steps: 1 for a right one, 0 for a wrong one; `ends`: where in `text` each of them ends
    """

    text: str
    rating: float
    attributes: Mapping[str, float] = field(default_factory=dict)
    steps: tuple[float, ...] = ()
    ends: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Task:
    """One thing to be asked.

    id             stable name of the row it came from, unique in its data set
    messages       the conversation so far; the policy writes the next message
    reference      the right answer, for judges that compare
    demonstration  a written-out answer to imitate (SFT)
    rubric         criteria, for judges that read them
    meta           the row's other columns, passed on to reward functions
    answers        rated answers to learn from by comparison, the best first (preferences, reward models)
    """

    id: str
    messages: tuple[Message, ...]
    reference: str | None = None
    demonstration: str | None = None
    rubric: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    answers: tuple[Rated, ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no number (or no rollout).

    border  where it was caught: "rollout", "source:NAME" or "judge"
    kind    "timeout", "error", "died", "abstained", "malformed", "long_prompt", or "dropped" (`rewards.noise`)
    detail  one line for a person
    """

    border: str
    kind: str
    detail: str

    def __str__(self) -> str:
        return f"{self.border} {self.kind}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Turn:
    """One generation: what the policy read, what it wrote, and how likely each token was to it.

    prompt_ids      i32[P]
    completion_ids  i32[C], the stop token included where one ended the turn
    logprobs        f32[C], of the sampled tokens under the untruncated policy at the sampling temperature
    text            the completion decoded, without special tokens and without the stop string
    stop            "stop" (stop token or string) or "length"
    versions        which weights wrote which tokens: (first token, version) of each span, in order
    offsets         i32[C], where in `text` each token ends; only where a judge of steps is at the table
    """

    prompt_ids: np.ndarray
    completion_ids: np.ndarray
    logprobs: np.ndarray
    text: str
    stop: str
    versions: tuple[tuple[int, int], ...]
    offsets: np.ndarray | None = None

    @property
    def version(self) -> int:
        """The oldest weights that wrote any of its tokens."""
        return min(version for _, version in self.versions)


@dataclass(frozen=True, slots=True)
class Rollout:
    """One attempt at a task: `index` is its place in the group, 0 to G - 1."""

    index: int
    turns: tuple[Turn, ...]
    failure: Failure | None = None

    @property
    def text(self) -> str:
        """What the policy answered in its last turn ("" where it never spoke)."""
        return self.turns[-1].text if self.turns else ""


@dataclass(frozen=True, slots=True)
class Group:
    """All attempts at one task that are compared with each other. `id` counts admissions within a stage."""

    id: int
    task: Task
    rollouts: tuple[Rollout, ...]

    @classmethod
    def written(cls, id: int, task: Task, texts: Sequence[str]) -> Group:
        """Answers on file as if a policy had written them, one rollout each; there are no tokens."""
        none = np.zeros(0, np.int32)
        turns = (Turn(none, none, np.zeros(0, np.float32), text, "stop", ((0, 0),)) for text in texts)
        return cls(id, task, tuple(Rollout(i, (turn,)) for i, turn in enumerate(turns)))


@dataclass(frozen=True, slots=True)
class Score:
    """One source's opinion of one rollout. Either `value` is a finite number or `failure` says why there is none.

    steps        f32[K], where the source judges steps: then they are what is rewarded, and `value` is for people
    ends         i32[K] with them: where in the rollout's `text` each step ends (see `rewards.steps`)
    explanation  the judge's reason, for a person to read
    parts        named components of the value; "over_J": how much this rollout was preferred to rollout J of its group
    cost         money, in the source's own currency
    latency      seconds
    weight       the source's factor in the reward; the panel sets it
    clean        the value before `rewards.noise` changed it; None where there is no noise
    tokens       that a model read and wrote for it
    """

    value: float | None = None
    steps: np.ndarray | None = None
    explanation: str = ""
    parts: Mapping[str, float] = field(default_factory=dict)
    cost: float = 0.0
    latency: float = 0.0
    failure: Failure | None = None
    weight: float = 1.0
    clean: float | None = None
    ends: np.ndarray | None = None
    tokens: int = 0

    def __reduce__(self) -> tuple[Any, ...]:
        judged = self.value, self.steps, self.explanation, self.parts
        told = self.cost, self.latency, self.failure, self.weight, self.clean
        return Score, (*judged, *told, self.ends, self.tokens)

    def __post_init__(self) -> None:
        if (self.value is None) == (self.failure is None):
            raise ValueError("a score has either a value or a failure")
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"a score must be finite, not {self.value}")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the panel makes of one rollout. No `reward`: `failure` says why, and no sample is learned from.

    reward    for the whole rollout; `total` is what it is worth with its steps
    scores    every source's score by the source's name
    steps     f32[K] step rewards, where a source gave them; `ends` i32[K], where in the text each step ends
    clean     what the reward would be without `rewards.noise`; None where there is no noise, or no such reward
    combined  the reward before it was shaped, where it was
    shaped    what each shaping step added to `total`, by its name
    gold      the gold source's score, where it was asked about the rollout; the reward knows nothing of it
    """

    reward: float | None
    scores: Mapping[str, Score]
    steps: np.ndarray | None = None
    failure: Failure | None = None
    clean: float | None = None
    ends: np.ndarray | None = None
    combined: float | None = None
    shaped: Mapping[str, float] = field(default_factory=dict)
    gold: Score | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        judged = self.reward, self.scores, self.steps, self.failure
        return Verdict, (*judged, self.clean, self.ends, self.combined, self.shaped, self.gold)

    def __post_init__(self) -> None:
        if (self.reward is None) == (self.failure is None):
            raise ValueError("a verdict has either a reward or a failure")

    @property
    def unshaped(self) -> float | None:
        """The reward as the sources' values were combined: what evaluations go by."""
        return self.reward if self.combined is None else self.combined

    @property
    def total(self) -> float | None:
        """The reward and all step rewards; None where there is no reward."""
        if self.reward is None or self.steps is None:
            return self.reward
        return self.reward + float(self.steps.sum(dtype=np.float64))


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """A group and its G verdicts, in the order of its rollouts."""

    group: Group
    verdicts: tuple[Verdict, ...]

    @property
    def worths(self) -> set[tuple[float, bytes]]:
        """The different rewards, step rewards with them, of its judged rollouts: fewer than two teach nothing."""
        judged = (verdict for verdict in self.verdicts if verdict.reward is not None)
        return {(v.reward or 0.0, b"" if v.steps is None else v.steps.tobytes()) for v in judged}
