"""Where a process reward model's samples come from when nobody labelled its steps: the policy goes on from each one.

    task -> attempts by the policy as it stands -> judged -> cut into steps
         -> from the end of each step but the last: rollouts -> judged, each with what stood before it
         -> the step's label (`algorithms/step_labels.py`); the last step's is the attempt's own outcome

Prefixes are handed over as the tokens that the policy wrote, never as text. The policy does not learn in the stage, so
the next step's samples are made while the learner works.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.algorithms.process import Infer
from pipeline.algorithms.step_labels import step_labels
from pipeline.failures import FailureBudget
from pipeline.feeds import Batch
from pipeline.metrics import group_metrics
from pipeline.producer import Clock, attempt
from pipeline.samples import to_samples
from pipeline.streams import key
from rewards.steps import tokens_at
from rewards.types import Group, Rollout, ScoredGroup, Task, Verdict
from workers.messages import Generated
from workers.ports import Judges, Rollouts
from workers.types import Judged, Request, Sample, Sampling

# Steps of one attempt that have numbers of their own; an answer of more is labelled no further.
MOST = 1024


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One judged answer; `ends` i32[K] where its steps end in its text, `tokens` i32[K] the own tokens they end in."""

    number: int
    task: Task
    rollout: Rollout
    right: bool
    ends: np.ndarray
    tokens: np.ndarray


@dataclass(frozen=True)
class _Whole:
    """Rollouts that are judged with what stood before them; `before` by group."""

    rollouts: Rollouts
    before: dict[int, str]

    async def run(self, wave: Sequence[Request]) -> AsyncIterator[Generated]:
        async for generated in self.rollouts.run(wave):
            yield replace(generated, groups=tuple(self._group(group) for group in generated.groups))

    async def render(self, tasks: Sequence[Task]) -> list[tuple[np.ndarray, np.ndarray]]:
        return await self.rollouts.render(tasks)

    async def step_ends(self, answers: Sequence[tuple[np.ndarray, Sequence[int]]]) -> list[np.ndarray]:
        return await self.rollouts.step_ends(answers)

    def _group(self, group: Group) -> Group:
        before = self.before[group.id]
        return replace(group, rollouts=tuple(_after(before, rollout) for rollout in group.rollouts))


def _after(before: str, rollout: Rollout) -> Rollout:
    turns = tuple(replace(turn, text=before + turn.text) for turn in rollout.turns)
    return replace(rollout, turns=turns)


