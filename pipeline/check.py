"""Everything that can be found wrong before anything is started, and the plan of a run that may start."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipeline.assemble import panel_of, panels, tasks_of, texts_of
from pipeline.config import Config, EvaluateStage, Rewards, RlStage, SftStage, TrainStage
from pipeline.rundir import size
from pipeline.tasks import TaskSets
from rewards.errors import Refused
from rewards.selfcheck import selfcheck
from workers.judging.toolbox import ProcessToolbox

BYTES_PER_WEIGHT = {"float32": 4, "bfloat16": 2}
# What metrics, samples, the report and MLflow's copies may take.
FILES_BYTES = 200_000_000
# Tasks of each set that are tried on reward sources and on a tokenizer.
TRIED = 3


@dataclass(frozen=True)
class Checked:
    """A config that may run: its tasks, the policy's number of weights, and how many cases each panel's sources got."""

    config: Config
    tasks: dict[str, TaskSets]
    parameters: int
    cases: list[tuple[Rewards, dict[str, int]]]

    @property
    def disk_bytes(self) -> int:
        """What the run directory may grow to: each checkpoint holds weights and AdamW's two moments (and one is being
        written while the old ones stay); then the first and the final policy, and those that stages start from."""
        starts = {stage.start for stage in self.config.stages.values() if stage.start}
        copies = 3 * (self.config.checkpoints.keep + 1) + 2 + len(starts)
        return self.parameters * BYTES_PER_WEIGHT[self.config.learner.dtype] * copies + FILES_BYTES


def check(config: Config) -> Checked:
    """Load the data, count the weights, try the reward sources. Raises `Refused` with one line."""
    tasks = tasks_of(config)
    for name, stage in config.stages.items():
        _check_tasks(name, stage, tasks[name])
    # The sources first: what is wrong with them shows before the seconds that the model's libraries take to load.
    cases = asyncio.run(_self_checks(config, tasks))
    return Checked(config, tasks, _weights(config, tasks), cases)


def _check_tasks(name: str, stage: object, tasks: TaskSets) -> None:
    if isinstance(stage, EvaluateStage) and not len(tasks.held_out):
        raise Refused(
            f"stages.{name}.data: has no held-out tasks to evaluate on; set data.held_out or data.held_out_path"
        )
    if isinstance(stage, SftStage):
        bare = next((task for task in tasks.train if task.demonstration is None), None)
        if bare is not None:
            raise Refused(
                f"stages.{name}.data: task {bare.id!r} has no demonstration to imitate; "
                "name the column with data.columns.demonstration"
            )


def _weights(config: Config, tasks: Mapping[str, TaskSets]) -> int:
    """How many the policy has. Where it lies on disk, its tokenizer is tried too."""
    from workers.models.create import parameter_count
    from workers.rollout.renderer import Renderer

    if config.model.init is not None:
        return parameter_count(config.model.init.build(), texts_of(tasks))
    path = str(config.model.path)
    parameters, renderer = parameter_count(path), Renderer.load(path)
    if Path(path).is_dir() and not any(Path(path).glob("*.safetensors")):
        raise Refused(f"model.path {path!r}: no weights in it, expected *.safetensors")
    for sets in tasks.values():
        for task in (*sets.train[:TRIED], *sets.held_out[:TRIED]):
            renderer.prompt(task.messages)
            if task.demonstration is not None:
                renderer.answer(task.demonstration)
    return parameters


async def _self_checks(config: Config, tasks: Mapping[str, TaskSets]) -> list[tuple[Rewards, dict[str, int]]]:
    """For each different panel, on the tasks of the first stage that it judges."""
    out = []
    tools = ProcessToolbox(1)
    try:
        for rewards in panels(config):
            sets = next(tasks[name] for name, stage in config.stages.items() if _rewards(stage) == rewards)
            tried = [*sets.train[:TRIED], *sets.held_out[:TRIED]]
            out.append((rewards, {seat.name: await selfcheck(seat, tried, tools) for seat in panel_of(rewards).seats}))
    finally:
        tools.close()
    return out


def _rewards(stage: object) -> Rewards | None:
    return getattr(stage, "rewards", None)


def shown(checked: Checked) -> RenderableType:
    """The plan for a person: what happens in which order, who sits where, how much at once, who judges."""
    disk = Text(f"The run directory may take about {size(checked.disk_bytes)} of disk.")
    return Group(_stages(checked), _placement(checked), _sources(checked), disk)


def _table(title: str, words: list[str], numbers: list[str], last: list[str] | None = None) -> Table:
    """Words are left-aligned and never cut, numbers right-aligned."""
    table = Table(box=box.SIMPLE_HEAD, title=Text(title, "bold"), title_justify="left", pad_edge=False)
    table.padding = (0, 1, 0, 0)
    for column in words:
        table.add_column(column, overflow="fold")
    for column in numbers:
        table.add_column(column, justify="right", no_wrap=True)
    for column in last or []:
        table.add_column(column, overflow="fold")
    return table


def _stages(checked: Checked) -> Table:
    numbers = ["tasks", "steps", "groups\nper step", "group\nsize", "samples\nper step"]
    table = _table("Stages", ["stage", "kind", "starts from"], numbers)
    policy = "model"
    for name, stage in checked.config.stages.items():
        policy = stage.start or policy
        row, tasks = [name, stage.kind, policy], checked.tasks[name]
        if isinstance(stage, EvaluateStage):
            n = len(tasks.held_out[: stage.limit])
            row += [f"{n:,}", "", "", f"{stage.samples:,}", f"{n * stage.samples:,}"]
        else:
            group = stage.algorithm.group_size if isinstance(stage, RlStage) else 1
            counts = (len(tasks.train), stage.steps, stage.groups_per_step, group, stage.groups_per_step * group)
            row += [f"{count:,}" for count in counts]
            policy = name
        table.add_row(*row)
    return table


def _placement(checked: Checked) -> RenderableType:
    """Memory is what weights, gradients and optimizer need; activations and caches come on top."""
    config, n = checked.config, checked.parameters
    columns = ["processes", "CPUs each", "memory each"]
    table = _table(f"Placement of a policy of {n:,} weights", ["role", "engine"], columns, ["at once"])
    train = [stage for stage in config.stages.values() if isinstance(stage, TrainStage)]
    reference = any(isinstance(stage, RlStage) and stage.algorithm.build().needs.logp_ref for stage in train)
    tokens = max((stage.learner.micro_batch_tokens for stage in train), default=0)
    learner = n * BYTES_PER_WEIGHT[config.learner.dtype] * ((4 if train else 1) + reference)
    rollout = n * BYTES_PER_WEIGHT[config.rollout.dtype]
    at_once = f"{tokens:,} tokens" if train else ""
    table.add_row("learner", config.learner.engine, "1", f"{config.learner.cpus:g}", size(learner), at_once)
    workers, at_once = str(config.rollout.workers), f"{config.rollout.max_rows:,} sequences"
    table.add_row("rollout", config.rollout.engine, workers, f"{config.rollout.cpus:g}", size(rollout), at_once)
    for rewards in panels(config):
        table.add_row("judge", ", ".join(rewards.sources), str(rewards.workers), f"{rewards.cpus:g}", "", "")
    cpus = config.learner.cpus + config.rollout.workers * config.rollout.cpus
    cpus += max((rewards.workers * rewards.cpus for rewards in panels(config)), default=0)
    together = Text(
        f"At the same time {cpus:g} CPUs and {size(learner + config.rollout.workers * rollout)}, without activations "
        f"and caches; here are {os.cpu_count()} CPUs and {size(psutil.virtual_memory().available)} free."
    )
    return Group(table, together, Text())


def _sources(checked: Checked) -> Table:
    table = _table("Reward sources", ["source", "kind"], ["weight"], ["on failure", "self-check", "stages"])
    for rewards, cases in checked.cases:
        stages = [name for name, stage in checked.config.stages.items() if _rewards(stage) == rewards]
        for source, seat in rewards.sources.items():
            tried = cases[source]
            told = f"passed on {tried} tasks" if tried else "has none"
            table.add_row(source, seat.kind, f"{seat.weight:g}", seat.on_failure, told, ", ".join(stages))
    return table
