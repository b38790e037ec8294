"""One YAML is one run: what every key means, its default, and what it may be.

Defaults live here and in the plug-ins' dataclasses, nowhere else. A stage's `data`, `rollout`, `learner` and
`rewards` are the run's own with the stage's keys laid over them. Importing this imports neither torch nor Ray.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Le
from pydantic import Discriminator, Field, Tag, ValidationError, model_validator

from pipeline.algorithms import ALGORITHMS
from pipeline.knobs import Knobs, PlugKnobs, knobs_from, override, read_yaml, refusal
from pipeline.tasks import DATA
from rewards.catalog import SOURCES
from rewards.panel import OnFailure
from workers.models import ModelInit

Count = Annotated[int, Gt(0)]
Share = Annotated[float, Ge(0), Le(1)]
Positive = Annotated[float, Gt(0)]


def _one_of(table: Mapping[str, type]) -> Any:
    """The union of a table's plug-ins, told apart by `kind`."""
    models = [knobs_from(cls, kind=kind) for kind, cls in table.items()]
    union = functools.reduce(operator.or_, models)
    return union if len(models) == 1 else Annotated[union, Field(discriminator="kind")]


if TYPE_CHECKING:  # made from the plug-ins' dataclasses when this is imported; to a type checker they are anything
    ModelInitKnobs = AlgorithmKnobs = Data = Any
else:
    ModelInitKnobs = knobs_from(ModelInit)
    AlgorithmKnobs = _one_of(ALGORITHMS)
    Data = _one_of(DATA)


class Model(Knobs):
    """The policy to start from: a directory or hub name, or a model made from scratch. Exactly one of the two."""

    path: str | None = None
    """A Hugging Face directory or hub name."""
    init: ModelInitKnobs | None = None
    """Architecture and tokenizer of a model made from scratch, seeded."""

    @model_validator(mode="after")
    def _one(self) -> Model:
        if (self.path is None) == (self.init is None):
            raise ValueError("expected either `path` or `init`")
        return self


class Cluster(Knobs):
    """Where the actors live."""

    address: str | None = None
    """A running Ray cluster; without one, Ray is started here for the length of the run."""
    cpus: Count | None = None
    """CPUs that the Ray started here may use; default: all of the machine's."""
    timeout_s: Positive = 600.0
    """How long any answer from another process may take before the run ends with that process's name."""


class Sampling(Knobs):
    """How completions are drawn."""

    max_new_tokens: Count = 256
    """Tokens a completion may have."""
    temperature: Annotated[float, Ge(0)] = 1.0
    """0 takes the likeliest token."""
    top_p: Annotated[float, Gt(0), Le(1)] = 1.0
    """Draw from the smallest set of tokens that holds this share of the mass."""
    top_k: Annotated[int, Ge(0)] = 0
    """Draw from the k likeliest tokens; 0: from all."""
    stop: tuple[str, ...] = ()
    """Strings that end a completion; the end-of-sequence tokens always do."""


class Rollout(Sampling):
    """Rollout workers and how they sample."""

    engine: Literal["torch"] = "torch"
    """What generates."""
    workers: Count = 1
    """Rollout processes."""
    cpus: Positive = 1.0
    """CPUs of each; also its number of threads."""
    max_rows: Count = 256
    """Sequences that one worker generates at once."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of its weights."""


class Optimizer(Knobs):
    """How a stage moves the weights: AdamW."""

    lr: Positive = 1e-6
    """Peak learning rate."""
    betas: tuple[Share, Share] = (0.9, 0.95)
    """AdamW's moments."""
    weight_decay: Annotated[float, Ge(0)] = 0.0
    """On matrices only."""
    warmup: Annotated[int, Ge(0)] = 0
    """Updates of linear warm-up."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the rate falls to zero."""
    decay_share: Annotated[float, Gt(0), Le(1)] = 1.0
    """The last share of the updates over which it falls."""
    clip_grad_norm: Positive = 1.0
    """The largest gradient norm."""
    micro_batch_tokens: Count = 16384
    """Tokens computed at once; it changes memory and speed, never the gradient."""


class Learner(Optimizer):
    """The learner's process and how it learns."""

    engine: Literal["torch"] = "torch"
    """What computes gradients."""
    cpus: Positive = 1.0
    """CPUs of the learner; also its number of threads."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of the weights."""


class SeatKnobs(PlugKnobs):
    """What every reward source has beside its own keys."""

    weight: float = 1.0
    """Its factor in the reward; 0 watches without rewarding."""
    timeout_s: Positive = 60.0
    """Seconds one question about a group may take."""
    retries: Annotated[int, Ge(0)] = 0
    """How often rollouts without a score are asked about again."""
    on_failure: OnFailure = "mask"
    """What then: mask the rollout, drop_group, substitute a value, or abort the run."""
    substitute: float = 0.0
    """The value that stands in, with on_failure: substitute."""


class PathSeat(SeatKnobs):
    """A reward source of your own by import path: a function (in TRL's or verl's signature) or a source class."""

    kind: str
    """package.module:name."""
    params: dict[str, Any] = Field(default_factory=dict)
    """The fields of a source class; of a function: `conversational`, `limit_s`, `gold` and `foil`."""


def _seat_tag(value: Any) -> str:
    kind = value.get("kind") if isinstance(value, Mapping) else getattr(value, "kind", None)
    return "path" if isinstance(kind, str) and ":" in kind else str(kind)


