"""The panel asks every seat at once and makes one verdict per rollout.

The failure policy of the judges' floor, on one page:

    a source raises, times out, dies or abstains  ->  a `Failure` that names it, for the rollouts asked about
    `retries`                                     ->  only those rollouts are asked about again, that many times
                                                      (the whole group, of a source that compares: `whole_groups`)
    `on_failure` when there still is no score:
        mask         the rollout gets no reward (and is never learned from)
        drop_group   no rollout of the group gets a reward
        substitute   the seat's `substitute` value stands in, and the score says so
        abort        `RunFailed`: the run ends with the source's name

A seat of weight 0 only watches: `mask` and `drop_group` take no reward away for its sake.

    scores, none missing  ->  disturbed, where that is wanted (`noise.py`)  ->  combined (`compose/`) into one reward
        ->  shaped (`shaping/`), one step after the other

Step rewards of several sources add up with their weights; a source that judges steps counts by them, not by its value.
This is the one place where a judge's error becomes data, hence its broad except.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np

from rewards.compose.weighted import Weighted
from rewards.errors import RunFailed
from rewards.failures import as_failure
from rewards.gold import Gold
from rewards.noise import Noise, Place, bounds_of
from rewards.ports import Combiner, RewardSource, Shaper, Toolbox
from rewards.shaping.chain import shape
from rewards.types import Failure, Group, Score, ScoredGroup, Verdict

OnFailure = Literal["mask", "drop_group", "substitute", "abort"]


@dataclass(frozen=True, slots=True)
class Seat:
    """One source at the table.

    weight      its factor in the reward; 0 watches without rewarding
    timeout_s   seconds one question about a group may take, waiting for a helper process included
    retries     how often the rollouts without a score are asked about again
    substitute  what stands in for a missing score under `on_failure: substitute`
    """

    name: str
    source: RewardSource
    weight: float = 1.0
    timeout_s: float = 60.0
    retries: int = 0
    on_failure: OnFailure = "mask"
    substitute: float = 0.0


@dataclass(frozen=True, slots=True)
class Panel:
    """The seats of one stage, how their values become one reward, and what is done to it, step by step, by name.

    noise  errors to put into the scores before they are combined
    seed   of the run and the stage, for what is drawn
    gold   who judges a slice of the rollouts beside them, for comparison
    """

    seats: tuple[Seat, ...]
    noise: Noise | None = None
    seed: int = 0
    combiner: Combiner = field(default_factory=Weighted)
    shapers: Mapping[str, Shaper] = field(default_factory=dict)
    gold: Gold | None = None

    @property
    def sources(self) -> tuple[RewardSource, ...]:
        """Everyone who may be asked."""
        return (*(seat.source for seat in self.seats), *([self.gold.seat.source] if self.gold else []))

    async def judge(self, group: Group, tools: Toolbox) -> ScoredGroup:
        """One verdict per rollout. Raises `RunFailed` where a seat's policy says so."""
        scored, gold = await asyncio.gather(self._rewarded(group, tools), self._gold(group, tools))
        verdicts = scored.verdicts
        if gold:
            verdicts = tuple(replace(v, gold=gold[i]) if i in gold else v for i, v in enumerate(verdicts))
        return ScoredGroup(group, verdicts)

    async def _gold(self, group: Group, tools: Toolbox) -> dict[int, Score]:
        """The gold source's score of each rollout that it is asked about, by its place."""
        if self.gold is None:
            return {}
        chosen = self.gold.chosen(self.seed, group.id, len(group.rollouts))
        asked = replace(group, rollouts=tuple(group.rollouts[i] for i in chosen))
        return dict(zip(chosen, await _ask(self.gold.seat, asked, tools), strict=True)) if chosen else {}

    async def _rewarded(self, group: Group, tools: Toolbox) -> ScoredGroup:
        asked = await asyncio.gather(*(_ask(seat, group, tools) for seat in self.seats))
        columns = [_settle(seat, group, scores) for seat, scores in zip(self.seats, asked, strict=True)]
        scored = shape(self._combined(group, columns), self.shapers)
        if self.noise is not None:
            noisy = shape(self._combined(group, await self._disturbed(self.noise, group, columns)), self.shapers)
            pairs = zip(noisy.verdicts, scored.verdicts, strict=True)
            scored = ScoredGroup(group, tuple(replace(v, clean=clean.reward) for v, clean in pairs))
        return scored

    async def _disturbed(self, noise: Noise, group: Group, columns: Sequence[Sequence[Score]]) -> list[Sequence[Score]]:
        """The scores with noise, once the latest of them is there."""
        out, late = [], 0.0
        for seat, scores in zip(self.seats, columns, strict=True):
            if noise.disturbs(seat.name, seat.weight):
                place = Place(self.seed, seat.name, bounds_of(seat.source), seat.timeout_s, group)
                noisy = noise.apply(place, scores)
                late = max(late, *(new.latency - old.latency for new, old in zip(noisy, scores, strict=True)))
                scores = noisy
            out.append(scores)
        if late > 0:
            await asyncio.sleep(late)
        return out

    def _combined(self, group: Group, columns: Sequence[Sequence[Score]]) -> ScoredGroup:
        """Every rollout's verdict before it is shaped: one reward, or why there is none."""
        dropped = self._dropped(group, columns)
        rows = [
            {seat.name: _weighted(seat, column[i]) for seat, column in zip(self.seats, columns, strict=True)}
            for i in range(len(group.rollouts))
        ]
        steps = [_steps(rollout.failure, row) for rollout, row in zip(group.rollouts, rows, strict=True)]
        failures = [found if isinstance(found, Failure) else dropped for found in steps]
        kept = [i for i, failure in enumerate(failures) if failure is None]
        judged = group if len(kept) == len(rows) else replace(group, rollouts=tuple(group.rollouts[i] for i in kept))
        counted = [{name: score for name, score in rows[i].items() if score.weight} for i in kept]
        rewards = dict(zip(kept, self.combiner.combine(judged, counted), strict=True))
        verdicts = []
        for i, (row, found, failure) in enumerate(zip(rows, steps, failures, strict=True)):
            if failure or isinstance(found, Failure):
                verdicts.append(Verdict(None, row, failure=failure))
            else:
                verdicts.append(Verdict(rewards[i], row, found.steps, ends=found.ends))
        return ScoredGroup(group, tuple(verdicts))

    def _dropped(self, group: Group, columns: Sequence[Sequence[Score]]) -> Failure | None:
        """The first failure of a `drop_group` seat. A rollout that failed by itself is no source's failure."""
        for seat, scores in zip(self.seats, columns, strict=True):
            if seat.weight and seat.on_failure == "drop_group":
                for rollout, score in zip(group.rollouts, scores, strict=True):
                    if score.failure and not rollout.failure:
                        return score.failure
        return None


