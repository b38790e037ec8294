"""From judged groups to samples. No reward, no sample: what could not be judged is counted, never zero."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from rewards.errors import RunFailed
from rewards.types import Rollout, ScoredGroup, Verdict
from workers.types import Sample


def to_samples(groups: Sequence[ScoredGroup]) -> list[Sample]:
    """One sample per judged rollout, in the groups' order.

    A rollout of several turns is one sequence: each turn's prompt continues the one before it, and only the
    tokens that the policy wrote are its own. Raises `RunFailed` for a reward that is not a finite number.
    """
    return [
        _sample(scored.group.id, rollout, verdict)
        for scored in groups
        for rollout, verdict in zip(scored.group.rollouts, scored.verdicts, strict=True)
        if _judged(scored, rollout.index, verdict)
    ]


def _judged(scored: ScoredGroup, index: int, verdict: Verdict) -> bool:
    if verdict.reward is not None and not math.isfinite(verdict.reward):
        parts = ", ".join(f"{name} {score.value} x {score.weight:g}" for name, score in verdict.scores.items())
        raise RunFailed(
            f"task {scored.group.task.id!r}, rollout {index}: reward {verdict.reward}, expected a finite number; from "
            f"{parts}"
        )
    return verdict.reward is not None


def _sample(group: int, rollout: Rollout, verdict: Verdict) -> Sample:
    ids: list[np.ndarray] = []
    mask: list[np.ndarray] = []
    logp: list[np.ndarray] = []
    length = 0
    for turn in rollout.turns:
        fresh = turn.prompt_ids[length:]
        ids += [fresh, turn.completion_ids]
        mask += [np.zeros(len(fresh), bool), np.ones(len(turn.completion_ids), bool)]
        logp += [np.zeros(len(fresh), np.float32), turn.logprobs]
        length = len(turn.prompt_ids) + len(turn.completion_ids)
    step_ends = None if verdict.ends is None else _step_ends(rollout, verdict.ends)
    return Sample(
        group=group,
        index=rollout.index,
        ids=np.concatenate(ids),
        mask=np.concatenate(mask),
        logp_rollout=np.concatenate(logp),
        reward=verdict.reward,
        steps=verdict.steps,
        scores=verdict.scores,
        version=min(turn.version for turn in rollout.turns),
        step_ends=step_ends,
    )


def _step_ends(rollout: Rollout, ends: np.ndarray) -> np.ndarray:
    """i32[K]: from places in the last turn's text to the own tokens that hold the steps' last characters."""
    *before, last = rollout.turns
    if last.offsets is None:
        raise RunFailed(
            "a reward source gave step rewards and never said that it judges steps; expected "
            "`judges_steps: ClassVar[bool] = True` in its class"
        )
    places = np.searchsorted(last.offsets, ends, side="left")
    return (np.minimum(places, len(last.offsets) - 1) + sum(len(turn.completion_ids) for turn in before)).astype(
        np.int32
    )
