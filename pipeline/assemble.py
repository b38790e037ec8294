"""The one file that names concrete classes: from a config to tasks, panels, workers and stores."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.config import Config, EvaluateStage, Optimizer, PathSeat, Rewards, RlStage, Sampling, SeatKnobs
from pipeline.streams import key
from pipeline.tasks import TaskSets
from rewards.catalog import resolve
from rewards.errors import Refused, nearest
from rewards.panel import Panel, Seat
from rewards.sources.function import Function
from workers import types
from workers.judging.pool import JudgePool
from workers.learner.engine_torch import TorchLearner
from workers.learner.team import LearnerTeam
from workers.models.create import create
from workers.ray_actors import start_ray, stop_ray
from workers.rollout.pool import RolloutPool
from workers.rollout.renderer import Renderer
from workers.rollout.torch_engine import TorchEngine
from workers.weights.transport import ObjectStoreTransport


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
    found = resolve(knobs.kind)
    make = found if isinstance(found, type) else partial(Function, knobs.kind)
    fields = getattr(found if isinstance(found, type) else Function, "__dataclass_fields__", {})
    for param in knobs.params:
        if fields and param not in fields:
            raise Refused(f"rewards.sources.{name}.params: unknown key {param!r}; {nearest(param, fields)}")
    try:
        return make(**knobs.params)
    except TypeError as error:
        raise Refused(f"rewards.sources.{name}.params: {knobs.kind} does not take them: {error}") from None


def sampling_of(config: Config, stage: str, rollout: Sampling) -> types.Sampling:
    """The stage's sampling, on the stage's own random stream."""
    knobs = {field: getattr(rollout, field) for field in Sampling.model_fields}
    return types.Sampling(**knobs, seed=key(config.seed, "rollout", stage))


def optimization_of(learner: Optimizer, updates: int, temperature: float) -> types.Optimization:
    """The stage's optimization over that many updates."""
    knobs = {field: getattr(learner, field) for field in Optimizer.model_fields if field != "micro_batch_tokens"}
    return types.Optimization(**knobs, updates=updates, temperature=temperature)


def make_model(config: Config, run_dir: Path, texts: list[str]) -> str:
    """The path of the policy to start from, made now where the config says so."""
    if config.model.init is None:
        return str(config.model.path)
    directory = run_dir / "init"
    if not (directory / "config.json").exists():
        create(config.model.init.build(), texts, directory, config.seed)
    return str(directory.absolute())


@dataclass
class Hands:
    """The workers of a run. Judges come and go with the stages' rewards."""

    config: Config
    learner: LearnerTeam
    rollouts: RolloutPool
    transport: ObjectStoreTransport
    renderer: Renderer
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
    """Start Ray, make the model, start learner and rollout workers, all at the same time as far as may be."""
    cpus = config.cluster.cpus or os.cpu_count() or 1
    # Logical CPUs: the actors' own bookkeeping must not wait for a core that only takes turns with another.
    wanted = config.learner.cpus + config.rollout.workers * config.rollout.cpus
    wanted += max((rewards.workers * rewards.cpus for rewards in panels(config)), default=0.0)
    _, path = await asyncio.gather(
        asyncio.to_thread(start_ray, max(cpus, int(wanted + 1)), config.cluster.address),
        asyncio.to_thread(make_model, config, run_dir, texts),
    )
    timeout = config.cluster.timeout_s
    learner = LearnerTeam(partial(TorchLearner, path, config.learner.dtype), config.learner.cpus, timeout)
    engine = partial(_torch_engine, path, config.rollout.max_rows, config.rollout.dtype)
    rollouts = RolloutPool(path, engine, config.rollout.workers, config.rollout.cpus, timeout)
    await asyncio.gather(learner.start(), rollouts.start())
    return Hands(config, learner, rollouts, ObjectStoreTransport(learner, rollouts), Renderer.load(path))


def _torch_engine(path: str, max_rows: int, dtype: str, renderer: Renderer) -> TorchEngine:
    return TorchEngine(path, renderer, max_rows, dtype)