class InferredFeed:
    """Labelled attempts at the tasks `task_at(place)`, `groups_per_step` places a step."""

    def __init__(
        self,
        task_at: Callable[[int], Task],
        rollouts: Rollouts,
        judges: Judges,
        sampling: Sampling,
        infer: Infer,
        groups_per_step: int,
        budget: FailureBudget,
    ):
        self.task_at, self.rollouts, self.judges = task_at, rollouts, judges
        self.sampling, self.infer = replace(sampling, offsets=True), infer
        self.groups_per_step, self.budget = groups_per_step, budget
        self.ahead: tuple[int, asyncio.Task[Batch]] | None = None

    async def take(self, step: int) -> Batch:
        start = time.perf_counter()
        step_ahead, making = self.ahead or (step, self._prepare(step))
        assert step_ahead == step, "steps are taken in order"
        made = await making
        self.ahead = step + 1, self._prepare(step + 1)
        return replace(made, wait=time.perf_counter() - start)

    async def release(self) -> None:
        pass

    async def stop(self) -> None:
        if self.ahead is not None:
            self.ahead[1].cancel()
            await asyncio.gather(self.ahead[1], return_exceptions=True)

    def _prepare(self, step: int) -> asyncio.Task[Batch]:
        places = range(step * self.groups_per_step, (step + 1) * self.groups_per_step)
        return asyncio.create_task(self.batch(places))

    async def samples(self, places: range) -> list[Sample]:
        """The labelled samples of these places."""
        return (await self.batch(places)).samples

    async def unseen(self, tasks: Sequence[Task]) -> list[Sample]:
        """Labelled samples of other tasks, on a random stream of their own."""
        sampling = replace(self.sampling, seed=key(self.sampling.seed, "held out"))
        other = InferredFeed(tasks.__getitem__, self.rollouts, self.judges, sampling, self.infer, 1, self.budget)
        return await other.samples(range(len(tasks)))

    async def batch(self, places: range) -> Batch:
        """The same, with the attempts and what it took."""
        clock = Clock()
        wave = [Request(place, self.task_at(place), self.infer.attempts, self.sampling) for place in places]
        groups = sorted(await self._judged(self.rollouts, wave, clock), key=lambda scored: scored.group.id)
        attempts = [one for scored in groups for one in self._attempts(scored)]
        outcomes = await self._outcomes(attempts, clock)
        by_number = {one.number: one for one in attempts}
        samples = []
        for sample in to_samples(groups):
            one = by_number.get(sample.group * self.infer.attempts + sample.index)
            found = [outcomes[one.number, k] for k in range(len(one.ends))] if one else []
            if one is None or not all(found):
                continue  # no step in it, or one that nothing could be said of
            labels = step_labels(found, self.infer.by)
            samples.append(replace(sample, steps=labels, step_ends=one.tokens))
        labels = np.concatenate([sample.steps for sample in samples if sample.steps is not None] or [np.zeros(0)])
        metrics = group_metrics(groups) | ({"label/mean": float(labels.mean())} if len(labels) else {})
        return Batch(samples, groups, metrics, 0.0, *clock.read())

    async def _judged(self, rollouts: Rollouts, wave: Sequence[Request], clock: Clock) -> list[ScoredGroup]:
        found: list[ScoredGroup] = []

        def collect(judged: Judged) -> None:
            found.extend(judged.groups)

        if wave:
            await attempt(rollouts, self.judges, wave, clock, collect)
        self.budget.count(found)
        return found

    def _attempts(self, scored: ScoredGroup) -> list[_Attempt]:
        out = []
        for rollout, verdict in zip(scored.group.rollouts, scored.verdicts, strict=True):
            right = self._right(verdict)
            if right is None:
                continue
            (turn,) = rollout.turns
            assert turn.offsets is not None, "asked for with the sampling"
            ends = self.infer.steps.ends(turn.text)[:MOST]
            number = scored.group.id * self.infer.attempts + rollout.index
            tokens = tokens_at(turn.offsets, ends)
            out.append(_Attempt(number, scored.group.task, rollout, right, ends, tokens))
        return [one for one in out if len(one.ends)]

    def _right(self, verdict: Verdict) -> bool | None:
        return None if verdict.unshaped is None else verdict.unshaped >= self.infer.pass_at

    async def _outcomes(
        self, attempts: Sequence[_Attempt], clock: Clock
    ) -> dict[tuple[int, int], list[tuple[bool, int]]]:
        """By attempt and step: whether each judged rollout from there came out right, and its further steps."""
        out: dict[tuple[int, int], list[tuple[bool, int]]] = {}
        wave, before, places = [], {}, {}
        for one in attempts:
            last = len(one.ends) - 1
            out[one.number, last] = [(one.right, 0)]
            for k in range(last):
                id, (turn,) = one.number * MOST + k, one.rollout.turns
                begun = turn.completion_ids[: one.tokens[k] + 1]
                sampling = self._sampling(len(begun))
                wave.append(Request(id, one.task, self.infer.rollouts, sampling, begun))
                assert turn.offsets is not None, "asked for with the sampling"
                before[id], places[id] = turn.text[: turn.offsets[one.tokens[k]]], (one.number, k)
                # What the attempt itself became is one more rollout from here.
                out[one.number, k] = [(one.right, last - k)]
        for scored in await self._judged(_Whole(self.rollouts, before), wave, clock):
            for rollout, verdict in zip(scored.group.rollouts, scored.verdicts, strict=True):
                if (right := self._right(verdict)) is not None:
                    id = scored.group.id
                    further = len(self.infer.steps.ends(rollout.text)) - (places[id][1] + 1)
                    out[places[id]].append((right, max(further, 0)))
        return out

    def _sampling(self, begun: int) -> Sampling:
        limit = max(1, self.sampling.max_new_tokens - begun)
        return replace(self.sampling, max_new_tokens=limit, seed=key(self.sampling.seed, "goes on"), offsets=False)
