"""What each kind of stage does, and how a stage that was cut off goes on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from pipeline.algorithms import Kto, Sft
from pipeline.algorithms.kl_control import Controlled
from pipeline.algorithms.ppo import Ppo
from pipeline.assemble import Hands, judges_steps, optimization_of, sampling_of
from pipeline.attacks import Attacks
from pipeline.buffer import Buffer
from pipeline.config import Config, EvaluateStage, PreferenceStage, RewardModelStage, RlStage, SftStage, TrainStage
from pipeline.evaluate import evaluate
from pipeline.failures import FailureBudget
from pipeline.feeds import Batch, OfflineFeed, OnlineFeed, answers, demonstration
from pipeline.gap import GapRule
from pipeline.held_out import pair_accuracy
from pipeline.loop import Algorithm, Training, train
from pipeline.noise import noise_metrics
from pipeline.producer import Producer
from pipeline.progress import Progress
from pipeline.rundir import evaluation_rows, sample_rows
from pipeline.shaping import Shaping, shaping_of
from pipeline.stores.ports import RunStore
from pipeline.tasks import Order, TaskSets
from rewards.types import Task
from workers.types import Scalar

# Evaluations are read more closely than any one training step.
EVALUATION_SAMPLES = 64


@dataclass
class Recorder:
    """Where a stage's numbers go, and who hears that a step is done (for the next checkpoint).

    restarts  the rollout workers' list of who was replaced and why; it grows, and its first `told` lines are on file
    workers   how many rollout workers are up
    memory    what the stage's algorithm carries from step to step; checkpoints keep it
    """

    config: Config
    store: RunStore
    progress: Progress
    stepped: Callable[[str, int, list[str | None], dict[str, float]], Awaitable[float]]
    last: dict[str, float]
    restarts: Sequence[str]
    workers: Callable[[], int]
    told: int = 0
    memory: dict[str, float] = field(default_factory=dict)

    async def step(
        self,
        stage: str,
        budget: FailureBudget | None,
        gap: GapRule | None,
        step: int,
        batch: Batch,
        metrics: dict[str, float],
    ) -> float:
        """After each step of a stage that learns; the seconds a checkpoint took."""
        replaced = self.replaced(stage)
        if budget is not None:
            metrics = {**metrics, "rollout/restarts": float(replaced), "rollout/workers": float(self.workers())}
        self.last = metrics
        self.store.metrics(stage, step, metrics)
        rows = sample_rows(stage, step, batch.groups, self.config.tracking.samples_per_step)
        if rows:
            self.store.samples(rows)
        self.progress.step(step, metrics)
        if gap and (warning := gap.check(step, metrics)):
            self.store.event("warning", warning, stage)
            self.progress.note(f"{stage}: {warning}")
        return await self.stepped(stage, step + 1, list(budget.reasons) if budget else [], dict(self.memory))

    def replaced(self, stage: str) -> int:
        """How many rollout workers were replaced since it was last asked; each is an event of the run."""
        lines = self.restarts[self.told :]
        for line in lines:
            self.store.event("rollout_restarted", f"{line}; a fresh worker took its name", stage)
        self.told += len(lines)
        return len(lines)


@dataclass(frozen=True)
class Resumed:
    """Where a stage goes on: its next step, the failure budget's window, what the algorithm remembers, and how the
    learner's state comes back."""

    step: int
    failures: list[str | None]
    memory: dict[str, float]
    restore: Callable[[], Awaitable[None]]


async def run_stage(
    name: str, hands: Hands, tasks: TaskSets, recorder: Recorder, resumed: Resumed | None
) -> dict[str, Any]:
    """Do the stage; its results for the summary."""
    stage = hands.config.stages[name]
    recorder.memory = dict(resumed.memory) if resumed else {}
    try:
        if isinstance(stage, EvaluateStage):
            return await _evaluate(name, stage, hands, tasks, recorder)
        if isinstance(stage, SftStage | PreferenceStage):
            return await _offline(name, stage, hands, tasks, recorder, resumed)
        if isinstance(stage, RewardModelStage):
            return await _reward_model(name, stage, hands, tasks, recorder, resumed)
        return await _rl(name, stage, hands, tasks, recorder, resumed)
    finally:
        recorder.replaced(name)


async def _evaluate(
    name: str, stage: EvaluateStage, hands: Hands, tasks: TaskSets, recorder: Recorder
) -> dict[str, Any]:
    judges = await hands.judges_for(name)
    await hands.transport.publish()
    found = await evaluate(
        tasks.held_out[: stage.limit],
        hands.rollouts,
        judges,
        sampling_of(hands.config, name, stage.rollout),
        stage.samples,
        stage.pass_at,
        lambda done: recorder.progress.step(done - 1, {}),
    )
    recorder.store.metrics(name, 0, found.metrics())
    recorder.store.samples(evaluation_rows(name, found.groups, EVALUATION_SAMPLES))
    return found.results()


def _task_at(config: Config, name: str, tasks: TaskSets) -> Callable[[int], Task]:
    order = Order(len(tasks.train), config.seed, f"order.{name}")
    return lambda position: tasks.train[order.task_index(position)]


