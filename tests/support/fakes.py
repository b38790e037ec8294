"""Hands that keep the ports' promises without processes, for tests of the head alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from rewards.types import Failure, Group, Message, Rollout, Score, ScoredGroup, Task, Turn, Verdict
from workers.messages import Generated
from workers.types import Judged, MicroBatch, Needs, Plan, Request, StepReport


def task(i: int) -> Task:
    return Task(f"t{i}", (Message("user", f"{i}?"),), reference=str(i))


def group(request: Request, version: int = 0) -> Group:
    """n rollouts of two tokens each."""
    prompt, logprobs = np.array([1, 2], np.int32), np.full(2, -0.5, np.float32)
    rollouts = tuple(
        Rollout(i, (Turn(prompt, np.array([3, 4 + i], np.int32), logprobs, "x", "stop", ((0, version),)),))
        for i in range(request.n)
    )
    return Group(request.group_id, request.task, rollouts)


async def nap(delay: Callable[[], float]) -> None:
    for _ in range(int(delay() * 10)):
        await asyncio.sleep(0)


@dataclass
class FakeRollouts:
    """Generates with the weights last published, each group after a delay of its own, in any order."""

    delay: Callable[[], float] = lambda: 0.0
    version: int = 0
    started: list[tuple[int, int]] = field(default_factory=list)  # (group id, version when it was started)
    fails_at: int | None = None

    async def run(self, wave: Sequence[Request]):
        async def one(request: Request) -> Group:
            self.started.append((request.group_id, self.version))
            version = self.version
            await nap(self.delay)
            if request.group_id == self.fails_at:
                raise RuntimeError("the engine broke")
            return group(request, version)

        for finished in asyncio.as_completed([asyncio.create_task(one(request)) for request in wave]):
            yield Generated((await finished,), 0.0, "rollout-0")


@dataclass
class FakeJudges:
    """Rewards each rollout by its place; `fails` names the groups it can't judge."""

    delay: Callable[[], float] = lambda: 0.0
    fails: frozenset[int] = frozenset()
    seen: list[int] = field(default_factory=list)

    async def judge(self, groups: Sequence[Group]) -> Judged:
        await nap(self.delay)
        self.seen += [g.id for g in groups]
        return Judged(tuple(self._scored(g) for g in groups), 0.0)

    def _scored(self, judged: Group) -> ScoredGroup:
        if judged.id in self.fails:
            failure = Failure("source:s", "error", "no idea")
            return ScoredGroup(
                judged, tuple(Verdict(None, {"s": Score(failure=failure)}, failure=failure) for _ in judged.rollouts)
            )
        return ScoredGroup(
            judged, tuple(Verdict(float(r.index), {"s": Score(float(r.index))}) for r in judged.rollouts)
        )


@dataclass
class FakeLearner:
    """Counts its updates, and remembers what it was given."""

    version: int = 0
    plans: list[Plan] = field(default_factory=list)

    async def infer(self, batches: Sequence[MicroBatch], needs: Needs):
        names = [name for name in ("logp_old", "logp_ref") if getattr(needs, name)]
        return [{name: np.zeros(len(b.own), np.float32) for name in names} for b in batches], 0.0

    async def update(self, plan: Plan) -> StepReport:
        self.plans.append(plan)
        self.version += 1
        await asyncio.sleep(0)
        return StepReport(self.version, {})


@dataclass
class FakeTransport:
    learner: FakeLearner
    rollouts: FakeRollouts

    async def publish(self) -> None:
        await asyncio.sleep(0)
        self.rollouts.version = self.learner.version
