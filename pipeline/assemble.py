"""The one file that names concrete classes: from a config to tasks, panels, workers and stores."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from pipeline.config import Config, EvaluateStage, Optimizer, PathSeat, Rewards, RlStage, Sampling, SeatKnobs
from pipeline.knobs import knobs_from
from pipeline.refusals import refusal
from pipeline.streams import key
from pipeline.tasks import TaskSets
from rewards.catalog import resolve
from rewards.errors import Refused
from rewards.panel import Panel, Seat
from rewards.sources.function import Function
from workers import types
from workers.judging.pool import JudgePool
from workers.learner.team import LearnerTeam
from workers.models import ModelInit
from workers.ports import Engine
from workers.ray_actors import start_ray, stop_ray
from workers.rollout.pool import RolloutPool
from workers.weights.transport import ObjectStoreTransport

if TYPE_CHECKING:
    from workers.rollout.renderer import Renderer


def tasks_of(config: Config) -> dict[str, TaskSets]:
    """Every stage's tasks; equal data is loaded once."""
    loaded: dict[str, TaskSets] = {}
    out = {}
    for name, stage in config.stages.items():
        section = stage.data.model_dump_json()
        if section not in loaded:
            loaded[section] = stage.data.build().load(config.seed)
        out[name] = loaded[section]
    return out


def texts_of(tasks: Mapping[str, TaskSets]) -> list[str]:
    """What a tokenizer made from scratch has to be able to write: every prompt, demonstration and reference."""
    sets = {id(one): one for one in tasks.values()}.values()
    return [
        text
        for one in sets
        for task in (*one.train, *one.held_out)
        for text in (*(message.content for message in task.messages), task.demonstration, task.reference)
        if text
    ]


def panels(config: Config) -> list[Rewards]:
    """The different panels of the run's stages, in their order."""
    out: list[Rewards] = []
    for stage in config.stages.values():
        if isinstance(stage, RlStage | EvaluateStage) and stage.rewards not in out:
            out.append(stage.rewards)
    return out


def panel_of(rewards: Rewards) -> Panel:
    """The panel that the config describes. Raises `Refused` where an import path does not import."""
    return Panel(tuple(_seat(name, knobs) for name, knobs in rewards.sources.items()))


def _seat(name: str, knobs: SeatKnobs) -> Seat:
    common = {field: getattr(knobs, field) for field in SeatKnobs.model_fields}
    return Seat(name, _own_source(name, knobs) if isinstance(knobs, PathSeat) else knobs.build(), **common)


def _own_source(name: str, knobs: PathSeat) -> Any:
    where = f"rewards.sources.{name}"
    try:
        found = resolve(knobs.kind)
    except Refused as error:
        raise Refused(f"{where}.kind: {error}") from error
    cls, given = (found, knobs.params) if isinstance(found, type) else (Function, {**knobs.params, "path": knobs.kind})
    try:
        return knobs_from(cls).model_validate(given).build() if is_dataclass(cls) else cls(**given)
    except ValidationError as error:
        raise refusal(error, given, f"{where}.params") from None
    except TypeError as error:
        raise Refused(f"{where}.params: {knobs.kind} does not take them: {error}") from None


def sampling_of(config: Config, stage: str, rollout: Sampling) -> types.Sampling:
    """The stage's sampling, on the stage's own random stream."""
    knobs = {field: getattr(rollout, field) for field in Sampling.model_fields}
    return types.Sampling(**knobs, seed=key(config.seed, "rollout", stage))


def optimization_of(learner: Optimizer, updates: int, temperature: float) -> types.Optimization:
    """The stage's optimization over that many updates."""
    knobs = {field: getattr(learner, field) for field in Optimizer.model_fields if field != "micro_batch_tokens"}
    return types.Optimization(**knobs, updates=updates, temperature=temperature)


@dataclass
class Hands:
    """The workers of a run. Judges come and go with the stages' rewards."""

    config: Config
    learner: LearnerTeam
    rollouts: RolloutPool
    transport: ObjectStoreTransport
    judges: JudgePool | None = None
    judging: Rewards | None = None

    async def judges_for(self, rewards: Rewards) -> JudgePool:
        """Judge workers for these rewards; the ones at hand where the rewards are the same."""
        if self.judges is None or self.judging != rewards:
            if self.judges is not None:
                await self.judges.close()
            self.judges = JudgePool(panel_of(rewards), rewards.workers, rewards.cpus, self.config.cluster.timeout_s)
            self.judging = rewards
            await self.judges.start()
        return self.judges

    async def close(self) -> None:
        for part in (self.judges, self.rollouts, self.learner):
            if part is not None:
                await part.close()
        stop_ray()


async def hands(config: Config, run_dir: Path, texts: list[str]) -> Hands:
    """Start Ray, learner and rollout workers; the learner makes the model where the config wants one made."""
    # Logical CPUs: an actor must not wait for a core that it only takes turns with another.
    wanted = config.learner.cpus + config.rollout.workers * config.rollout.cpus
    wanted += max((rewards.workers * rewards.cpus for rewards in panels(config)), default=0.0)
    cpus = max(config.cluster.cpus or os.cpu_count() or 1, math.ceil(wanted))
    await asyncio.to_thread(start_ray, cpus, config.cluster.address)
    path, timeout = model_path(config, run_dir), config.cluster.timeout_s
    init = config.model.init.build() if config.model.init else None
    make_learner = partial(_torch_learner, path, init, texts if init else [], config.seed, config.learner.dtype)
    learner = LearnerTeam(make_learner, config.learner.cpus, timeout)
    rollouts = RolloutPool(config.rollout.workers, config.rollout.cpus, timeout)
    crew = Hands(config, learner, rollouts, ObjectStoreTransport(learner, rollouts))
    first = [crew.judges_for(rewards) for rewards in panels(config)[:1]]
    await asyncio.gather(learner.start(), rollouts.start(), *first)
    await rollouts.open(path, partial(_torch_engine, config.rollout.max_rows, config.rollout.dtype))
    return crew


def model_path(config: Config, run_dir: Path) -> str:
    """Where the policy to start from stands, or will."""
    return str((run_dir / "init").absolute()) if config.model.init else str(config.model.path)


# The engines' factories run in the workers; only there are models imported.


def _torch_learner(path: str, init: ModelInit | None, texts: list[str], seed: int, dtype: str) -> Any:
    from workers.learner.engine_torch import TorchLearner
    from workers.models.create import create

    if init is not None and not (Path(path) / "config.json").exists():
        create(init, texts, Path(path), seed)
    return TorchLearner(path, dtype)


def _torch_engine(max_rows: int, dtype: str, path: str, renderer: Renderer) -> Engine:
    from workers.rollout.torch_engine import TorchEngine

    return TorchEngine(path, renderer, max_rows, dtype)
