"""DAPO's soft punishment of long answers (arXiv 2503.14476, eq. 13), for any algorithm.

    R <- R - penalty min(max(n - (limit - buffer), 0) / buffer, 1)        n own tokens of the answer

With `buffer: 0` only an answer that the token limit cut off loses the whole penalty (Tulu 3, arXiv 2411.15124, takes 10
from an answer that does not end). `overlong_buffer` of the policy gradients is the same line, in the algorithm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from rewards.shaping.chain import with_reward
from rewards.types import Group, Rollout, Verdict


@dataclass(frozen=True)
class Overlong:
    """Less for an answer that comes near the token limit, or that is cut off by it.

    limit    tokens that an answer can have (rollout.max_new_tokens)
    buffer   the last tokens before it, over which the penalty grows; 0: only what was cut off is punished
    penalty  what is taken at the limit
    """

    limit: Annotated[int, Ge(0)] = 0
    buffer: Annotated[int, Ge(0)] = 0
    penalty: Annotated[float, Ge(0)] = 1.0

    def __post_init__(self) -> None:
        """Raises `ValueError` for a buffer that is longer than the limit."""
        if self.buffer > self.limit:
            found = f"{self.buffer} with limit {self.limit}"
            raise ValueError(f"buffer: {found}, expected at most limit, which is rollout.max_new_tokens")

    def shape(self, group: Group, verdicts: Sequence[Verdict]) -> Sequence[Verdict]:
        """See `Shaper.shape`."""
        pairs = zip(group.rollouts, verdicts, strict=True)
        return [with_reward(v, (v.reward or 0.0) - self.penalty * self._taken(rollout)) for rollout, v in pairs]

    def _taken(self, rollout: Rollout) -> float:
        if not self.buffer:
            return float(rollout.turns[-1].stop == "length")
        return overlong(written(rollout), self.limit, self.buffer)


def overlong(tokens: int, limit: int, buffer: int) -> float:
    """The share of the buffer before `limit` that a response of so many tokens has used up, 0 to 1.

    DAPO (arXiv 2503.14476), eq. 13, without its minus sign.
    """
    return min(max(tokens - (limit - buffer), 0) / buffer, 1.0)


def written(rollout: Rollout) -> int:
    """How many tokens the policy wrote, over all turns."""
    return sum(len(turn.completion_ids) for turn in rollout.turns)
