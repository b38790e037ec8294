"""Tasks from a table: a file, a directory or a hub data set, with its columns mapped to a task's fields."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Gt

from pipeline.streams import stream
from pipeline.tasks.readers import Row, read
from pipeline.tasks.types import TaskSets
from rewards.errors import Refused, nearest
from rewards.types import Message, Task

PROMPT = "{prompt}"
ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class Columns:
    """Which column holds what; one of `prompt` and `messages`. Columns not named here go to the task's meta.

    prompt         text: one user message
    messages       a list of {role, content}; a last message of the assistant's is the demonstration
    reference      text or a whole number: the right answer
    demonstration  text: a written-out answer to imitate
    rubric         text: criteria for a judge
    """

    prompt: str | None = None
    messages: str | None = None
    reference: str | None = None
    demonstration: str | None = None
    rubric: str | None = None


@dataclass(frozen=True)
class Files:
    """A JSONL, JSON, CSV (each also .gz) or Parquet file, a directory or a hub data set.

    path             the file, or the hub's name
    columns          which column holds what
    subset, split    part of a directory or hub data set; files have none
    limit            how many rows of `path` are used, from its start
    held_out_path    where the evaluation tasks lie; `path` itself where only held_out_split is given
    held_out_split   split of held_out_path
    held_out         how many evaluation tasks, drawn by seed: from the held-out rows, where there are any (all of
                     them by default), else from the rows of `path`, which then don't train
    reference_after  keep of the reference what follows the last such marker ("####")
    prompt_template  what the user's message is, with the prompt column's text in place of {prompt}; a tokenizer
                     without a chat template sets nothing between the prompt and the answer
    system           system message for conversations that don't start with one
    """

    path: str
    columns: Columns = field(default_factory=Columns)
    subset: str | None = None
    split: str = "train"
    limit: Annotated[int, Gt(0)] | None = None
    held_out_path: str | None = None
    held_out_split: str | None = None
    held_out: Annotated[int, Gt(0)] | None = None
    reference_after: str | None = None
    prompt_template: str = PROMPT
    system: str | None = None

    def load(self, seed: int) -> TaskSets:
        """Raises `Refused` with file and line, or key, where a row can't be a task."""
        self._check()
        rng = stream(seed, "tasks.held_out")
        train = self._tasks("train", read(self.path, self.split, self.subset, self.limit))
        if self.held_out_path or self.held_out_split:
            rows = read(self.held_out_path or self.path, self.held_out_split or self.split, self.subset)
            held_out = self._tasks("held_out", rows)
            chosen = sorted(rng.permutation(len(held_out))[: self.held_out].tolist())
            self._enough(len(held_out), len(chosen))
            return TaskSets(train, tuple(held_out[i] for i in chosen))
        chosen = set(rng.permutation(len(train))[: self.held_out or 0].tolist())
        self._enough(len(train) - 1, len(chosen))
        return TaskSets(
            tuple(task for i, task in enumerate(train) if i not in chosen),
            tuple(task for i, task in enumerate(train) if i in chosen),
        )

    def _check(self) -> None:
        if (self.columns.prompt is None) == (self.columns.messages is None):
            found = "neither" if self.columns.prompt is None else "both"
            raise Refused(f"data.columns: {found} of prompt and messages given, expected one of them")
        if PROMPT not in self.prompt_template:
            raise Refused(f"data.prompt_template {self.prompt_template!r}: no {PROMPT} in it")
        if self.prompt_template != PROMPT and self.columns.prompt is None:
            raise Refused("data.prompt_template: given without data.columns.prompt")
        if self.reference_after is not None and self.columns.reference is None:
            raise Refused("data.reference_after: given without data.columns.reference")

    def _enough(self, available: int, chosen: int) -> None:
        if self.held_out and (chosen < self.held_out or available < self.held_out):
            raise Refused(f"data.held_out: {self.held_out} tasks, expected at most {available} (rows there are)")

    def _tasks(self, name: str, rows: Iterable[Row]) -> tuple[Task, ...]:
        return tuple(self._task(f"{name}#{number}", *row) for number, row in enumerate(rows, 1))

    def _task(self, id: str, where: str, row: dict[str, Any]) -> Task:
        columns, demonstration = self.columns, None
        if columns.prompt is not None:
            text = _text(where, row, "prompt", columns.prompt)
            messages = (Message("user", self.prompt_template.replace(PROMPT, text)),)
        else:
            messages, demonstration = _conversation(where, _cell(where, row, "messages", str(columns.messages)))
        if self.system is not None and messages[0].role != "system":
            messages = (Message("system", self.system), *messages)
        if columns.demonstration is not None:
            if demonstration is not None:
                raise Refused(
                    f"{where}: the messages end with the assistant's, and data.columns.demonstration is given"
                )
            demonstration = _text(where, row, "demonstration", columns.demonstration)
        used = {columns.prompt, columns.messages, columns.reference, columns.demonstration, columns.rubric}
        return Task(
            id=id,
            messages=messages,
            reference=None if columns.reference is None else self._reference(where, row, columns.reference),
            demonstration=demonstration,
            rubric=None if columns.rubric is None else _text(where, row, "rubric", columns.rubric),
            meta={column: value for column, value in row.items() if column not in used},
        )

    def _reference(self, where: str, row: dict[str, Any], column: str) -> str:
        value = _cell(where, row, "reference", column)
        whole = isinstance(value, int) and not isinstance(value, bool)
        text = str(value) if whole else _text(where, row, "reference", column)
        if self.reference_after is None:
            return text
        _, marker, after = text.rpartition(self.reference_after)
        if not marker:
            raise Refused(f"{where}: no {self.reference_after!r} (data.reference_after) in column {column!r}")
        if not after.strip():
            raise Refused(f"{where}: nothing after the last {marker!r} (data.reference_after) in column {column!r}")
        return after.strip()


