"""Everything that can be found wrong before anything is started."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pipeline.algorithms import OnlineDpo
from pipeline.assemble import check_engine, placement_of, tasks_of, texts_of
from pipeline.config import (
    Config,
    EvaluateStage,
    PreferenceStage,
    RewardModelStage,
    Rewards,
    RlStage,
    SftStage,
    TrainStage,
)
from pipeline.fit import check_lengths, check_machine, check_timeouts
from pipeline.learned_judges import present
from pipeline.memory import BYTES, Longest, Needs, needs
from pipeline.panels import noise_of, panel_of, panels
from pipeline.sizing import Sizing, size_up
from pipeline.spec import Spec
from pipeline.stage_kinds import judged_by
from pipeline.tasks import TaskSets
from rewards.declared import ChatModel, declared
from rewards.errors import Refused, nearest
from rewards.selfcheck import selfcheck
from rewards.types import Message, Task
from workers.judging.hosts import check_host, hosted
from workers.judging.live import LiveToolbox
from workers.placement import Machine, Placement, this_machine

if TYPE_CHECKING:
    from workers.models.create import ModelSizes
    from workers.rollout.renderer import Renderer

# What metrics, samples, the report and MLflow's copies may take.
FILES_BYTES = 200_000_000
# Tasks of each set that are tried on reward sources and on a tokenizer.
TRIED = 3


@dataclass(frozen=True)
class Checked:
    """A config that may run: what was found out about it.

    parameters  the policy's number of weights
    cases       how many cases each panel's sources got
    machine     None where the run joins a cluster: what that has shows only there
    sizing      on the cluster that was described, where one was
    warnings    what may become tight, in words
    """

    config: Config
    tasks: dict[str, TaskSets]
    parameters: int
    cases: list[tuple[Rewards, dict[str, int]]]
    placement: Placement
    needs: Needs
    machine: Machine | None
    warnings: list[str]
    sizing: Sizing | None = None

    @property
    def disk_bytes(self) -> int:
        """What the run directory may grow to: each checkpoint holds weights, AdamW's two moments, the reference and the
        same three of a critic (and one is being written while the old ones stay); then the first and the final policy,
        and those that stages start from. All of it is float32."""
        starts = {stage.start for stage in self.config.stages.values() if stage.start}
        each = 3 + self.needs.reference + 3 * self.needs.critic
        copies = each * (self.config.checkpoints.keep + 1) + 2 + len(starts)
        return self.parameters * BYTES["float32"] * copies + FILES_BYTES


def check(config: Config, spec: Spec | None = None, shape: Path | None = None) -> Checked:
    """Load the data, size the model, try the reward sources, see whether all of it fits. Raises `Refused`.

    `spec` describes a cluster, which the run is to fit in place of this machine. `shape` is a directory whose
    config.json has the model's sizes, where the model itself is not at hand: tokens are estimated then.
    """
    check_timeouts(config)
    tasks = tasks_of(config)
    for name, stage in config.stages.items():
        _check_tasks(name, stage, tasks[name])
    # The sources first: what is wrong with them shows before the seconds that the model's libraries take to load.
    cases = asyncio.run(_self_checks(config, tasks))
    check_engine(config)
    _check_judges(config)
    sizes, renderer = _shape(shape) if shape else _model(config, tasks)
    _check_critics(config, None if isinstance(renderer, Estimated) else renderer)
    _check_ranks(config)
    longest = {name: _longest(sets, renderer) for name, sets in tasks.items()}
    check_lengths(config, sizes.positions, longest)
    placement, needed = placement_of(config), needs(config, sizes, tasks, longest)
    machine = None if config.cluster.address or spec else this_machine()
    warnings = check_machine(config, placement, needed, machine) if machine else []
    sizing = size_up(config, spec, placement, needed, sizes, longest) if spec else None
    return Checked(config, tasks, sizes.parameters, cases, placement, needed, machine, warnings, sizing)


def check_rewards(config: Config) -> None:
    """Only the reward sources, on the stages' own tasks. Raises `Refused`."""
    check_timeouts(config)
    asyncio.run(_self_checks(config, tasks_of(config)))


