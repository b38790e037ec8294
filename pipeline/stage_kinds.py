"""What each kind of stage may say in a config."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge
from pydantic import model_validator

from pipeline.algorithms import PREFERENCE, REWARD_MODELS
from pipeline.knobs import Knobs
from pipeline.reward_sections import Rewards
from pipeline.sections import AlgorithmKnobs, Count, Data, Optimizer, Positive, Sampling, one_of

if TYPE_CHECKING:
    PreferenceKnobs = RewardModelKnobs = Any
else:
    PreferenceKnobs = one_of(PREFERENCE)
    RewardModelKnobs = one_of(REWARD_MODELS)


class TrainStage(Knobs):
    """What stages that learn have in common."""

    start: str | None = None
    """The earlier stage whose policy this one starts from; default: the policy as it stands."""
    data: Data
    """The stage's tasks."""
    learner: Optimizer
    """How this stage moves the weights."""
    steps: Count
    """Steps of the stage."""
    groups_per_step: Count
    """Tasks per step."""


class SftStage(TrainStage):
    """Supervised fine-tuning on the tasks' demonstrations."""

    kind: Literal["sft"]
    """What the stage does."""


class StopAtPeak(Knobs):
    """When a stage ends because gold has fallen from its highest; the policy of its best window is kept."""

    window: Count = 10
    """Steps whose gold scores make one mean with its interval."""
    patience: Count = 3
    """Windows in a row, all of whose interval lies below the best one's, after which the stage ends."""


class RlStage(TrainStage):
    """Reinforcement learning against the rewards."""

    kind: Literal["rl"]
    """What the stage does."""
    algorithm: AlgorithmKnobs
    """How rewards become gradients."""
    rewards: Rewards
    """Who judges."""
    rollout: Sampling
    """How completions are drawn."""
    max_staleness: Annotated[int, Ge(0)] = 0
    """Steps by which a rollout's weights may be older than the learner's; 0: synchronous."""
    resample: Annotated[int, Ge(0)] = 0
    """How often a group whose rewards are all equal gives its place to another task's (DAPO's dynamic sampling)."""
    gap_warning: Positive = 0.05
    """Warn once when learner's and rollout's log-probs are further apart than this, nats, mean over a step's tokens."""
    gap_limit: Positive | None = None
    """End the run when they are further apart than this."""
    stop_at_peak: StopAtPeak | None = None
    """End the stage where gold falls, with the policy that was best; needs rewards.gold."""

    @model_validator(mode="after")
    def _watched(self) -> RlStage:
        if self.stop_at_peak is not None and self.rewards.gold is None:
            raise ValueError("stop_at_peak: there is no gold score to follow, expected rewards.gold")
        if self.stop_at_peak is not None and self.stop_at_peak.window > self.steps:
            raise ValueError(f"stop_at_peak.window: {self.stop_at_peak.window}, expected at most steps: {self.steps}")
        return self

    @model_validator(mode="after")
    def _by_source(self) -> RlStage:
        """Two algorithms take each source's scores for themselves."""
        kind = self.algorithm.kind
        if kind in ("gdpo", "pairwise"):
            if self.rewards.combine.kind != "weighted":
                found = f"rewards.combine: {self.rewards.combine.kind} with algorithm {kind}"
                raise ValueError(f"{found}, which takes the sources' scores by themselves; expected weighted")
            if self.rewards.shape:
                raise ValueError(f"rewards.shape: with algorithm {kind}, which takes the sources' scores by themselves")
        return self


class PreferenceStage(TrainStage):
    """Learning from pairs on file: which of two answers is better (or, with kto, from single answers, good or bad)."""

    kind: Literal["preference"]
    """What the stage does."""
    algorithm: PreferenceKnobs
    """How preferences become gradients."""

    @model_validator(mode="after")
    def _mismatched(self) -> PreferenceStage:
        if self.algorithm.kind == "kto" and self.groups_per_step < 2:
            raise ValueError("groups_per_step: 1, expected 2 or more: kto compares with other tasks' answers")
        return self


class RewardModelStage(TrainStage):
    """Learning a reward model from rated answers on file, or from rollouts; the policy that it starts from stays as it
    is.

    The model is saved to stages/NAME; its accuracy on held-out pairs, or answers cut into steps, is the stage's result.
    """

    kind: Literal["reward_model"]
    """What the stage does."""
    algorithm: RewardModelKnobs
    """What it learns from."""
    rewards: Rewards | None = None
    """Who judges the rollouts that labels are inferred from (process, with `infer`)."""
    rollout: Sampling = Sampling()
    """How those are drawn."""

    @model_validator(mode="after")
    def _judged(self) -> RewardModelStage:
        if self.infers and self.rewards is None:
            raise ValueError("rewards: none, expected some: algorithm.infer has rollouts judged")
        if self.infers and self.rollout.temperature == 0:
            raise ValueError("rollout.temperature: 0 makes all rollouts of algorithm.infer the same; expected above 0")
        if getattr(self.algorithm, "neutral", 0.0) and self.groups_per_step < 2:
            raise ValueError("groups_per_step: 1, expected 2 or more: algorithm.neutral takes the next task's answers")
        return self

    @property
    def infers(self) -> bool:
        """Whether its labels come from rollouts."""
        return getattr(self.algorithm, "infer", None) is not None


class EvaluateStage(Knobs):
    """Accuracy on the held-out tasks: the share of completions whose reward is at least `pass_at`."""

    kind: Literal["evaluate"]
    """What the stage does."""
    start: str | None = None
    """The earlier stage whose policy is evaluated; default: the policy as it stands."""
    data: Data
    """The stage's tasks."""
    rewards: Rewards
    """Who judges."""
    rollout: Sampling
    """How completions are drawn; temperature 0 unless the stage says otherwise."""
    samples: Count = 1
    """Completions per task."""
    limit: Count | None = None
    """At most this many held-out tasks."""
    pass_at: float = 0.5
    """The reward from which a completion counts as right."""


def judged_by(stage: object) -> Rewards | None:
    """Who judges the stage's rollouts; None where nothing is rolled out."""
    if isinstance(stage, RewardModelStage) and not stage.infers:
        return None
    return getattr(stage, "rewards", None)
