"""A penalty on answers that end in a loop (MiroMind-M1's repetition critic, arXiv 2507.14683).

    R <- R - penalty f(o)        f(o) the share of the answer's tokens inside the loop that it ends in, 0 to 1

Algorithm `campo` subtracts the same f with penalty 1; this is for all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from rewards.repetition import loop_share
from rewards.shaping.chain import with_reward
from rewards.types import Group, Rollout, Verdict


@dataclass(frozen=True)
class Repetition:
    """Less for an answer by the share of its tokens in the loop that it ends in.

    penalty  what an answer that is nothing but a loop loses
    """

    penalty: Annotated[float, Ge(0)] = 1.0

    def shape(self, group: Group, verdicts: Sequence[Verdict]) -> Sequence[Verdict]:
        """See `Shaper.shape`."""
        pairs = zip(group.rollouts, verdicts, strict=True)
        return [with_reward(v, (v.reward or 0.0) - self.penalty * looped(rollout)) for rollout, v in pairs]


def looped(rollout: Rollout) -> float:
    """f(o) of the rollout's last turn."""
    ids = rollout.turns[-1].completion_ids.tolist()
    return loop_share(ids) if ids else 0.0