def _seats() -> Any:
    named = [Annotated[knobs_from(cls, SeatKnobs, kind), Tag(kind)] for kind, cls in SOURCES.items()]
    return Annotated[
        functools.reduce(operator.or_, [*named, Annotated[PathSeat, Tag("path")]]), Discriminator(_seat_tag)
    ]


if TYPE_CHECKING:
    SeatEntry = Any
else:
    SeatEntry = _seats()


class Rewards(Knobs):
    """Who judges."""

    sources: Annotated[dict[str, SeatEntry], Field(min_length=1)]
    """The reward sources by name; the reward is the weighted sum of their values."""
    workers: Count = 1
    """Judge processes."""
    cpus: Positive = 1.0
    """CPUs of each."""
    failure_budget: Share = 0.5
    """The run ends when more than this share of the last `failure_window` rollouts could not be judged."""
    failure_window: Count = 512
    """Rollouts over which the failed share is taken."""


class Checkpoints(Knobs):
    """When the state of the run is kept."""

    every: Count = 20
    """Steps between checkpoints; every stage's end is one too."""
    keep: Count = 2
    """How many of the last ones stay."""


class Tracking(Knobs):
    """Where metrics go beside the run directory's own files."""

    mlflow: bool = True
    """Log to MLflow."""
    uri: str | None = None
    """Any MLflow tracking URI; default: an SQLite file beside the run directory."""
    experiment: str = "assay"
    """MLflow experiment."""
    samples_per_step: Annotated[int, Ge(0)] = 4
    """Rollouts of every step that are kept to be read."""


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


class RlStage(TrainStage):
    """Reinforcement learning against the rewards."""

    kind: Literal["rl"]
    algorithm: AlgorithmKnobs
    """How rewards become gradients."""
    rewards: Rewards
    """Who judges."""
    rollout: Sampling
    """How completions are drawn."""
    max_staleness: Annotated[int, Ge(0)] = 0
    """Steps by which a rollout's weights may be older than the learner's; 0: synchronous."""


class EvaluateStage(Knobs):
    """Accuracy on the held-out tasks: the share of completions whose reward is at least `pass_at`."""

    kind: Literal["evaluate"]
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


StageConfig = Annotated[SftStage | RlStage | EvaluateStage, Field(discriminator="kind")]


class Config(Knobs):
    """A run."""

    seed: int = 0
    """Every random draw of the run follows from it."""
    model: Model
    """The policy to start from."""
    data: Data | None = None
    """The tasks, for all stages that do not name their own."""
    cluster: Cluster = Cluster()
    """Where the actors live."""
    rollout: Rollout = Rollout()
    """Rollout workers and how they sample."""
    learner: Learner = Learner()
    """The learner's process and how it learns."""
    rewards: Rewards | None = None
    """Who judges, for all stages that do not name their own."""
    checkpoints: Checkpoints = Checkpoints()
    """When the state of the run is kept."""
    tracking: Tracking = Tracking()
    """Where metrics go beside the run directory's own files."""
    stages: Annotated[dict[str, StageConfig], Field(min_length=1)]
    """What is done, by name, in order."""

    @model_validator(mode="after")
    def _starts(self) -> Config:
        done: list[str] = []
        for name, stage in self.stages.items():
            if stage.start is not None and stage.start not in done:
                earlier = ", ".join(done) or "none"
                raise ValueError(
                    f"stages.{name}.start: no earlier stage {stage.start!r} makes a policy; "
                    f"stages before it that do: {earlier}"
                )
            if not isinstance(stage, EvaluateStage):
                done.append(name)
        return self

    @model_validator(mode="after")
    def _rewarded(self) -> Config:
        for name, stage in self.stages.items():
            rewards = getattr(stage, "rewards", None)
            if rewards and not any(seat.weight for seat in rewards.sources.values()):
                raise ValueError(f"stages.{name}.rewards: every source has weight 0; expected one with another")
        return self


# The keys of the run's own sections that a stage may lay its own over.
_SHARED = {"data": None, "rewards": None, "learner": Optimizer, "rollout": Sampling}


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read, override, resolve and check. Raises `Refused` with one line: file, key path, found, expected."""
    data = read_yaml(path)
    override(data, overrides)
    return parse_config(data, str(path))


def parse_config(data: dict[str, Any], where: str) -> Config:
    """The config of a mapping as read from YAML."""
    resolved = _resolve(data)
    try:
        return Config.model_validate(resolved)
    except ValidationError as error:
        raise refusal(error, resolved, where) from None


def _resolve(data: dict[str, Any]) -> dict[str, Any]:
    """Lay each stage's sections over the run's. What is malformed is left for the check to name."""
    stages = data.get("stages")
    if not isinstance(stages, dict):
        return data
    return {**data, "stages": {name: _resolve_stage(data, stage) for name, stage in stages.items()}}


def _resolve_stage(data: dict[str, Any], stage: Any) -> Any:
    wanted = {"sft": SftStage, "rl": RlStage, "evaluate": EvaluateStage}
    if not isinstance(stage, dict) or stage.get("kind") not in wanted:
        return stage
    out = dict(stage)
    for section, shared in _SHARED.items():
        own = stage.get(section, {})
        base = data.get(section)
        if section not in wanted[stage["kind"]].model_fields or not isinstance(own, dict):
            continue
        base = base if isinstance(base, dict) else {}
        if shared is not None:
            base = {key: value for key, value in base.items() if key in shared.model_fields}
        if section == "rollout" and stage["kind"] == "evaluate":
            base = {**base, "temperature": 0.0}
        if "kind" in own and own["kind"] != base.get("kind"):
            base = {}
        if base or own or shared is not None:
            out[section] = {**base, **own}
    return out