def _check_tasks(name: str, stage: object, tasks: TaskSets) -> None:
    if isinstance(stage, EvaluateStage) and not len(tasks.held_out):
        raise Refused(
            f"stages.{name}.data: has no held-out tasks to evaluate on; set data.held_out or data.held_out_path"
        )
    if isinstance(stage, SftStage) or (isinstance(stage, RlStage) and stage.algorithm.kind == "relift"):
        bare = next((task for task in tasks.train if task.demonstration is None), None)
        if bare is not None:
            raise Refused(
                f"stages.{name}.data: task {bare.id!r} has no demonstration to imitate; "
                "name the column with data.columns.demonstration"
            )
    if isinstance(stage, RewardModelStage) and stage.algorithm.kind == "process":
        if not stage.infers:
            _check_steps(name, tasks)
    elif isinstance(stage, PreferenceStage | RewardModelStage):
        single = stage.algorithm.kind in ("kto", "ratings")
        poor = next((task for task in tasks.train if len(task.answers) < (1 if single else 2)), None)
        if poor is not None:
            wanted, more = ("rated answers", ", or data.columns.rating") if single else ("two answers to compare", "")
            raise Refused(
                f"stages.{name}.data: task {poor.id!r} has no {wanted}, which {stage.algorithm.kind} needs; "
                f"name them with data.columns.chosen and data.columns.rejected{more}"
            )

    if isinstance(stage, RewardModelStage) and stage.algorithm.kind == "ratings":
        _check_attributes(name, stage.algorithm.attributes, tasks)


def _check_steps(name: str, tasks: TaskSets) -> None:
    poor = next((task for task in tasks.train if not all(one.steps for one in task.answers) or not task.answers), None)
    if poor is not None:
        raise Refused(
            f"stages.{name}.data: task {poor.id!r} has no answer whose steps are labelled, which process needs; name "
            "them with data.columns.steps and data.columns.step_labels, or have them inferred with algorithm.infer"
        )


def _check_attributes(name: str, attributes: Sequence[str], tasks: TaskSets) -> None:
    known = {attribute for task in tasks.train for one in task.answers for attribute in one.attributes}
    for attribute in attributes:
        if attribute not in known:
            none = "no answer has any; name their columns in data.columns.rating, after the first"
            hint = nearest(attribute, known) if known else none
            raise Refused(f"stages.{name}.algorithm.attributes: no answer is rated by {attribute!r}; {hint}")


def _model(config: Config, tasks: Mapping[str, TaskSets]) -> tuple[ModelSizes, Renderer]:
    """The policy's sizes, and what writes its prompts: the tokenizer on disk, or the one that will be made."""
    from workers.models.create import model_sizes
    from workers.models.tokenizers import make_tokenizer
    from workers.rollout.renderer import Renderer

    if config.model.init is not None:
        init, texts = config.model.init.build(), texts_of(tasks)
        return model_sizes(init, texts), Renderer(make_tokenizer(init.tokenizer, texts))
    path = str(config.model.path)
    sizes, renderer = model_sizes(path), Renderer.load(path)
    if Path(path).is_dir() and not any(Path(path).glob("*.safetensors")):
        raise Refused(f"model.path {path!r}: no weights in it, expected *.safetensors")
    return sizes, renderer


def _check_judges(config: Config) -> None:
    """Raises `Refused` where a model that is to be served is none that writes, or vLLM is not installed."""
    for rewards in panels(config):
        for name, seat in zip(rewards.sources, panel_of(rewards).seats, strict=True):
            for spec in hosted([seat.source]):
                if isinstance(spec, ChatModel):
                    if find_spec("vllm") is None:
                        raise Refused(
                            f"rewards.sources.{name}.judge.host: vllm, which would serve it, is not installed"
                        )
                    try:
                        check_host(spec)
                    except Refused as error:
                        raise Refused(f"rewards.sources.{name}.judge.host: {error}") from error


