"""Tasks from a table: a file, a directory or a hub data set, with its columns mapped to a task's fields."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any

from annotated_types import Gt

from pipeline.streams import stream
from pipeline.tasks.cells import cell, conversation, text_of
from pipeline.tasks.preferences import answer, by_steps, rated_pair, rating, whole_pair
from pipeline.tasks.readers import Row, read
from pipeline.tasks.types import TaskSets
from rewards.errors import Refused
from rewards.types import Message, Rated, Task

PROMPT = "{prompt}"


@dataclass(frozen=True)
class Columns:
    """Which column holds what; one of `prompt` and `messages`, or `chosen` and `rejected` with the prompt in them.
    Columns not named here go to the task's meta.

    prompt         text: one user message
    messages       a list of {role, content}; a last message of the assistant's is the demonstration
    reference      text or a whole number: the right answer
    demonstration  text: a written-out answer to imitate
    rubric         text: criteria for a judge
    chosen         the better of two answers, which is the demonstration too: text or messages, the prompt in front of
                   it where there is neither `prompt` nor `messages`
    rejected       the other one
    chosen_rating, rejected_rating  numbers: how good they are; 1 and 0 without
    rating         a number, or true/false: how good the demonstration is; of several columns the first says so, the
                   others are its attributes, by their names
    steps          a list of texts that the demonstration consists of
    step_labels    a list of as many numbers, or true/false: how good each step is
    """

    prompt: str | None = None
    messages: str | None = None
    reference: str | None = None
    demonstration: str | None = None
    rubric: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    chosen_rating: str | None = None
    rejected_rating: str | None = None
    rating: str | tuple[str, ...] | None = None
    steps: str | None = None
    step_labels: str | None = None

    @property
    def named(self) -> set[str]:
        """The columns that are mapped."""
        columns = [getattr(self, field.name) for field in fields(self) if field.name != "rating"]
        return {column for column in columns if column is not None} | set(self.ratings)

    @property
    def ratings(self) -> tuple[str, ...]:
        """The columns that rate the demonstration, the one for its worth first."""
        return (self.rating,) if isinstance(self.rating, str) else self.rating or ()


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
        self._check_columns(self.columns)
        if PROMPT not in self.prompt_template:
            raise Refused(f"data.prompt_template {self.prompt_template!r}: no {PROMPT} in it")
        if self.prompt_template != PROMPT and self.columns.prompt is None:
            raise Refused("data.prompt_template: given without data.columns.prompt")
        if self.reference_after is not None and self.columns.reference is None:
            raise Refused("data.reference_after: given without data.columns.reference")

    def _check_columns(self, columns: Columns) -> None:
        whole = columns.chosen is not None and columns.prompt is None and columns.messages is None
        if (columns.prompt is None) == (columns.messages is None) and not whole:
            found = "neither" if columns.prompt is None else "both"
            raise Refused(f"data.columns: {found} of prompt and messages given, expected one of them")
        for key, other in (
            ("chosen", "rejected"),
            ("rejected", "chosen"),
            ("chosen_rating", "rejected_rating"),
            ("rejected_rating", "chosen_rating"),
            ("chosen_rating", "chosen"),
            ("steps", "step_labels"),
            ("step_labels", "steps"),
        ):
            if getattr(columns, key) is not None and getattr(columns, other) is None:
                raise Refused(f"data.columns.{key}: given without data.columns.{other}")
        if columns.steps is not None and columns.demonstration is not None:
            raise Refused("data.columns.steps: given with data.columns.demonstration, expected one of the two")
        for key in ("demonstration", "rating", "steps"):
            if columns.chosen is not None and getattr(columns, key) is not None:
                raise Refused(f"data.columns.{key}: given with data.columns.chosen, expected one of the two")

    def _enough(self, available: int, chosen: int) -> None:
        if self.held_out and (chosen < self.held_out or available < self.held_out):
            raise Refused(f"data.held_out: {self.held_out} tasks, expected at most {available} (rows there are)")

    def _tasks(self, name: str, rows: Iterable[Row]) -> tuple[Task, ...]:
        return tuple(self._task(f"{name}#{number}", *row) for number, row in enumerate(rows, 1))

    def _task(self, id: str, where: str, row: dict[str, Any]) -> Task:
        columns = self.columns
        messages, demonstration, answers = self._asked(where, row)
        if self.system is not None and messages[0].role != "system":
            messages = (Message("system", self.system), *messages)
        return Task(
            id=id,
            messages=messages,
            reference=None if columns.reference is None else self._reference(where, row, columns.reference),
            demonstration=demonstration,
            rubric=None if columns.rubric is None else text_of(where, row, "rubric", columns.rubric),
            answers=answers,
            meta={column: value for column, value in row.items() if column not in columns.named},
        )

    def _asked(self, where: str, row: dict[str, Any]) -> tuple[tuple[Message, ...], str | None, tuple[Rated, ...]]:
        """The conversation up to the policy's turn, the answer to imitate, and the answers to compare."""
        columns, demonstration = self.columns, None
        if columns.chosen is not None and columns.prompt is None and columns.messages is None:
            messages, good, bad = whole_pair(where, row, columns.chosen, str(columns.rejected))
            return messages, good, rated_pair(where, good, bad, self._ratings(where, row))
        if columns.prompt is not None:
            text = text_of(where, row, "prompt", columns.prompt)
            messages = (Message("user", self.prompt_template.replace(PROMPT, text)),)
        else:
            messages, demonstration = conversation(where, cell(where, row, "messages", str(columns.messages)))
        given = columns.demonstration or columns.chosen or columns.steps
        if given is not None and demonstration is not None:
            key = "demonstration" if columns.demonstration else "chosen" if columns.chosen else "steps"
            raise Refused(f"{where}: the messages end with the assistant's, and data.columns.{key} is given")
        if columns.chosen is not None:
            good = answer(where, row, "chosen", columns.chosen)
            bad = answer(where, row, "rejected", str(columns.rejected))
            return messages, good, rated_pair(where, good, bad, self._ratings(where, row))
        if columns.demonstration is not None:
            demonstration = text_of(where, row, "demonstration", columns.demonstration)
        labelled = None
        if columns.steps is not None:
            labelled = by_steps(where, row, columns.steps, str(columns.step_labels))
            demonstration = labelled.text
        if not columns.ratings:
            return messages, demonstration, () if labelled is None else (labelled,)
        if demonstration is None:
            raise Refused(f"{where}: nothing that data.columns.rating rates; name data.columns.demonstration")
        rated = labelled or Rated(demonstration, 0.0)
        whole, *further = (rating(where, row, "rating", column) for column in columns.ratings)
        attributes = dict(zip(columns.ratings[1:], further, strict=True))
        return messages, demonstration, (replace(rated, rating=whole, attributes=attributes),)

    def _ratings(self, where: str, row: dict[str, Any]) -> tuple[float, float]:
        chosen, rejected = self.columns.chosen_rating, self.columns.rejected_rating
        if chosen is None or rejected is None:
            return 1.0, 0.0
        return rating(where, row, "chosen_rating", chosen), rating(where, row, "rejected_rating", rejected)

    def _reference(self, where: str, row: dict[str, Any], column: str) -> str:
        value = cell(where, row, "reference", column)
        whole = isinstance(value, int) and not isinstance(value, bool)
        text = str(value) if whole else text_of(where, row, "reference", column)
        if self.reference_after is None:
            return text
        _, marker, after = text.rpartition(self.reference_after)
        if not marker:
            raise Refused(f"{where}: no {self.reference_after!r} (data.reference_after) in column {column!r}")
        if not after.strip():
            raise Refused(f"{where}: nothing after the last {marker!r} (data.reference_after) in column {column!r}")
        return after.strip()
