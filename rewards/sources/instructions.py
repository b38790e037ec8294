"""Instructions that a program can check: so many words, this key word, no comma (IFEval, arXiv 2311.07911).

A task names its instructions in a column: a list of sections, each with an `id` of the table below and that check's
arguments, as IFEval's `instruction_id_list` and `kwargs` do (those two columns are read as well).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from rewards.errors import nearest
from rewards.failures import abstained, one_line
from rewards.ports import Case, Toolbox
from rewards.sources.checks import CHECKS
from rewards.types import Group, Score, Task


@dataclass(frozen=True)
class Instructions:
    """The share of the task's instructions that the answer follows, or 1.0 only where it follows all.

    column      the task's column with its instructions
    every       all or nothing
    strictness  strict, or loose: an answer counts as well without its first line, its last, both, or its asterisks
    """

    column: str = "instructions"
    every: bool = False
    strictness: Literal["strict", "loose"] = "strict"

    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)

    async def score(self, group: Group, tools: Toolbox) -> Sequence[Score]:
        """One score per rollout; abstains where the task has no instructions, or one that is not in the table."""
        try:
            instructions = read(group.task, self.column)
        except ValueError as error:
            return [abstained(f"task {group.task.id!r}: {error}")] * len(group.rollouts)
        prompt = group.task.messages[-1].content if group.task.messages else ""
        return [self._one(rollout.text, prompt, instructions) for rollout in group.rollouts]

    def _one(self, text: str, prompt: str, instructions: Sequence[tuple[str, Mapping[str, Any]]]) -> Score:
        texts = [text, *(loosened(text) if self.strictness == "loose" else ())]
        parts: dict[str, float] = {}
        missed = []
        for name, arguments in instructions:
            try:
                held = any(one.strip() and CHECKS[name](one, prompt=prompt, **arguments) for one in texts)
            except (TypeError, ValueError, KeyError) as error:
                return abstained(f"instruction {name!r} with {dict(arguments)}: {one_line(error)}")
            key = name if name not in parts else f"{name}_{len(parts)}"
            parts[key] = float(held)
            if not held:
                missed.append(name)
        value = sum(parts.values()) / len(parts)
        explanation = f"not followed: {', '.join(missed)}" if missed else ""
        return Score(float(not missed) if self.every else value, explanation=explanation, parts=parts)

    def case(self, task: Task) -> Case | None:
        """The task's reference, which should follow them all, and an answer that says nothing."""
        return None if task.reference is None or self.column not in task.meta else Case(task, task.reference, "")


def read(task: Task, column: str) -> list[tuple[str, Mapping[str, Any]]]:
    """(id, arguments) of the task's instructions. Raises `ValueError` where there are none, or one is unknown."""
    given = task.meta.get(column)
    if given is None and "instruction_id_list" in task.meta:
        kwargs = task.meta.get("kwargs") or [{}] * len(task.meta["instruction_id_list"])
        pairs = zip(task.meta["instruction_id_list"], kwargs, strict=True)
        given = [{"id": name, **(arguments or {})} for name, arguments in pairs]
    if isinstance(given, str):
        given = json.loads(given)
    if not given or not isinstance(given, list | tuple):
        raise ValueError(f"no instructions in column {column!r}, expected a list of sections with an `id`")
    out = []
    for one in given:
        if not isinstance(one, Mapping) or one.get("id") not in CHECKS:
            name = one.get("id") if isinstance(one, Mapping) else one
            raise ValueError(f"unknown instruction {name!r}; {nearest(str(name), CHECKS)}")
        out.append((one["id"], {key: value for key, value in one.items() if key != "id" and value is not None}))
    return out


def loosened(text: str) -> list[str]:
    """The answer as it would be without what often wraps one."""
    lines = text.split("\n")
    cut = ["\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1])]
    return [one for whole in (text, *cut) for one in (whole, whole.replace("*", "")) if one != text]
