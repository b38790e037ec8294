"""Everything that can be found wrong before anything is started, and the plan of a run that may start."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from pipeline.assemble import panel_of, panels, tasks_of, texts_of
from pipeline.config import Config, EvaluateStage, Rewards, RlStage, SftStage
from pipeline.tasks import TaskSets
from rewards.errors import Refused
from rewards.selfcheck import selfcheck
from workers.judging.toolbox import ProcessToolbox
from workers.models.create import parameter_count

BYTES_PER_WEIGHT = {"float32": 4, "bfloat16": 2}
# What metrics, samples, the report and MLflow's copies may take.
FILES_BYTES = 200_000_000


@dataclass(frozen=True)
class Checked:
    """A config that may run: its tasks, the policy's number of weights, and the self-checks made per source."""

    config: Config
    tasks: dict[str, TaskSets]
    parameters: int
    cases: dict[str, int]

    @property
    def disk_bytes(self) -> int:
        """What the run directory may grow to: each checkpoint holds weights and AdamW's two moments (and one is being
        written while the old ones stay), and there are the first and the final policy."""
        per_weight = BYTES_PER_WEIGHT[self.config.learner.dtype]
        copies = (
            3 * (self.config.checkpoints.keep + 1) + 2 + sum(s.start is not None for s in self.config.stages.values())
        )
        return self.parameters * per_weight * copies + FILES_BYTES


def check(config: Config) -> Checked:
    """Load the data, count the weights, try the reward sources. Raises `Refused` with one line."""
    tasks = tasks_of(config)
    for name, stage in config.stages.items():
        _check_tasks(name, stage, tasks[name])
    init = config.model.init
    parameters = parameter_count(init.build(), texts_of(tasks)) if init else parameter_count(str(config.model.path))
    cases = asyncio.run(_self_checks(config, tasks))
    return Checked(config, tasks, parameters, cases)


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
                "name the column with data.demonstration"
            )


async def _self_checks(config: Config, tasks: Mapping[str, TaskSets]) -> dict[str, int]:
    done: list[Rewards] = []
    cases: dict[str, int] = {}
    tools = ProcessToolbox(1)
    try:
        for name, stage in config.stages.items():
            rewards = getattr(stage, "rewards", None)
            if rewards is None or rewards in done:
                continue
            done.append(rewards)
            sets = tasks[name]
            for seat in panel_of(rewards).seats:
                cases[f"{name}.{seat.name}"] = await selfcheck(seat, [*sets.train[:3], *sets.held_out[:3]], tools)
    finally:
        tools.close()
    return cases


def shown(checked: Checked) -> RenderableType:
    """The plan for a person: what happens in which order, who sits where, how much at once."""
    config = checked.config
    return Group(_stage_table(checked), Text(), _placement(config, checked.parameters), Text(), _judges(checked))


def _stage_table(checked: Checked) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title="stages", title_justify="left")
    for column in ("stage", "kind", "starts from", "tasks", "steps", "groups/step", "group size", "samples/step"):
        table.add_column(column, justify="left" if column in ("stage", "kind", "starts from") else "right")
    before = "model"
    for name, stage in checked.config.stages.items():
        row = [name, stage.kind, stage.start or before]
        if isinstance(stage, EvaluateStage):
            n = len(checked.tasks[name].held_out[: stage.limit])
            row += [str(n), "", "", str(stage.samples), str(n * stage.samples)]
        else:
            size = stage.algorithm.group_size if isinstance(stage, RlStage) else 1
            row += [str(len(checked.tasks[name].train)), str(stage.steps), str(stage.groups_per_step), str(size)]
            row += [str(stage.groups_per_step * size)]
            before = name
        table.add_row(*row)
    return table


def _placement(config: Config, parameters: int) -> Table:
    """Memory is what weights, gradients and optimizer need; activations and caches come on top."""
    table = Table(box=box.SIMPLE_HEAD, title=f"placement (policy of {parameters:,} weights)", title_justify="left")
    for column in ("role", "engine", "processes", "CPUs each", "weights and state"):
        table.add_column(column, justify="left" if column in ("role", "engine") else "right")
    width = {name: BYTES_PER_WEIGHT[part.dtype] for name, part in (("l", config.learner), ("r", config.rollout))}
    needs_reference = any(isinstance(s, RlStage) and s.algorithm.build().needs.logp_ref for s in config.stages.values())
    learner_bytes = parameters * width["l"] * (5 if needs_reference else 4)
    table.add_row("learner", config.learner.engine, "1", f"{config.learner.cpus:g}", _bytes(learner_bytes))
    table.add_row(
        "rollout",
        config.rollout.engine,
        str(config.rollout.workers),
        f"{config.rollout.cpus:g}",
        _bytes(parameters * width["r"]),
    )
    for rewards in panels(config):
        table.add_row("judge", ", ".join(rewards.sources), str(rewards.workers), f"{rewards.cpus:g}", "")
    return table


def _judges(checked: Checked) -> Tree:
    tree = Tree("reward sources")
    for name, stage in checked.config.stages.items():
        for source, seat in getattr(getattr(stage, "rewards", None), "sources", {}).items():
            tried = checked.cases.get(f"{name}.{source}")
            note = f"accepts gold and rejects foil on {tried} tasks" if tried else "no self-check to make"
            if tried is not None:
                tree.add(f"{source}: {seat.kind}, weight {seat.weight:g}, on failure {seat.on_failure}; {note}")
    tree.add(Text(f"disk: about {_bytes(checked.disk_bytes)} for the run directory"))
    return tree


def _bytes(n: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit in ("B", "kB") else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} TB"
