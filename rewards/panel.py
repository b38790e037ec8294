"""The panel asks every seat at once and makes one verdict per rollout.

The failure policy of the judges' floor, on one page:

    a source raises, times out, dies or abstains  ->  a `Failure` that names it, for the rollouts asked about
    `retries`                                     ->  only those rollouts are asked about again, that many times
    `on_failure` when there still is no score:
        mask         the rollout gets no reward (and is never learned from)
        drop_group   no rollout of the group gets a reward
        substitute   the seat's `substitute` value stands in, and the score says so
        abort        `RunFailed`: the run ends with the source's name

A seat of weight 0 only watches: `mask` and `drop_group` take no reward away for its sake.
What the policies leave may then be disturbed on purpose (`noise.py`), before it is added up.
This is the one place where a judge's error becomes data, hence its broad except.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from rewards.errors import RunFailed
from rewards.failures import as_failure
from rewards.noise import Noise, Place, bounds_of
from rewards.ports import RewardSource, Toolbox
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
    """The seats of one stage. The reward is the weighted sum of the seats' values.

    noise  errors to put into the scores before they are added up
    seed   of the run and the stage, for what is drawn
    """

    seats: tuple[Seat, ...]
    noise: Noise | None = None
    seed: int = 0

    async def judge(self, group: Group, tools: Toolbox) -> ScoredGroup:
        """One verdict per rollout. Raises `RunFailed` where a seat's policy says so."""
        asked = await asyncio.gather(*(_ask(seat, group, tools) for seat in self.seats))
        columns = [_settle(seat, group, scores) for seat, scores in zip(self.seats, asked, strict=True)]
        verdicts = self._verdicts(group, columns)
        if self.noise is not None:
            noisy = self._verdicts(group, await self._disturbed(self.noise, group, columns))
            verdicts = tuple(replace(v, clean=clean.reward) for v, clean in zip(noisy, verdicts, strict=True))
        return ScoredGroup(group, verdicts)

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

    def _verdicts(self, group: Group, columns: Sequence[Sequence[Score]]) -> tuple[Verdict, ...]:
        dropped = self._dropped(group, columns)
        return tuple(
            self._verdict(rollout.failure, dropped, [column[i] for column in columns])
            for i, rollout in enumerate(group.rollouts)
        )

    def _verdict(self, failure: Failure | None, dropped: Failure | None, row: Sequence[Score]) -> Verdict:
        """One rollout's verdict; the first failure of: its own, a rewarding seat's, one that drops the group."""
        reward, steps = 0.0, None
        for seat, score in zip(self.seats, row, strict=True):
            if not seat.weight:
                continue
            failure = failure or score.failure
            if score.value is not None:
                reward += seat.weight * score.value
            if score.steps is not None:
                weighted = seat.weight * score.steps
                if steps is not None and len(steps) != len(weighted):
                    detail = f"{len(weighted)} step rewards, where another source gave {len(steps)}"
                    failure = failure or Failure(f"source:{seat.name}", "malformed", detail)
                    continue
                steps = weighted if steps is None else steps + weighted
        failure = failure or dropped
        scores = {seat.name: _weighted(seat, score) for seat, score in zip(self.seats, row, strict=True)}
        return Verdict(None if failure else reward, scores, None if failure else steps, failure)

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
    waiting = [i for i, rollout in enumerate(group.rollouts) if not rollout.failure]
    for _ in range(1 + seat.retries):
        if not waiting:
            break
        asked = replace(group, rollouts=tuple(group.rollouts[i] for i in waiting))
        for i, score in zip(waiting, await _ask_once(seat, asked, tools), strict=True):
            scores[i] = score
        waiting = [i for i in waiting if scores[i].failure]
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
    if score.steps is not None and not np.isfinite(score.steps).all():
        return Score(failure=Failure(border, "malformed", "a step reward is not finite"), latency=latency)
    return replace(score, latency=latency, failure=score.failure and replace(score.failure, border=border))


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