def _cell(where: str, row: dict[str, Any], key: str, column: str) -> Any:
    if column not in row:
        raise Refused(f"{where}: no column {column!r} (data.columns.{key}), {nearest(column, row)}")
    return row[column]


def _text(where: str, row: dict[str, Any], key: str, column: str) -> str:
    value = _cell(where, row, key, column)
    if not isinstance(value, str):
        raise Refused(f"{where}: column {column!r} (data.columns.{key}) is {_kind(value)}, expected text")
    if not value.strip():
        raise Refused(f"{where}: column {column!r} (data.columns.{key}) is empty")
    return value


def _conversation(where: str, value: Any) -> tuple[tuple[Message, ...], str | None]:
    """The messages up to the policy's turn, and the assistant's last message where there is one."""
    if not isinstance(value, list) or not value:
        found = "an empty list" if value == [] else _kind(value)
        raise Refused(f"{where}: messages are {found}, expected a list of objects with role and content")
    messages = tuple(_message(where, i, item) for i, item in enumerate(value))
    if messages[-1].role != "assistant":
        return messages, None
    if len(messages) == 1:
        raise Refused(f"{where}: one message, the assistant's; expected something to answer before it")
    return messages[:-1], messages[-1].content


def _message(where: str, i: int, item: Any) -> Message:
    place = f"{where}: messages[{i}]"
    if not isinstance(item, dict):
        raise Refused(f"{place} is {_kind(item)}, expected an object with role and content")
    for key in ("role", "content"):
        if not isinstance(item.get(key), str):
            raise Refused(f"{place}.{key} is {_kind(item.get(key))}, expected text")
    if item["role"] not in ROLES:
        raise Refused(f"{place}.role is {item['role']!r}, {nearest(item['role'], ROLES)}")
    if not item["content"].strip():
        raise Refused(f"{place}.content is empty")
    return Message(item["role"], item["content"])


def _kind(value: Any) -> str:
    names = {
        type(None): "null",
        bool: "true/false",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), "text" if isinstance(value, str) else f"a {type(value).__name__}")
