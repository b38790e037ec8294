"""A reward for thinking longer (RLSP, arXiv 2502.06773): the simplest of its exploration rewards.

    R <- R - min(scale / n, most)        n tokens that the policy wrote

The paper's scale is 1000 (its code's default 20) and its penalty has no bound: then a right answer of 500 tokens is
worth less than a wrong one of 5,000. `most` bounds it; `reward/shape_turned` counts how often the order turns. n are
tokens here, characters over 4 in its code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt

from rewards.shaping.chain import with_reward
from rewards.shaping.overlong import written
from rewards.types import Group, Verdict


@dataclass(frozen=True)
class Exploration:
    """Less for a short answer: scale over its number of tokens.

    scale  the penalty of an answer of one token, before it is bounded
    most   the largest penalty
    """

    scale: Annotated[float, Gt(0)] = 20.0
    most: Annotated[float, Gt(0)] = 1.0

    def shape(self, group: Group, verdicts: Sequence[Verdict]) -> Sequence[Verdict]:
        """See `Shaper.shape`."""
        pairs = zip(group.rollouts, verdicts, strict=True)
        return [
            with_reward(v, (v.reward or 0.0) - min(self.scale / max(1, written(rollout)), self.most))
            for rollout, v in pairs
        ]
