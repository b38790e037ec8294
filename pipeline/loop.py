"""READ THIS FIRST: how a policy is trained. One loop for every algorithm, synchronous or not.

    producer:  reserve a place -> Rollouts.run -> Judges.judge -> Buffer.put          (feeds.py, producer.py)
                                                                     |
    loop:      take, in admission order <----------------------------+
               infer    what the algorithm needs to know of the samples               (learner)
               credit   rewards become advantages                                      (algorithms/)
               pack     samples become micro-batches                                   (packing.py)
               update   the weights move                                               (learner)
               publish  every engine holds them                                        (transport)
               release  the places are free again ---------------> producer

Who waits for whom: the loop for the buffer, the producer for free places. With `max_staleness: 0` there are just
enough places for one step, so generation and learning take turns; with more, they overlap. A producer that dies
ends the loop's wait with its error.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeline.feeds import Batch, Feed
from pipeline.packing import for_inference, plan, unpack
from workers.ports import Learner, LossFn, WeightTransport
from workers.types import Credit, Needs, Sample, Signals


class Algorithm(Protocol):
    """One file in algorithms/: what it needs to know, how it gives credit, which losses the learner runs."""

    @property
    def needs(self) -> Needs: ...
    @property
    def losses(self) -> Sequence[LossFn]: ...
    @property
    def updates_per_step(self) -> int: ...

    def credit(self, samples: Sequence[Sample], signals: Sequence[Signals]) -> tuple[list[Credit], dict[str, float]]:
        """Credit for the samples to learn from, and the step's metrics of it."""
        ...


@dataclass(frozen=True)
class Training:
    """What one training stage runs with.

    transport   None where nothing is rolled out
    after_step  keeps the books; answers with the seconds that a checkpoint took, 0 without one
    ranks       of the learner
    watch       what is told of a step and never learned from: metrics, and the learner's seconds
    over        whether the stage ends before its steps are taken
    """

    algorithm: Algorithm
    feed: Feed
    learner: Learner
    transport: WeightTransport | None
    micro_batch_tokens: int
    steps: int
    after_step: Callable[[int, Batch, dict[str, float]], Awaitable[float]]
    ranks: int = 1
    watch: Callable[[Batch, Sequence[Signals]], Awaitable[tuple[dict[str, float], float]]] | None = None
    over: Callable[[], bool] = lambda: False


async def train(run: Training, start: int = 0) -> None:
    """Take the stage's steps, from `start` on. A step's seconds include the bookkeeping of the one before it."""
    began, checkpoint = time.perf_counter(), 0.0
    for step in range(start, run.steps):
        if run.over():
            return
        batch, metrics = await train_step(run, step)
        now = time.perf_counter()
        metrics |= timing(metrics, batch, now - began, checkpoint)
        began = now
        checkpoint = await run.after_step(step, batch, metrics)


async def train_step(run: Training, step: int) -> tuple[Batch, dict[str, float]]:
    """One step through the rooms; returns what was learned from, and the step's metrics."""
    batch = await run.feed.take(step)
    signals, infer_s = await _infer(run, batch.samples)
    credits_, credit_metrics = run.algorithm.credit(batch.samples, signals)
    updates = plan(credits_, run.micro_batch_tokens, run.algorithm.updates_per_step, run.ranks)
    asked = time.perf_counter()
    report = await run.learner.update(updates)
    updated = time.perf_counter()
    if run.transport is not None:
        await run.transport.publish()
    published = time.perf_counter()
    await run.feed.release()
    # A frozen reference says the same after the update: the next step is generated meanwhile.
    watched, watch_s = await run.watch(batch, signals) if run.watch else ({}, 0.0)
    staleness = max((report.version - 1 - sample.version for sample in batch.samples), default=0)
    return batch, {
        **batch.metrics,
        **watched,
        **credit_metrics,
        **report.metrics,
        **({"policy/staleness_max": float(staleness)} if run.transport else {}),
        "learner/samples": float(len(credits_)),
        "learner/tokens": float(sum(len(credit.sample.ids) for credit in credits_)),
        "time/learn": infer_s + watch_s + report.seconds,
        "time/publish": published - updated,
        "time/transport": updated - asked - report.seconds,
    }


async def _infer(run: Training, samples: list[Sample]) -> tuple[list[Signals], float]:
    needs = run.algorithm.needs
    if not needs or not samples:
        return [Signals()] * len(samples), 0.0
    bins, batches = for_inference(samples, run.micro_batch_tokens, run.ranks)
    answers, seconds = await run.learner.infer(batches, needs)
    return unpack(samples, bins, answers, needs), seconds


def timing(metrics: dict[str, float], batch: Batch, step_s: float, checkpoint_s: float) -> dict[str, float]:
    """Where the step's seconds went.

    Generation, judging and learning are what the workers measured themselves; what the driver waited for them beyond
    that is transport: messages between processes. Overhead is the rest, the driver's own work, bookkeeping included;
    a checkpoint stands apart. Where generation overlaps with learning, only what was waited for counts.
    """
    produced = min(batch.wait, batch.generate + batch.judge)
    transport = metrics["time/transport"] + batch.wait - produced
    worked = produced + metrics["time/learn"] + metrics["time/publish"] + transport + checkpoint_s
    overhead = max(0.0, step_s - worked)
    out = {
        "time/step": step_s,
        "time/transport": transport,
        "time/overhead": overhead,
        "time/overhead_share": overhead / step_s,
        "learner/tokens_per_s": metrics["learner/tokens"] / max(metrics["time/learn"], 1e-9),
    }
    if checkpoint_s:
        out["time/checkpoint"] = checkpoint_s
    if batch.groups:
        tokens = sum(len(t.completion_ids) for g in batch.groups for r in g.group.rollouts for t in r.turns)
        out |= {"time/wait": batch.wait, "time/generate": batch.generate, "time/judge": batch.judge}
        out["rollout/tokens_per_s"] = tokens / max(batch.generate, 1e-9)
    return out