async def _begin(
    stage: TrainStage,
    algorithm: Algorithm,
    temperature: float,
    hands: Hands,
    resumed: Resumed | None,
    scalar: Scalar | None = None,
) -> int:
    """Set the learner up for the stage; the step to start from."""
    updates = stage.steps * algorithm.updates_per_step
    optimization = optimization_of(stage.learner, updates, temperature)
    needs = algorithm.needs
    scalar = scalar or needs.critic
    if scalar and scalar.start in hands.config.stages:
        scalar = replace(scalar, start=str(hands.run_dir / "stages" / scalar.start))
    await hands.learner.begin(optimization, algorithm.losses, needs.logp_ref, scalar)
    if resumed is None:
        return 0
    await resumed.restore()
    return resumed.step


async def _offline(
    name: str,
    stage: SftStage | PreferenceStage,
    hands: Hands,
    tasks: TaskSets,
    recorder: Recorder,
    resumed: Resumed | None,
) -> dict[str, Any]:
    compared = isinstance(stage, PreferenceStage)
    algorithm = stage.algorithm.build() if compared else Sft()
    start = await _begin(stage, algorithm, 1.0, hands, resumed)
    feed = OfflineFeed(
        _task_at(hands.config, name, tasks),
        answers if compared else demonstration,
        hands.rollouts,
        stage.groups_per_step,
        mismatched=isinstance(algorithm, Kto),
    )
    return await _train_offline(name, stage, algorithm, feed, hands, recorder, start)


async def _reward_model(
    name: str, stage: RewardModelStage, hands: Hands, tasks: TaskSets, recorder: Recorder, resumed: Resumed | None
) -> dict[str, Any]:
    algorithm = stage.algorithm.build()
    start = await _begin(stage, algorithm, 1.0, hands, resumed, algorithm.scalar)
    feed = OfflineFeed(_task_at(hands.config, name, tasks), answers, hands.rollouts, stage.groups_per_step)
    results = await _train_offline(name, stage, algorithm, feed, hands, recorder, start)
    unseen = OfflineFeed(tasks.held_out.__getitem__, answers, hands.rollouts, 1)
    tokens = stage.learner.micro_batch_tokens
    found = await pair_accuracy(unseen, len(tasks.held_out), hands.learner, algorithm.scalar, tokens)
    if found is None:
        return results
    recorder.store.metrics(name, stage.steps, found.metrics())
    return {**results, **found.results()}


async def _train_offline(
    name: str, stage: TrainStage, algorithm: Algorithm, feed: OfflineFeed, hands: Hands, recorder: Recorder, start: int
) -> dict[str, Any]:
    after = partial(recorder.step, name, None, None)
    tokens = stage.learner.micro_batch_tokens
    await train(Training(algorithm, feed, hands.learner, None, tokens, stage.steps, after), start)
    return {"steps": stage.steps, "loss": recorder.last.get("learner/loss")}


async def _rl(
    name: str, stage: RlStage, hands: Hands, tasks: TaskSets, recorder: Recorder, resumed: Resumed | None
) -> dict[str, Any]:
    algorithm = stage.algorithm.build()
    judges = await hands.judges_for(name)
    start = await _begin(stage, algorithm, stage.rollout.temperature, hands, resumed)
    await hands.transport.publish()
    budget = FailureBudget(stage.rewards.failure_budget, stage.rewards.failure_window)
    budget.reasons.extend(resumed.failures if resumed else [])
    wave, end = stage.groups_per_step, stage.steps * stage.groups_per_step
    buffer = Buffer((stage.max_staleness + 1) * wave, position=start * wave)
    producer = Producer(
        buffer,
        hands.rollouts,
        judges,
        _task_at(hands.config, name, tasks),
        replace(
            sampling_of(hands.config, name, stage.rollout),
            greedy=algorithm.needs.greedy,
            offsets=judges_steps(stage.rewards),
        ),
        algorithm.group_size,
        wave,
        end,
        stage.resample,
    )
    shaping = Shaping(shaping_of(stage.rewards), recorder.memory, stage.steps)
    feed = OnlineFeed(buffer, producer, wave, budget, partial(noise_metrics, judges.panel), shaping)
    gap = GapRule(name, stage.gap_warning, stage.gap_limit)
    after = partial(recorder.step, name, budget, gap)
    if stage.rewards.attack is not None:
        attacks = Attacks(stage.rewards.attack.build(), name, judges.panel, judges, tasks.held_out or tasks.train)
        after = attacks.around(after)
        await attacks.before(start)
    if isinstance(algorithm, Ppo) and algorithm.kl_control.target is not None:
        algorithm = Controlled(algorithm, recorder.memory)
    training = Training(
        algorithm, feed, hands.learner, hands.transport, stage.learner.micro_batch_tokens, stage.steps, after
    )
    feed.start()
    try:
        await train(training, start)
    finally:
        await feed.stop()
    return {"steps": stage.steps, "reward": recorder.last.get("reward/mean")}
