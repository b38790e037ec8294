"""A judge of steps for the laptop world: is what a column of the scratchpad says true? (`kind: step_function`)"""

from __future__ import annotations

import re

_COLUMN = re.compile(r"(\d+)((?:[+-]\d+)+)=(\d+)[,.]")


def true_steps(prompt: str, steps: list[str], reference: str | None) -> list[float]:
    """1.0 for a step that is a true equation, and for a last one that is a bare number (the answer); else 0.0.

    It looks at each step alone: a true equation that has nothing to do with the task counts as well. That is what a
    policy learns to exploit where such steps are simply added up.
    """
    last = len(steps) - 1
    return [1.0 if _true(step) or (k == last and k > 0 and step.isdecimal()) else 0.0 for k, step in enumerate(steps)]


def _true(step: str) -> bool:
    column = _COLUMN.fullmatch(step)
    if column is None:
        return False
    terms = re.findall(r"[+-]\d+", column[2])
    return int(column[1]) + sum(map(int, terms)) == int(column[3])
