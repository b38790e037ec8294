"""One YAML is one run: its stages in order, and the sections they share.

Defaults live here, in the sections and in the plug-ins' dataclasses, nowhere else. A stage's `data`, `rollout`,
`learner` and `rewards` are the run's own with the stage's keys laid over them. Importing this imports neither torch
nor Ray.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge
from pydantic import Field, ValidationError, model_validator

from pipeline.knobs import Knobs
from pipeline.refusals import refusal
from pipeline.reward_sections import Rewards, SeatKnobs
from pipeline.sections import Checkpoints, Cluster, Data, Learner, Model, Optimizer, Rollout, Sampling, Serve, Tracking
from pipeline.stage_kinds import EvaluateStage, PreferenceStage, RewardModelStage, RlStage, SftStage, TrainStage
from pipeline.yaml_files import override, read_yaml
from rewards.errors import Refused, nearest

__all__ = [
    "Config",
    "EvaluateStage",
    "Optimizer",
    "PreferenceStage",
    "RewardModelStage",
    "Rewards",
    "RlStage",
    "Rollout",
    "Sampling",
    "SeatKnobs",
    "SftStage",
    "TrainStage",
    "load_config",
    "load_rewards",
    "parse_config",
    "schema",
]


StageConfig = Annotated[
    SftStage | PreferenceStage | RewardModelStage | RlStage | EvaluateStage, Field(discriminator="kind")
]


class Config(Knobs):
    """A run."""

    seed: Annotated[int, Ge(0)] = 0
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
    serve: Serve = Serve()
    """How `assay serve` listens, and what it lets through."""
    stages: Annotated[dict[str, StageConfig], Field(min_length=1)]
    """What is done, by name, in order."""

    @model_validator(mode="after")
    def _named(self) -> Config:
        """Names become directories and parts of metric names."""
        sources = ((f"stages.{name}.rewards.sources", getattr(s, "rewards", None)) for name, s in self.stages.items())
        named = [("stages", list(self.stages)), *((where, list(r.sources)) for where, r in sources if r)]
        for where, names in named:
            for name in names:
                if not re.fullmatch(r"\w[\w-]*", name):
                    raise ValueError(f"{where}: name {name!r}, expected letters, digits, _ and - only")
        return self

    @model_validator(mode="after")
    def _starts(self) -> Config:
        done: list[str] = []
        for name, stage in self.stages.items():
            if stage.start is not None and stage.start not in done:
                hint = nearest(stage.start, done) if done else "no stage before it does"
                raise ValueError(f"stages.{name}.start: no earlier stage {stage.start!r} makes a policy; {hint}")
            if not isinstance(stage, EvaluateStage | RewardModelStage):
                done.append(name)
        return self

    @model_validator(mode="after")
    def _critics(self) -> Config:
        """A critic starts from a directory, or from an earlier stage's reward model."""
        made: list[str] = []
        for name, stage in self.stages.items():
            critic = getattr(getattr(stage, "algorithm", None), "critic", None)
            start = critic.start if critic else None
            if start in self.stages and start not in made:
                hint = nearest(start, made) if made else "expected a directory, or an earlier stage of that kind"
                where = f"stages.{name}.algorithm.critic.start"
                raise ValueError(f"{where}: stage {start!r} makes no reward model before it; {hint}")
            if isinstance(stage, RewardModelStage):
                made.append(name)
        return self

    @model_validator(mode="after")
    def _learned(self) -> Config:
        """A judge whose model is a stage's: that stage learns a reward model, and comes first."""
        made: list[str] = []
        for name, stage in self.stages.items():
            rewards = stage.rewards if isinstance(stage, RlStage | EvaluateStage) else None
            asked = {f"sources.{key}": seat for key, seat in rewards.sources.items()} if rewards else {}
            for source, seat in (asked | {"gold": rewards.gold} if rewards else asked).items():
                path = getattr(getattr(seat, "model", None), "path", None)
                if path in self.stages and path not in made:
                    hint = nearest(path, made) if made else "expected a directory, or an earlier stage of that kind"
                    where = f"stages.{name}.rewards.{source}.model.path"
                    raise ValueError(f"{where}: stage {path!r} makes no reward model before it; {hint}")
            if isinstance(stage, RewardModelStage):
                made.append(name)
        return self

    @model_validator(mode="after")
    def _sampled(self) -> Config:
        for name, stage in self.stages.items():
            if isinstance(stage, RlStage) and stage.rollout.temperature == 0:
                raise ValueError(f"stages.{name}.rollout.temperature: 0 draws nothing to learn from; expected above 0")
            truncated = isinstance(stage, RlStage) and (stage.rollout.top_p < 1 or stage.rollout.top_k > 0)
            if truncated and self.rollout.engine == "vllm":
                # vLLM can tell log-probs before the temperature or after truncation; the learner needs those between.
                raise ValueError(
                    f"stages.{name}.rollout: top_p and top_k would make vLLM's log-probs others than the learner's; "
                    "expected neither in a stage that learns (rollout.engine: torch can)"
                )
        return self

    @model_validator(mode="after")
    def _engine(self) -> Config:
        if self.rollout.engine_args and self.rollout.engine != "vllm":
            raise ValueError(f"rollout.engine_args: are vLLM's, and rollout.engine is {self.rollout.engine!r}")
        return self

    @model_validator(mode="after")
    def _learner(self) -> Config:
        learner = self.learner
        if wrong := learner.contradiction():
            raise ValueError(f"learner.{wrong}")
        if learner.engine == "torch":
            return self
        if self.cluster.placement == "shared" and learner.gpus and not learner.offload:
            raise ValueError(
                "learner.offload: false with cluster.placement: shared, where DeepSpeed's moments can't leave the GPU "
                "for the engines' turn; expected true, or learner.engine: torch"
            )
        for name, stage in self.stages.items():
            critic = getattr(getattr(stage, "algorithm", None), "critic", None)
            if critic and critic.trunk == "shared":
                raise ValueError(
                    f"stages.{name}.algorithm.critic.trunk: shared with learner.engine: deepspeed, which moves each "
                    "model by a loss of its own; expected separate, or learner.engine: torch"
                )
        return self

    @model_validator(mode="after")
    def _placed(self) -> Config:
        if self.rollout.engine == "torch" and self.rollout.gpus > 1:
            raise ValueError(f"rollout.gpus: {self.rollout.gpus}, expected 0 or 1: the torch engine runs on one device")
        sizes = [self.rollout.engine_args.get(f"{kind}_parallel_size", 1) for kind in ("tensor", "pipeline")]
        if self.rollout.gpus and self.rollout.engine == "vllm" and math.prod(sizes) != self.rollout.gpus:
            raise ValueError(
                f"rollout.gpus: {self.rollout.gpus}, expected {math.prod(sizes)}: tensor_parallel_size times "
                "pipeline_parallel_size of rollout.engine_args"
            )
        if self.cluster.placement == "split":
            return self
        if self.learner.gpus != self.rollout.gpus or self.rollout.gpus > 1:
            found = f"learner.gpus {self.learner.gpus} and rollout.gpus {self.rollout.gpus}"
            raise ValueError(f"cluster.placement: shared with {found}, expected both 0 or both 1; or split")
        for name, stage in self.stages.items():
            if isinstance(stage, RlStage) and stage.max_staleness:
                raise ValueError(
                    f"stages.{name}.max_staleness: {stage.max_staleness} with cluster.placement: shared, where learner "
                    "and engines take turns, expected 0; or split"
                )
        return self

    @model_validator(mode="after")
    def _rewarded(self) -> Config:
        for name, stage in self.stages.items():
            rewards = getattr(stage, "rewards", None)
            if rewards and not any(seat.weight for seat in rewards.sources.values()):
                where = "rewards" if rewards == self.rewards else f"stages.{name}.rewards"
                raise ValueError(f"{where}: every source has weight 0, expected one that rewards")
        return self