@dataclass(frozen=True)
class Estimated:
    """Stands in for a tokenizer that is not at hand: a token for every `CHARACTERS` of text, and a few per message."""

    CHARACTERS: ClassVar[int] = 3
    PER_MESSAGE: ClassVar[int] = 8

    def prompt(self, messages: Sequence[Message]) -> range:
        return range(sum(len(one.content) // self.CHARACTERS + self.PER_MESSAGE for one in messages))

    def answer(self, text: str) -> range:
        return range(len(text) // self.CHARACTERS + 1)


def _shape(directory: Path) -> tuple[ModelSizes, Estimated]:
    from workers.models.create import model_sizes

    return model_sizes(directory), Estimated()


def _check_critics(config: Config, renderer: Renderer | None) -> None:
    """A critic that starts from a directory reads the policy's tokens, where those are at hand."""
    from workers.models.load import load_tokenizer

    for name, stage in config.stages.items():
        critic = getattr(getattr(stage, "algorithm", None), "critic", None)
        if critic and critic.start and critic.start not in config.stages:
            where = f"stages.{name}.algorithm.critic.start"
            try:
                vocabulary = load_tokenizer(critic.start).get_vocab()
            except Refused as error:
                raise Refused(f"{where}: {error}") from error
            if renderer and vocabulary != renderer.tokenizer.get_vocab():
                raise Refused(
                    f"{where}: the vocabulary of {critic.start!r} is not the policy's, expected a reward model that "
                    "reads the policy's tokens (one that an earlier stage makes does)"
                )


def _check_ranks(config: Config) -> None:
    """Every rank is to have something to learn from in every update."""
    ranks = config.learner.ranks
    for name, stage in config.stages.items():
        if not isinstance(stage, TrainStage):
            continue
        algorithm = stage.algorithm.build() if isinstance(stage, RlStage | PreferenceStage) else None
        each = stage.groups_per_step
        if isinstance(stage, RlStage) and not isinstance(algorithm, OnlineDpo):  # whose pairs are never split
            each *= stage.algorithm.group_size
        each //= algorithm.updates_per_step if algorithm else 1
        if each < ranks:
            raise Refused(
                f"stages.{name}.groups_per_step: {stage.groups_per_step} makes {each} samples or pairs an update, "
                f"which can't be split over learner.ranks {ranks}; expected more groups, or at most {each} ranks"
            )


def _longest(sets: TaskSets, renderer: Renderer | Estimated) -> Longest:
    """Of the first tasks and of those with the most characters."""

    def characters(task: Task) -> int:
        answers = [task.demonstration or "", *(answer.text for answer in task.answers)]
        return sum(len(message.content) for message in task.messages) + max(map(len, answers))

    tried = [*sets.train[:TRIED], *sets.held_out[:TRIED]]
    tried += sorted((*sets.train, *sets.held_out), key=characters)[-TRIED:]
    prompts = [len(renderer.prompt(task.messages)) for task in tried]
    answers = [0 if task.demonstration is None else len(renderer.answer(task.demonstration)) for task in tried]
    compared = [[n + len(renderer.answer(one.text)) for one in t.answers] for n, t in zip(prompts, tried, strict=True)]
    one = max(max(found, default=0) for found in compared)
    return Longest(max(prompts), max(map(sum, zip(prompts, answers, strict=True))), one, max(map(sum, compared)))


async def _self_checks(config: Config, tasks: Mapping[str, TaskSets]) -> list[tuple[Rewards, dict[str, int]]]:
    """For each different panel, on the tasks of the first stage that it judges."""
    out = []
    tools = LiveToolbox(1)
    try:
        for rewards in panels(config):
            panel = panel_of(rewards)
            there = present(panel, config)
            await tools.warm(there)
            sets = next(tasks[name] for name, stage in config.stages.items() if judged_by(stage) == rewards)
            tried = [*sets.train[:TRIED], *sets.held_out[:TRIED]]
            noise_of(rewards, panel.seats)
            seats = (*there.seats, *([there.gold.seat] if there.gold else []))
            tryable = [seat for seat in seats if not _served(seat.source)]
            cases = {seat.name: await selfcheck(seat, tried, tools) for seat in tryable}
            out.append((rewards, {seat.name: cases.get(seat.name, 0) for seat in panel.seats}))
    finally:
        await tools.aclose()
    return out


def _served(source: object) -> bool:
    """Whether it needs a model that is served only while a run runs."""
    return any(isinstance(spec, ChatModel) and spec.host for spec in declared(source))
