"""The answer is JSON that a schema accepts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, best_match

from rewards.failures import abstained, one_line
from rewards.ports import Case, Toolbox
from rewards.types import Group, Score, Task

_BLOCK = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Schema:
    """1.0 for an answer that is JSON and fits the schema, else 0.0. Of fenced blocks the last one is the answer.

    json_schema  JSON Schema, draft 2020-12; without one the task's own is used
    column       the task's column that holds it, as text or as a section
    gold, foil   an answer it must accept and one it must not, for the self-check
    """

    json_schema: dict[str, Any] = field(default_factory=dict)
    column: str = "schema"
    gold: str | None = None
    foil: str | None = None

    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def __post_init__(self) -> None:
        """Raises `ValueError` for a schema that is none."""
        try:
            Draft202012Validator.check_schema(self.json_schema)
        except SchemaError as error:
            raise ValueError(f"json_schema: {error.json_path}: {one_line(error.message)}") from None

    async def score(self, group: Group, tools: Toolbox) -> Sequence[Score]:
        """One score per rollout; abstains where the task should bring its schema and does not."""
        text = json.dumps(self.json_schema) if self.json_schema else self._own(group.task)
        if text is None:
            return [abstained(f"task {group.task.id!r} has no column {self.column!r}")] * len(group.rollouts)
        try:
            validator = _validator(text)
        except (SchemaError, ValueError) as error:
            detail = f"task {group.task.id!r}: its {self.column!r} is no JSON Schema: {one_line(str(error))[:100]}"
            return [abstained(detail)] * len(group.rollouts)
        return [self._one(rollout.text, validator) for rollout in group.rollouts]

    def _own(self, task: Task) -> str | None:
        given = task.meta.get(self.column)
        return json.dumps(given) if isinstance(given, Mapping | bool) else given

    def _one(self, text: str, validator: Draft202012Validator) -> Score:
        blocks = _BLOCK.findall(text)
        try:
            value = json.loads(blocks[-1] if blocks else text)
        except (ValueError, RecursionError) as error:
            return Score(0.0, explanation=f"no JSON: {one_line(error)}")
        error = best_match(validator.iter_errors(value))
        if error is None:
            return Score(1.0)
        return Score(0.0, explanation=f"{error.json_path}: {one_line(error.message)}")

    def case(self, task: Task) -> Case | None:
        """The answers given in the config, where both are."""
        return None if self.gold is None or self.foil is None else Case(task, self.gold, self.foil)


@lru_cache(maxsize=1024)
def _validator(text: str) -> Draft202012Validator:
    schema = json.loads(text)
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)
