"""What each kind of stage does, and how a stage that was cut off goes on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pipeline.algorithms import Collaborative, Kto, Process, Relift, Sft
from pipeline.algorithms.collaborative import Paced
from pipeline.algorithms.kl_control import Controlled
from pipeline.algorithms.ppo import Ppo
from pipeline.assemble import Hands, optimization_of, sampling_of
from pipeline.attacks import Attacks
from pipeline.buffer import Buffer
from pipeline.config import Config, EvaluateStage, PreferenceStage, RewardModelStage, RlStage, SftStage, TrainStage
from pipeline.evaluate import evaluate
from pipeline.failures import FailureBudget
from pipeline.feeds import Batch, Feed, OfflineFeed, OnlineFeed, answers, demonstration
from pipeline.gap import GapRule
from pipeline.gold import GoldWatch
from pipeline.hardest import WithHardest
from pipeline.held_out import measured
from pipeline.inferred import InferredFeed
from pipeline.loop import Algorithm, Training, train
from pipeline.noise import noise_metrics
from pipeline.panels import judges_steps
from pipeline.peak import PeakRule, whole
from pipeline.producer import Producer
from pipeline.recorder import Recorder
from pipeline.rundir import evaluation_rows
from pipeline.shaping import Shaping, shaping_of
from pipeline.stage_kinds import judged_by
from pipeline.tasks import Order, TaskSets
from rewards.types import Task
from workers.types import Scalar

# Evaluations are read more closely than any one training step.
EVALUATION_SAMPLES = 64


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
    recorder.memory, recorder.steps = (dict(resumed.memory), resumed.step) if resumed else ({}, 0)
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
    watched = isinstance(stage, RlStage) and stage.rewards.gold is not None
    await hands.learner.begin(optimization, algorithm.losses, needs.logp_ref or watched, scalar)
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
    algorithm: Any = stage.algorithm.build()
    if isinstance(algorithm, Collaborative):
        algorithm = Paced(algorithm, recorder.memory)
    start = await _begin(stage, algorithm, 1.0, hands, resumed, algorithm.scalar)
    task_at, wave = _task_at(hands.config, name, tasks), stage.groups_per_step
    by_steps = isinstance(algorithm, Process)
    tied = getattr(algorithm, "neutral", 0.0) > 0
    feed: OfflineFeed | InferredFeed = OfflineFeed(task_at, answers, hands.rollouts, wave, tied, by_steps)
    if rewards := judged_by(stage):
        judges = await hands.judges_for(name)
        await hands.transport.publish()
        sampling = sampling_of(hands.config, name, stage.rollout)
        budget = FailureBudget(rewards.failure_budget, rewards.failure_window)
        feed = InferredFeed(task_at, hands.rollouts, judges, sampling, algorithm.infer, wave, budget)
    try:
        results = await _train_offline(name, stage, algorithm, feed, hands, recorder, start)
    finally:
        await feed.stop()
    for found in await measured(algorithm, tasks.held_out, feed, hands.learner, stage.learner.micro_batch_tokens):
        recorder.store.metrics(name, stage.steps, found.metrics())
        results |= found.results()
    return results


async def _train_offline(
    name: str, stage: TrainStage, algorithm: Algorithm, feed: Feed, hands: Hands, recorder: Recorder, start: int
) -> dict[str, Any]:
    after = partial(recorder.step, name, None, None)
    tokens = stage.learner.micro_batch_tokens
    ranks = hands.config.learner.ranks
    await train(Training(algorithm, feed, hands.learner, None, tokens, stage.steps, after, ranks), start)
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
    if isinstance(algorithm, Relift):
        enough, failure = algorithm.demonstrations, algorithm.failure
        feed = WithHardest(feed, hands.rollouts, tasks.train, enough, failure, recorder.memory)
    gap = GapRule(name, stage.gap_warning, stage.gap_limit)
    after = partial(recorder.step, name, budget, gap)
    if stage.rewards.attack is not None:
        attacks = Attacks(stage.rewards.attack.build(), name, judges.panel, judges, tasks.held_out or tasks.train)
        after = attacks.around(after)
        await attacks.before(start)
    if isinstance(algorithm, Ppo) and algorithm.kl_control.target is not None:
        algorithm = Controlled(algorithm, recorder.memory)
    peak = _peak(name, stage, hands, recorder)
    training = Training(
        algorithm,
        feed,
        hands.learner,
        hands.transport,
        stage.learner.micro_batch_tokens,
        stage.steps,
        after if peak is None else partial(_followed, peak, after),
        hands.config.learner.ranks,
        GoldWatch(hands.learner, stage.learner.micro_batch_tokens) if stage.rewards.gold else None,
        (lambda: peak.over) if peak else (lambda: False),
    )
    feed.start()
    try:
        await train(training, start)
    finally:
        await feed.stop()
    return {"steps": recorder.steps, "reward": recorder.last.get("reward/mean"), **await _kept(name, hands, peak)}


def _peak(name: str, stage: RlStage, hands: Hands, recorder: Recorder) -> PeakRule | None:
    if stage.stop_at_peak is None:
        return None
    keep = partial(whole, hands.learner.save_model, hands.run_dir / "stages" / name)
    return PeakRule(stage.stop_at_peak.window, stage.stop_at_peak.patience, keep, recorder.memory)


async def _followed(
    peak: PeakRule,
    after: Callable[[int, Batch, dict[str, float]], Awaitable[float]],
    step: int,
    batch: Batch,
    metrics: dict[str, float],
) -> float:
    """First the rule, then the books: a checkpoint of the step holds what the rule made of it."""
    await peak.take(step, metrics)
    return await after(step, batch, metrics)


async def _kept(name: str, hands: Hands, peak: PeakRule | None) -> dict[str, float]:
    """The learner takes the best policy back; what the summary says of it."""
    results = peak.results() if peak else {}
    if results:
        await hands.learner.load_model(hands.run_dir / "stages" / name)
    return results