async def _ask(seat: Seat, group: Group, tools: Toolbox) -> list[Score]:
    """One seat's scores for the group, after its retries."""
    silent = Score(failure=Failure(f"source:{seat.name}", "abstained", "the rollout itself failed"))
    scores = [silent] * len(group.rollouts)
    whole = getattr(seat.source, "whole_groups", False)  # it compares: asked about a part it would say something else
    waiting = [i for i, rollout in enumerate(group.rollouts) if not rollout.failure]
    for _ in range(1 + seat.retries):
        if not waiting:
            break
        asked = replace(group, rollouts=tuple(group.rollouts[i] for i in waiting))
        for i, score in zip(waiting, await _ask_once(seat, asked, tools), strict=True):
            scores[i] = score
        missing = [i for i in waiting if scores[i].failure]
        waiting = waiting if missing and whole else missing
    return scores


async def _ask_once(seat: Seat, group: Group, tools: Toolbox) -> list[Score]:
    n, border, start = len(group.rollouts), f"source:{seat.name}", time.perf_counter()

    def failed(failure: Failure) -> list[Score]:
        return [Score(failure=failure, latency=time.perf_counter() - start)] * n

    clock = asyncio.timeout(seat.timeout_s)
    try:
        async with clock:
            answer = await seat.source.score(group, tools)
    except Exception as error:  # noqa: BLE001 - the border: any judge's error becomes data
        if clock.expired():
            return failed(Failure(border, "timeout", f"no answer in {seat.timeout_s:g} s"))
        return failed(as_failure(error, border))
    if not isinstance(answer, Sequence) or not all(isinstance(score, Score) for score in answer):
        return failed(Failure(border, "malformed", f"expected a sequence of Score, not {type(answer).__name__}"))
    if len(answer) != n:
        return failed(Failure(border, "malformed", f"{len(answer)} scores for {n} rollouts"))
    latency = (time.perf_counter() - start) / n
    return [_signed(score, border, latency) for score in answer]


def _signed(score: Score, border: str, latency: float) -> Score:
    """The score with the source's name on its failure, its time, and no step reward that is not a number."""
    latency = score.latency or latency
    if score.steps is not None and (wrong := _wrong_steps(score.steps, score.ends)):
        return Score(failure=Failure(border, "malformed", wrong), latency=latency)
    return replace(score, latency=latency, failure=score.failure and replace(score.failure, border=border))


def _wrong_steps(steps: np.ndarray, ends: np.ndarray | None) -> str | None:
    if not np.isfinite(steps).all():
        return "a step reward is not finite"
    if ends is None or len(ends) != len(steps):
        return f"{len(steps)} step rewards, with {'no' if ends is None else len(ends)} places where they end"
    return None


class _Steps(NamedTuple):
    """Step rewards f32[K] and where they end i32[K], or neither."""

    steps: np.ndarray | None = None
    ends: np.ndarray | None = None


def _steps(failure: Failure | None, row: Mapping[str, Score]) -> _Steps | Failure:
    """One rollout's step rewards; or the first failure of: its own, a rewarding seat's."""
    found = _Steps()
    for name, score in row.items():
        if not score.weight:
            continue
        failure = failure or score.failure
        if score.steps is None or score.ends is None:
            continue
        steps = score.weight * score.steps
        if found.steps is None or found.ends is None:
            found = _Steps(steps, score.ends)
        elif np.array_equal(found.ends, score.ends):
            found = _Steps(found.steps + steps, score.ends)
        else:
            detail = f"{len(steps)} steps, which end elsewhere than the {len(found.steps)} of another source"
            failure = failure or Failure(f"source:{name}", "malformed", detail)
    return failure or found


def _weighted(seat: Seat, score: Score) -> Score:
    return score if score.weight == seat.weight else replace(score, weight=seat.weight)


def _settle(seat: Seat, group: Group, scores: Sequence[Score]) -> Sequence[Score]:
    """Apply the seat's failure policy to the scores that are still missing. A failed rollout keeps its failure."""
    if seat.on_failure not in ("substitute", "abort"):
        return scores
    settled = []
    for rollout, score in zip(group.rollouts, scores, strict=True):
        if score.failure and not rollout.failure:
            if seat.on_failure == "abort":
                raise RunFailed(f"reward source {seat.name!r} failed and its policy is abort: {score.failure}")
            reason = f"substituted {seat.substitute:g} ({score.failure})"
            score = replace(score, value=seat.substitute, failure=None, explanation=reason)
        settled.append(score)
    return settled
