"""The plan of a run that may start, for a person: what happens in which order, who sits where, who judges."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipeline.check import Checked
from pipeline.config import EvaluateStage, PreferenceStage, RewardModelStage, RlStage, TrainStage
from pipeline.panels import panels
from pipeline.rundir import size
from pipeline.sizing import Sizing
from pipeline.stage_kinds import judged_by


def shown(checked: Checked) -> RenderableType:
    """The plan for a person: what happens in which order, who sits where, how much at once, who judges."""
    disk = Text(f"The run directory may take about {size(checked.disk_bytes)} of disk.")
    sizing = [] if checked.sizing is None else _sizing(checked.sizing)
    return Group(_stages(checked), _placement(checked), *sizing, _sources(checked), disk)


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
            compared = isinstance(stage, PreferenceStage | RewardModelStage)
            answers = len(tasks.train[0].answers) if compared else 1
            group = stage.algorithm.group_size if isinstance(stage, RlStage) else answers
            group = stage.algorithm.infer.attempts if isinstance(stage, RewardModelStage) and stage.infers else group
            counts = (len(tasks.train), stage.steps, stage.groups_per_step, group, stage.groups_per_step * group)
            row += [f"{count:,}" for count in counts]
            policy = policy if isinstance(stage, RewardModelStage) else name
        table.add_row(*row)
    return table


def _placement(checked: Checked) -> RenderableType:
    config, needs = checked.config, checked.needs
    columns = ["pro-\ncesses", "CPUs\neach", "GPUs\neach", "holds", "work on\ntop, about"]
    table = _table(f"Placement of a policy of {checked.parameters:,} weights", ["role", "engine"], columns, ["at once"])
    train = [stage for stage in config.stages.values() if isinstance(stage, TrainStage)]
    tokens = max((stage.learner.micro_batch_tokens for stage in train), default=0)
    for role, section, n, need, at_once in (
        ("learner", config.learner, config.learner.ranks, needs.learner, f"{tokens:,} tokens" if train else ""),
        ("rollout", config.rollout, config.rollout.workers, needs.rollout, f"{config.rollout.max_rows:,} sequences"),
    ):
        numbers = f"{n}", f"{section.cpus:g}", f"{section.gpus}", size(need.held), size(need.work)
        table.add_row(role, section.engine, *numbers, at_once)
    for rewards in panels(config):
        table.add_row("judge", ", ".join(rewards.sources), f"{rewards.workers}", f"{rewards.cpus:g}", "0")
    lines = [Text(line) for line in (*_bundles(checked), *checked.warnings)]
    return Group(table, *lines, Text())


def _bundles(checked: Checked) -> list[str]:
    placement, machine = checked.placement, checked.machine
    names = " | ".join(", ".join(ask.name for ask in asks) for asks in placement.bundles)
    lines = [f"Bundles: {names}."]
    if checked.config.cluster.placement == "shared":
        lines.append(
            f"learner and rollout-0 take turns: asleep, they hold {size(checked.needs.learner.asleep)} and "
            f"{size(checked.needs.rollout.asleep)}."
        )
    wanted = f"At the same time {placement.cpus:g} CPUs and {placement.gpus} GPUs"
    if checked.sizing is not None:
        return [*lines, f"{wanted}."]
    if machine is None:
        return [*lines, f"{wanted}; what {checked.config.cluster.address} has is known when the run starts."]
    here = f"here are {machine.cpus} CPUs, {size(machine.memory)} free, and {len(machine.gpus)} GPUs"
    gpus = f" ({', '.join(f'{size(gpu.free)} free' for gpu in machine.gpus)})" if machine.gpus else ""
    return [*lines, f"{wanted}; {here}{gpus}."]


def _sizing(sizing: Sizing) -> list[RenderableType]:
    held = _table(
        "Memory on each GPU, at most (on the host, where a role has none)", [""], [one.role for one in sizing.held]
    )
    for name in dict.fromkeys(name for one in sizing.held for name in one.parts):
        held.add_row(name, *(size(one.parts[name]) if name in one.parts else "" for one in sizing.held))
    held.add_row("all", *(size(one.total) for one in sizing.held))
    held.add_row("the GPU has", *(size(one.has) if one.has else "" for one in sizing.held))
    seats = _table("Who would sit where", ["node", "processes"], [])
    for node, processes in sizing.seats:
        seats.add_row(node, ", ".join(processes))
    if not sizing.steps:
        return [held, seats, Text("No step time: say tflops and bandwidth_gb_s of the nodes.\n")]
    columns = ["generate", "learn", "publish", "a step"]
    steps = _table("Seconds, at most: every completion at its full length; judging not counted", ["stage"], columns)
    for name, time in sizing.steps.items():
        steps.add_row(name, *(f"{s:.3g}" for s in (time.generate, time.learn, time.publish, time.whole)))
    return [held, seats, steps]


def _sources(checked: Checked) -> Table:
    table = _table("Reward sources", ["source", "kind"], ["weight"], ["on failure", "self-check", "stages"])
    for rewards, cases in checked.cases:
        stages = [name for name, stage in checked.config.stages.items() if judged_by(stage) == rewards]
        for source, seat in rewards.sources.items():
            tried = cases.get(source)
            told = "is served in runs only" if tried is None else f"passed on {tried} tasks" if tried else "has none"
            table.add_row(source, seat.kind, f"{seat.weight:g}", seat.on_failure, told, ", ".join(stages))
        if rewards.gold:
            tried = f"passed on {cases['gold']} tasks" if cases["gold"] else "has none"
            table.add_row("gold", rewards.gold.kind, "", "", tried, ", ".join(stages))
    return table
