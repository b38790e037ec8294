"""A plain Python function as a judge, in TRL's, verl's or OpenRLHF's signature, told apart by its parameter names.

TRL (`GRPOTrainer`'s reward_funcs):  fn(completions, **columns) -> list[float | None]
    once per group. Columns are the task's `meta` and `reference`, repeated for every completion; `prompts` and
    `completion_ids` (list[list[int]], the last turn's) come with them. A None means: could not judge.
verl (`custom_reward_function`):     compute_score(data_source, solution_str, ground_truth, extra_info) -> float | dict
    once per rollout. `data_source` and `extra_info` come from the task's `meta` ("" and {} where it has none),
    `ground_truth` is the reference. Of a dict, "score" is the value and its other numbers become parts.
OpenRLHF (`--remote_rm_url FILE`):   reward_func(queries, prompts, labels) -> list[float] | dict
    once per group. A query is prompt and answer together, the labels are the reference. Of a dict, "rewards" are the
    values, and lists of numbers among its "extra_logs" become parts.

Each may be async. A parameter that the function does not name, and has no ** for, is left out.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Gt

from rewards.errors import Refused
from rewards.failures import abstained, as_failure, malformed
from rewards.imports import ByName, load
from rewards.ports import Case, Toolbox
from rewards.types import Group, Score, Task


@dataclass(frozen=True)
class Function:
    """A function named by import path, run in helper processes: one that hangs or crashes is killed.

    path            package.module:name
    conversational  TRL functions only: prompts and completions are lists of {"role", "content"} messages, as TRL
                    passes them for conversational data sets; otherwise both are plain strings
    limit_s         seconds one call may take (the import of its module aside)
    gold, foil      an answer it must like and one it must like less, for the self-check
    """

    path: str
    conversational: bool = False
    limit_s: Annotated[float, Gt(0)] = 10.0
    gold: str | None = None
    foil: str | None = None

    helper_imports: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        """Raises `Refused` where the path does not import or the signature is none of the three."""
        style(load(self.path), self.path)

    async def score(self, group: Group, tools: Toolbox) -> Sequence[Score]:
        """One score per rollout; an item without a usable number fails alone."""
        function = ByName(self.path)
        kind = await tools.call(style, function, self.path, limit_s=self.limit_s)
        if kind != "verl":
            columns = self._columns(group) if kind == "trl" else _queries(group)
            values = await tools.call(_call, function, columns, limit_s=self.limit_s)
            values = _items(values) if kind == "openrlhf" else values
            if not isinstance(values, list) or len(values) != len(group.rollouts):
                return [malformed(f"expected a list of {len(group.rollouts)} rewards, not {values!r}")] * len(
                    group.rollouts
                )
        else:
            calls = (tools.call(_call, function, row, limit_s=self.limit_s) for row in _rows(group))
            values = await asyncio.gather(*calls, return_exceptions=True)
        return [_score(value) for value in values]

    def _columns(self, group: Group) -> dict[str, Any]:
        task, n = group.task, len(group.rollouts)
        texts = [rollout.text for rollout in group.rollouts]
        messages = [{"role": m.role, "content": m.content} for m in task.messages]
        return {
            **{name: [value] * n for name, value in task.meta.items()},
            "reference": [task.reference] * n,
            "prompts": [messages if self.conversational else "\n".join(m.content for m in task.messages)] * n,
            "completions": [[{"role": "assistant", "content": t}] for t in texts] if self.conversational else texts,
            "completion_ids": [r.turns[-1].completion_ids.tolist() if r.turns else [] for r in group.rollouts],
        }

    def case(self, task: Task) -> Case | None:
        """The answers given in the config, where both are."""
        return None if self.gold is None or self.foil is None else Case(task, self.gold, self.foil)


def style(function: Callable[..., Any], path: str) -> Literal["trl", "verl", "openrlhf"]:
    """Whose signature it is. Raises `Refused` for one that is neither."""
    if not callable(function):
        raise Refused(f"reward function {path!r}: expected a function, found {type(function).__name__}")
    names = list(inspect.signature(function).parameters)
    if "completions" in names:
        return "trl"
    if {"solution_str", "ground_truth"} <= set(names):
        return "verl"
    if {"queries", "prompts"} <= set(names):
        return "openrlhf"
    raise Refused(
        f"reward function {path!r} takes ({', '.join(names)}): expected TRL's (completions, **columns), "
        "verl's (data_source, solution_str, ground_truth, extra_info) or OpenRLHF's (queries, prompts, labels)"
    )


def _queries(group: Group) -> dict[str, Any]:
    prompt, n = "\n".join(m.content for m in group.task.messages), len(group.rollouts)
    queries = [prompt + rollout.text for rollout in group.rollouts]
    return {"queries": queries, "prompts": [prompt] * n, "labels": [group.task.reference] * n}


def _items(answer: Any) -> Any:
    """OpenRLHF's dict as one dict for each rollout; anything else as it is."""
    if not isinstance(answer, Mapping) or not isinstance(rewards := answer.get("rewards"), list):
        return answer
    logs = answer.get("extra_logs") or {}
    logs = {name: _plain(log) for name, log in logs.items()} if isinstance(logs, Mapping) else {}
    whole = {name: log for name, log in logs.items() if isinstance(log, list) and len(log) == len(rewards)}
    return [{"score": r, **{name: log[i] for name, log in whole.items()}} for i, r in enumerate(rewards)]


def _rows(group: Group) -> list[dict[str, Any]]:
    meta = group.task.meta
    shared = {
        "data_source": meta.get("data_source", ""),
        "ground_truth": group.task.reference,
        "extra_info": meta.get("extra_info", {}),
    }
    return [{**shared, "solution_str": rollout.text} for rollout in group.rollouts]


def _call(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Runs in the helper: the function's answer in plain Python numbers, so that no array type has to travel."""
    parameters = inspect.signature(function).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        arguments = {name: value for name, value in arguments.items() if name in parameters}
    answer = function(**arguments)
    if inspect.iscoroutine(answer):
        answer = asyncio.run(answer)
    if isinstance(answer, Mapping):
        return {
            str(name): {str(k): _plain(v) for k, v in value.items()} if isinstance(value, Mapping) else _plain(value)
            for name, value in answer.items()
        }
    answer = _plain(answer)
    return [_plain(value) for value in answer] if isinstance(answer, (list, tuple)) else answer


def _plain(value: Any) -> Any:
    """numpy's and torch's numbers and arrays as Python's."""
    return value.tolist() if hasattr(value, "tolist") else value


def _score(value: Any) -> Score:
    if isinstance(value, BaseException):
        return Score(failure=as_failure(value))
    parts: dict[str, float] = {}
    if isinstance(value, Mapping):
        parts = {name: float(v) for name, v in value.items() if name != "score" and isinstance(v, Real)}
        if "score" not in value:
            return malformed(f"a dict without 'score': it has {', '.join(value)}")
        value = value["score"]
    if value is None:
        return abstained("the function returned None")
    if not isinstance(value, Real) or not math.isfinite(value):
        return malformed(f"expected a finite number, not {value!r}")
    return Score(float(value), parts=parts)
