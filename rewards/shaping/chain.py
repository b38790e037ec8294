"""One shaping step after the other over a group's verdicts, with what each of them changed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from rewards.ports import Shaper
from rewards.types import Failure, ScoredGroup, Verdict


def shape(scored: ScoredGroup, shapers: Mapping[str, Shaper]) -> ScoredGroup:
    """The group after all shapers, in their order. Rollouts without a reward stay as they are.

    A reward that comes out not finite is a failure of border "shape:NAME".
    """
    for name, shaper in shapers.items():
        kept = [i for i, verdict in enumerate(scored.verdicts) if verdict.failure is None]
        before = [scored.verdicts[i] for i in kept]
        if not before:
            return scored
        judged = replace(scored.group, rollouts=tuple(scored.group.rollouts[i] for i in kept))
        verdicts = list(scored.verdicts)
        for i, old, new in zip(kept, before, shaper.shape(judged, before), strict=True):
            verdicts[i] = changed(name, old, new)
        scored = ScoredGroup(scored.group, tuple(verdicts))
    return scored


def changed(name: str, old: Verdict, new: Verdict) -> Verdict:
    """The new verdict, with what the shaping step of this name added to the rollout's total."""
    if old.total is None or new.total is None:
        return new
    if not math.isfinite(new.total):
        detail = f"a reward of {new.total} after {old.total:g}"
        return Verdict(None, old.scores, failure=Failure(f"shape:{name}", "malformed", detail))
    return replace(new, combined=old.unshaped, shaped={**old.shaped, name: new.total - old.total})


def with_steps(verdict: Verdict, steps: np.ndarray) -> Verdict:
    """The verdict with other step rewards, in float32 as they travel."""
    return replace(verdict, steps=steps.astype(np.float32))


def with_reward(verdict: Verdict, reward: float) -> Verdict:
    """The verdict with another reward for the whole."""
    return replace(verdict, reward=float(reward))
