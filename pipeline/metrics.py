"""What the driver itself measures. Every name logged here or by the learner is explained in pipeline/README.md."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rewards.types import Score, ScoredGroup


def group_metrics(groups: Sequence[ScoredGroup]) -> dict[str, float]:
    """Rewards, failures and lengths of a step's groups. A mean over nothing is left out, never 0."""
    verdicts = [verdict for scored in groups for verdict in scored.verdicts]
    rewards = np.array([v.reward for v in verdicts if v.reward is not None])
    rollouts = [rollout for scored in groups for rollout in scored.group.rollouts]
    asked = [verdict for verdict, rollout in zip(verdicts, rollouts, strict=True) if not rollout.failure]
    out = {
        "rollout/failed": 1 - len(asked) / len(rollouts),
        "reward/failed": 1 - len(rewards) / len(verdicts),
        "reward/groups_without_signal": float(np.mean([len(scored.worths) < 2 for scored in groups])),
    }
    if len(rewards):
        out |= {"reward/mean": float(rewards.mean()), "reward/std": float(rewards.std())}
    # A judge that died has no scores at all; a rollout that failed by itself no source was asked about.
    for name in dict.fromkeys(name for verdict in asked for name in verdict.scores):
        out |= _source_metrics(name, [verdict.scores[name] for verdict in asked if name in verdict.scores])
    out |= _shape_metrics(groups)
    turns = [rollout.turns[-1] for rollout in rollouts if rollout.turns]
    if turns:
        out["rollout/tokens_mean"] = float(np.mean([len(turn.completion_ids) for turn in turns]))
        out["rollout/truncated"] = float(np.mean([turn.stop == "length" for turn in turns]))
    return out


def without_signal(rewards: Sequence[float | None]) -> bool:
    """Whether a group's rewards hold fewer than two different numbers."""
    return len({reward for reward in rewards if reward is not None}) < 2


def _shape_metrics(groups: Sequence[ScoredGroup]) -> dict[str, float]:
    """What shaping did, over the judged rollouts: steps, what each shaper added, and how often the order turned."""
    judged = [verdict for scored in groups for verdict in scored.verdicts if verdict.reward is not None]
    out: dict[str, float] = {}
    steps = [verdict.steps for verdict in judged if verdict.steps is not None]
    if steps:
        out["reward/steps"] = float(np.mean([len(one) for one in steps]))
        out["reward/step_sum"] = float(np.mean([one.sum(dtype=np.float64) for one in steps]))
    for name in dict.fromkeys(name for verdict in judged for name in verdict.shaped):
        out[f"reward/shape/{name}"] = float(np.mean([v.shaped[name] for v in judged if name in v.shaped]))
    if any(verdict.shaped for verdict in judged):
        turned, ordered = np.sum([_turned(scored) for scored in groups], axis=0)
        out |= {"reward/shape_turned": float(turned / ordered)} if ordered else {}
    return out


def _turned(scored: ScoredGroup) -> tuple[int, int]:
    """Pairs of a group whose order by total is the other way round than by the unshaped reward; pairs with an order."""
    judged = [verdict for verdict in scored.verdicts if verdict.reward is not None]
    before = np.array([verdict.unshaped for verdict in judged], np.float64)
    after = np.array([verdict.total for verdict in judged], np.float64)
    above = before[:, None] > before[None, :]
    return int((above & (after[:, None] < after[None, :])).sum()), int(above.sum())


def _source_metrics(name: str, scores: Sequence[Score]) -> dict[str, float]:
    values = [score.value for score in scores if score.value is not None]
    prefix = f"reward/source/{name}"
    out = {
        f"{prefix}/failed": 1 - len(values) / len(scores),
        f"{prefix}/latency": float(np.mean([score.latency for score in scores])),
    }
    if values:
        out[f"{prefix}/mean"] = float(np.mean(values))
    if any(score.cost for score in scores):
        out[f"{prefix}/cost"] = float(sum(score.cost for score in scores))
    if any(score.tokens for score in scores):
        out[f"{prefix}/tokens"] = float(sum(score.tokens for score in scores))
    return out
