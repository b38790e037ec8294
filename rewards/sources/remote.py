"""Rewards from a service over HTTP."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

from rewards.declared import Service
from rewards.failures import abstained, malformed
from rewards.ports import Toolbox
from rewards.types import Group, Score


@dataclass(frozen=True)
class Remote:
    """A service that scores a group's answers.

    service  where it is
    form     what it is sent and answers, as JSON. assay: {"task": {"id", "messages", "reference", "rubric", "meta"},
             "answers": [text, ...]} to {"scores": [number, null (could not judge), or {"value", "explanation", "parts",
             "cost"} or {"abstained": why}, ...]}. openrlhf: {"query": [prompt and answer, ...], "prompts", "labels"}
             to {"rewards": [number, ...]}, as OpenRLHF's remote reward models
    """

    service: Service
    form: Literal["assay", "openrlhf"] = "assay"

    def __post_init__(self) -> None:
        """Raises `ValueError` where there is no address."""
        if not self.service.url:
            raise ValueError("service.url: none given, expected an address")

    async def score(self, group: Group, tools: Toolbox) -> Sequence[Score]:
        """One score per rollout; what fits no schema is malformed, each item by itself where it can be."""
        texts, task, n = [rollout.text for rollout in group.rollouts], group.task, len(group.rollouts)
        messages = [{"role": m.role, "content": m.content} for m in task.messages]
        if self.form == "openrlhf":
            prompt = "\n".join(m.content for m in task.messages)
            payload = {"query": [prompt + t for t in texts], "prompts": [prompt] * n, "labels": [task.reference] * n}
        else:
            about = {"id": task.id, "messages": messages, "reference": task.reference, "rubric": task.rubric}
            payload = {"task": {**about, "meta": _plain(task.meta)}, "answers": texts}
        answer = await tools.post(self.service, payload)
        key = "rewards" if self.form == "openrlhf" else "scores"
        found = answer.get(key) if isinstance(answer, Mapping) else None
        if not isinstance(found, list) or len(found) != n:
            detail = f"expected {{{key!r}: [{n} of them]}}, not {str(answer)[:100]}"
            return [malformed(detail)] * n
        return [_score(one) for one in found]


def _plain(value: Any) -> Any:
    """What JSON can say of a task's other columns; anything else as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def _score(one: Any) -> Score:
    fields = one if isinstance(one, Mapping) else {"value": one}
    if "abstained" in fields:
        return abstained(str(fields["abstained"]))
    value, parts, cost = fields.get("value"), fields.get("parts", {}), fields.get("cost", 0.0)
    if value is None:
        return abstained("the service could not judge it")
    if not _number(value) or not _number(cost):
        return malformed(f"expected a finite number, not {value!r}")
    if not isinstance(parts, Mapping) or not all(_number(part) for part in parts.values()):
        return malformed(f"parts: expected numbers by name, not {str(parts)[:80]}")
    told = {str(name): float(part) for name, part in parts.items()}
    return Score(float(value), explanation=str(fields.get("explanation", "")), parts=told, cost=float(cost))


def _number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
