"""The panel asks every seat at once and makes one verdict per rollout.

The failure policy of the judges' floor, on one page:

    a source raises, times out, dies or abstains  ->  a `Failure` that names it, for the rollouts asked about
    `retries`                                     ->  only those rollouts are asked again, that many times
    `on_failure` when it still has no score:
        mask         the rollout gets no reward (and is never learned from)
        drop_group   no rollout of the group gets a reward
        substitute   the seat's `substitute` value stands in, and the score says so
        abort        `RunFailed`: the run ends with the source's name

This is the one place where a judge's error becomes data, hence its broad except.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rewards.errors import RunFailed
from rewards.ports import RewardSource, Toolbox
from rewards.types import Failure, Group, Score, ScoredGroup, Verdict

OnFailure = Literal["mask", "drop_group", "substitute", "abort"]


@dataclass(frozen=True, slots=True)
class Seat:
    """One source at the table.

    weight      its factor in the reward; 0 watches without rewarding
    limit_s     seconds one question about a group may take
    retries     how often the rollouts without a score are asked about again
    """

    name: str
    source: RewardSource
    weight: float = 1.0
    limit_s: float = 60.0
    retries: int = 0
    on_failure: OnFailure = "mask"
    substitute: float = 0.0


@dataclass(frozen=True, slots=True)
class Panel:
    """The seats of one stage. The reward is the weighted sum of the seats' values."""

    seats: tuple[Seat, ...]

    async def judge(self, group: Group, tools: Toolbox) -> ScoredGroup:
        """One verdict per rollout. Raises `RunFailed` where a seat's policy says so."""
        columns = await asyncio.gather(*(_ask(seat, group, tools) for seat in self.seats))
        verdicts = tuple(
            self._verdict(rollout.failure, [column[i] for column in columns])
            for i, rollout in enumerate(group.rollouts)
        )
        return ScoredGroup(group, self._drop_groups(verdicts))

    def _verdict(self, failure: Failure | None, row: Sequence[Score]) -> Verdict:
        scores = {seat.name: score for seat, score in zip(self.seats, row, strict=True)}
        reward, steps = 0.0, None
        for seat, score in zip(self.seats, row, strict=True):
            if not seat.weight:
                continue
            failure = failure or score.failure
            if score.value is not None:
                reward += seat.weight * score.value
            if score.steps is not None:
                weighted = seat.weight * score.steps
                steps = weighted if steps is None else steps + weighted
        return Verdict(None if failure else reward, scores, None if failure else steps, failure)

    def _drop_groups(self, verdicts: tuple[Verdict, ...]) -> tuple[Verdict, ...]:
        for seat in self.seats:
            failed = next((v.scores[seat.name].failure for v in verdicts if v.scores[seat.name].failure), None)
            if failed and seat.on_failure == "drop_group":
                return tuple(replace(v, reward=None, steps=None, failure=v.failure or failed) for v in verdicts)
        return verdicts


async def _ask(seat: Seat, group: Group, tools: Toolbox) -> list[Score]:
    """One seat's scores for the group, after its retries and its failure policy."""
    border = f"source:{seat.name}"
    scores: dict[int, Score] = {
        i: Score(failure=Failure(border, "abstained", "the rollout itself failed"))
        for i, rollout in enumerate(group.rollouts)
        if rollout.failure
    }
    open_ = [i for i in range(len(group.rollouts)) if i not in scores]
    for _ in range(1 + seat.retries):
        if not open_:
            break
        asked = replace(group, rollouts=tuple(group.rollouts[i] for i in open_))
        scores.update(zip(open_, await _ask_once(seat, border, asked, tools), strict=True))
        open_ = [i for i in open_ if scores[i].failure]
    return [
        _settle(seat, scores[i]) if not rollout.failure else scores[i] for i, rollout in enumerate(group.rollouts)
    ]


async def _ask_once(seat: Seat, border: str, group: Group, tools: Toolbox) -> Sequence[Score]:
    n, start = len(group.rollouts), time.perf_counter()

    def failed(kind: str, detail: str) -> list[Score]:
        return [Score(failure=Failure(border, kind, detail), latency=time.perf_counter() - start)] * n

    try:
        scores = await asyncio.wait_for(seat.source.score(group, tools), seat.limit_s)
    except TimeoutError:
        return failed("timeout", f"no answer in {seat.limit_s:g} s")
    except ChildProcessError as error:
        return failed("died", str(error) or "its process died")
    except Exception as error:  # noqa: BLE001 - the border: any judge's error becomes data
        return failed("error", f"{type(error).__name__}: {error}")
    if len(scores) != n:
        return failed("malformed", f"{len(scores)} scores for {n} rollouts")
    latency = (time.perf_counter() - start) / n
    return [
        replace(
            score,
            latency=score.latency or latency,
            failure=score.failure and replace(score.failure, border=border),
        )
        for score in scores
    ]


def _settle(seat: Seat, score: Score) -> Score:
    """Apply the seat's failure policy to a score that is still missing."""
    if score.failure is None:
        return score
    if seat.on_failure == "abort":
        raise RunFailed(f"reward source {seat.name!r} failed and its policy is abort: {score.failure}")
    if seat.on_failure == "substitute":
        return replace(
            score, value=seat.substitute, failure=None, explanation=f"substituted {seat.substitute:g} ({score.failure})"
        )
    return score
