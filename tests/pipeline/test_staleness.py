"""The staleness bound: whatever is slow, lost, asked again or taken up again, no sample is older than allowed.

Rollout workers here hold weights of their own. One that dies takes its groups with it; they are written again by
whoever is up, while the fresh one begins with the weights of the model directory and then loads the published ones.
A generation goes on over a publish: its tokens then have two versions. Judges are lost and asked again, too. The run
is stopped at any moment, in mid-step for one, and taken up from its last checkpoint.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fakes import FakeJudges, FakeLearner, group, nap, task
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.algorithms import Grpo
from pipeline.buffer import Buffer
from pipeline.failures import FailureBudget
from pipeline.feeds import OnlineFeed
from pipeline.loop import Training, train
from pipeline.producer import Producer
from rewards.types import Group
from workers.messages import Generated
from workers.types import Judged, Request, Sampling

WAVE, SIZE, WORKERS, CHECKPOINT = 3, 2, 2, 2
MODEL_DIRECTORY = -1000  # the version of what a fresh worker holds before it is given any weights


class MortalRollouts:
    """The port `Rollouts`, and what a transport publishes to."""

    def __init__(self, rng: random.Random, version: int):
        self.rng, self.published, self.deaths = rng, version, 0
        self.held, self.up = [version] * WORKERS, [asyncio.Event() for _ in range(WORKERS)]
        for up in self.up:
            up.set()

    async def run(self, wave: Sequence[Request]):
        writing = [asyncio.create_task(self._group(r, i % WORKERS)) for i, r in enumerate(wave)]
        for done in asyncio.as_completed(writing):
            yield Generated((await done,), 0.0, "rollout")

    async def _group(self, request: Request, worker: int) -> Group:
        while True:
            life = self.up[worker]
            await life.wait()
            first = self.held[worker]
            await nap(self.rng.random)
            second = self.held[worker]
            if self.up[worker] is life and self.rng.random() > 0.15:
                return _spanned(group(request), ((0, first), (1, second)) if second != first else ((0, first),))
            if self.up[worker] is life:
                self._die(worker)
            worker = next((i for i in range(WORKERS) if self.up[i].is_set()), worker)

    def _die(self, worker: int) -> None:
        self.deaths += 1
        self.up[worker], self.held[worker] = asyncio.Event(), MODEL_DIRECTORY
        self.opening = asyncio.create_task(self._open(worker))

    async def _open(self, worker: int) -> None:
        await nap(lambda: 3 * self.rng.random())
        self.held[worker] = self.published
        self.up[worker].set()

    async def publish(self, version: int) -> None:
        self.published = version
        for worker in range(WORKERS):
            await self.up[worker].wait()
            await nap(self.rng.random)
            if self.up[worker].is_set():  # else the fresh one will load it
                self.held[worker] = version


def _spanned(written: Group, versions: tuple[tuple[int, int], ...]) -> Group:
    rollouts = (replace(r, turns=(replace(r.turns[0], versions=versions),)) for r in written.rollouts)
    return replace(written, rollouts=tuple(rollouts))


class MortalJudges(FakeJudges):
    """Judges that are replaced and asked again; some groups they never get to judge."""

    async def judge(self, groups: Sequence[Group]) -> Judged:
        while random.Random(self.delay()).random() < 0.2:
            await nap(self.delay)
        return await super().judge(groups)


@dataclass
class Transport:
    learner: FakeLearner
    rollouts: MortalRollouts

    async def publish(self) -> None:
        await self.rollouts.publish(self.learner.version)


class Life:
    """One process of a run, from `start` on: to the end, or until it is stopped after that many turns of its loop."""

    def __init__(self, seed: int, start: int, steps: int, max_staleness: int, turns: int | None = None):
        self.taken: list[list[int]] = []
        self.ages: list[int] = []
        self.fails = frozenset(random.Random(seed).sample(range(steps * WAVE), steps))
        asyncio.run(self._live(random.Random(seed + start), start, steps, max_staleness, turns))

    async def _live(self, rng: random.Random, start: int, steps: int, max_staleness: int, turns: int | None) -> None:
        self.rollouts, learner = MortalRollouts(rng, start), FakeLearner(start)
        self.judges = MortalJudges(rng.random, self.fails)
        buffer = Buffer((max_staleness + 1) * WAVE, start * WAVE)
        producer = Producer(buffer, self.rollouts, self.judges, task, Sampling(4), SIZE, WAVE, end=steps * WAVE)
        feed = OnlineFeed(buffer, producer, WAVE, FailureBudget(1.0, 10))

        async def after(step, batch, metrics):
            assert step == start + len(self.taken)
            ages = [step - sample.version for sample in batch.samples]
            assert metrics["policy/staleness_max"] == max(ages, default=0)
            self.taken.append([scored.group.id for scored in batch.groups])
            self.ages += ages
            return 0.0

        transport = Transport(learner, self.rollouts)
        training = Training(Grpo(group_size=SIZE), feed, learner, transport, 1000, steps, after)
        feed.start()
        running = asyncio.create_task(train(training, start))
        try:
            if turns is None:
                await asyncio.wait_for(running, 20)
            else:
                await nap(lambda: turns / 10)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await feed.stop()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), max_staleness=st.integers(0, 3), steps=st.integers(1, 8), turns=st.integers(0, 300))
def test_no_sample_is_older_than_allowed_and_every_group_is_taken_once_and_in_order(seed, max_staleness, steps, turns):
    first = Life(seed, 0, steps, max_staleness, turns)
    kept = len(first.taken) // CHECKPOINT * CHECKPOINT
    second = Life(seed, kept, steps, max_staleness)
    for life in (first, second):
        assert all(0 <= age <= max_staleness for age in life.ages)
        assert len(life.judges.seen) == len(set(life.judges.seen))
    taken = [*first.taken[:kept], *second.taken]
    assert taken == [list(range(step * WAVE, (step + 1) * WAVE)) for step in range(steps)]
    assert sorted(second.judges.seen) == list(range(kept * WAVE, steps * WAVE))


def test_the_above_sees_deaths_stops_in_mid_run_and_the_oldest_samples_allowed():
    lives = [Life(seed, 0, 8, max_staleness=2, turns=120) for seed in range(20)]
    assert sum(life.rollouts.deaths for life in lives) > 20
    assert sum(len(life.taken) < 8 for life in lives) > 0
    assert {age for life in lives for age in life.ages} == {0, 1, 2}
