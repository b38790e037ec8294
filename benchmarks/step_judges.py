"""A judge of steps for the laptop world, which stands for a process reward model where none is to be trained.

It looks at one equation at a time and not at the task, as a model trained on steps alone would: `4+0+0=4` is a good
step of any scratchpad, however often it is written. That is what an optimiser finds.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rewards.ports import Toolbox
from rewards.steps import Steps, step_score
from rewards.types import Group, Score

_STEPS = Steps(by="regex", at="[,.]", tail=False)


@dataclass(frozen=True)
class Equations:
    """1.0 for every equation that is true, 0.0 for every other step; the answer after the last dot is no step."""

    judges_steps: ClassVar[bool] = True

    async def score(self, group: Group, tools: Toolbox) -> Sequence[Score]:
        return [step_score([holds(s) for s in _STEPS.texts(r.text)], _STEPS.ends(r.text)) for r in group.rollouts]


def holds(step: str) -> float:
    """Whether the step is a sum or difference of numbers and its true result."""
    found = re.fullmatch(r"(\d{1,4}(?:[+-]\d{1,4})*)=(\d{1,5})[,.]", step)
    if found is None:
        return 0.0
    terms = re.findall(r"[+-]?\d+", found[1])
    return float(sum(map(int, terms)) == int(found[2]))
