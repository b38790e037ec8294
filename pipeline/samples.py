"""From judged groups to samples. No reward, no sample: what could not be judged is counted, never zero."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rewards.types import Rollout, ScoredGroup
from workers.types import Sample


def to_samples(groups: Sequence[ScoredGroup]) -> list[Sample]:
    """One sample per judged rollout, in the groups' order.

    A rollout of several turns is one sequence: each turn's prompt continues the one before it, and only the
    tokens that the policy wrote are its own.
    """
    return [
        _sample(scored.group.id, rollout, verdict.reward, verdict.steps)
        for scored in groups
        for rollout, verdict in zip(scored.group.rollouts, scored.verdicts, strict=True)
        if verdict.reward is not None
    ]


def _sample(group: int, rollout: Rollout, reward: float, steps: np.ndarray | None) -> Sample:
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
    return Sample(
        group=group,
        index=rollout.index,
        ids=np.concatenate(ids),
        mask=np.concatenate(mask),
        logp_rollout=np.concatenate(logp),
        reward=reward,
        steps=steps,
        version=min(turn.version for turn in rollout.turns),
    )