KINDS = {
    "sft": SftStage,
    "preference": PreferenceStage,
    "reward_model": RewardModelStage,
    "rl": RlStage,
    "evaluate": EvaluateStage,
}
# The keys of the run's own sections that a stage may lay its own over.
_SHARED = {"data": None, "rewards": None, "learner": Optimizer, "rollout": Sampling}
_INHERITED = dict.fromkeys(_SHARED, " (here, or at the top of the config for all stages)")


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
        raise refusal(error, resolved, where, _INHERITED) from None


def load_rewards(path: Path, overrides: Sequence[str] = ()) -> Rewards:
    """The rewards of a run's config, its own or else the first stage's that has some; or of a file of `rewards` alone.

    Raises `Refused` where there are none.
    """
    data = read_yaml(path)
    override(data, overrides)
    if "stages" not in data and "rewards" in data:
        try:
            return Rewards.model_validate(data["rewards"])
        except ValidationError as error:
            raise refusal(error, data["rewards"], f"{path}: rewards") from None
    config = parse_config(data, str(path))
    found = [config.rewards, *(getattr(stage, "rewards", None) for stage in config.stages.values())]
    rewards = next((one for one in found if one is not None), None)
    if rewards is None:
        raise Refused(f"{path}: no `rewards`, at the top or in a stage; expected sources to audit")
    return rewards


def schema() -> dict[str, Any]:
    """The JSON schema of what a YAML file may hold: a stage need not repeat the run's own sections."""
    out = Config.model_json_schema()
    for stage in KINDS.values():
        section = out["$defs"][stage.__name__]
        section["required"] = [key for key in section["required"] if key not in _SHARED]
    out["$defs"]["Rewards"]["required"].remove("sources")  # a stage may change what is done with the run's own sources
    return out


def _resolve(data: dict[str, Any]) -> dict[str, Any]:
    """Lay each stage's sections over the run's. What is malformed is left for the check to name."""
    stages = data.get("stages")
    if not isinstance(stages, dict):
        return data
    return {**data, "stages": {name: _resolve_stage(data, stage) for name, stage in stages.items()}}


def _resolve_stage(data: dict[str, Any], stage: Any) -> Any:
    if not isinstance(stage, dict) or stage.get("kind") not in KINDS:
        return stage
    out = dict(stage)
    for section, shared in _SHARED.items():
        own = stage.get(section, {})
        base = data.get(section)
        if section not in KINDS[stage["kind"]].model_fields or not isinstance(own, dict):
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
