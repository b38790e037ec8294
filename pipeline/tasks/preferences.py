"""The answers of a row that are learned from by comparison: a pair with its ratings, or one answer that is rated.

A pair comes in one of three forms. With a prompt (or messages up to the policy's turn) chosen and rejected are two
answers, texts or lists with one assistant's message. Without, they are two conversations, lists of messages that
differ in the last one only; or two texts, whose common beginning is the prompt (up to where its last word ends).
"""

from __future__ import annotations

import math
from typing import Any

from pipeline.tasks.cells import cell, conversation, kind_of, text_of
from rewards.errors import Refused
from rewards.types import Message, Rated

Row = dict[str, Any]


def whole_pair(where: str, row: Row, chosen: str, rejected: str) -> tuple[tuple[Message, ...], str, str]:
    """(prompt, chosen answer, rejected answer) of two whole conversations. Raises `Refused` with file and line."""
    good, bad = _side(where, row, "chosen", chosen), _side(where, row, "rejected", rejected)
    if isinstance(good, str) != isinstance(bad, str):
        raise Refused(
            f"{where}: column {chosen!r} is {kind_of(good)} and {rejected!r} {kind_of(bad)}, expected both alike"
        )
    if isinstance(good, str):
        start = _common(good, bad)
        if not good[:start].strip():
            hint = "expected the same prompt in both, or data.columns.prompt"
            raise Refused(f"{where}: columns {chosen!r} and {rejected!r} have no common beginning, {hint}")
        return (Message("user", good[:start]),), good[start:], bad[start:]
    (prompt, better), (other, worse) = conversation(where, good), conversation(where, bad)
    for column, answer in ((chosen, better), (rejected, worse)):
        if answer is None:
            raise Refused(f"{where}: column {column!r} ends with no message of the assistant's, expected the answer")
    if prompt != other:
        raise Refused(
            f"{where}: columns {chosen!r} and {rejected!r} differ before their last message, expected one prompt"
        )
    return prompt, str(better), str(worse)


def answer(where: str, row: Row, key: str, column: str) -> str:
    """The answer of a row that has its prompt elsewhere: text, or a list with one message of the assistant's."""
    value = _side(where, row, key, column)
    if isinstance(value, list):
        only = value[0] if len(value) == 1 and isinstance(value[0], dict) else {}
        if only.get("role") != "assistant" or not isinstance(only.get("content"), str):
            found = f"a list of {len(value)}"
            raise Refused(
                f"{where}: column {column!r} (data.columns.{key}) is {found}, expected one message of the assistant's"
            )
        value = only["content"]
    if not value.strip():
        raise Refused(f"{where}: column {column!r} (data.columns.{key}) is empty")
    return value


def rated_pair(where: str, good: str, bad: str, ratings: tuple[float, float]) -> tuple[Rated, Rated]:
    """Raises `Refused` for equal answers, and for ratings that contradict which of them was chosen."""
    if good == bad:
        raise Refused(f"{where}: the chosen and the rejected answer are equal ({good[:40]!r}), expected two")
    if ratings[0] <= ratings[1]:
        said = f"the chosen answer is rated {ratings[0]:g} and the rejected one {ratings[1]:g}"
        raise Refused(f"{where}: {said}, expected the chosen one's rating above the other's")
    return Rated(good, ratings[0]), Rated(bad, ratings[1])


def rating(where: str, row: Row, key: str, column: str) -> float:
    """A number, or true and false as 1 and 0; CSV has them as text."""
    value = cell(where, row, key, column)
    named = {"true": 1.0, "false": 0.0}
    try:
        found = named[value.lower()] if isinstance(value, str) and value.lower() in named else float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        shown = repr(value[:40]) if isinstance(value, str) else kind_of(value)
        raise Refused(f"{where}: column {column!r} (data.columns.{key}) is {shown}, expected a number or true/false")
    return found


def by_steps(where: str, row: Row, column: str, labels: str) -> Rated:
    """An answer by its steps, each with its label; the answer is as good as its worst step."""
    steps, given = cell(where, row, "steps", column), cell(where, row, "step_labels", labels)
    for key, name, value in (("steps", column, steps), ("step_labels", labels, given)):
        if not isinstance(value, list) or not value:
            found = "an empty list" if value == [] else kind_of(value)
            raise Refused(
                f"{where}: column {name!r} (data.columns.{key}) is {found}, expected a list, one for each step"
            )
    if len(steps) != len(given):
        raise Refused(f"{where}: {len(steps)} steps in column {column!r}, but {len(given)} labels in {labels!r}")
    found = tuple(rating(f"{where}, step {k}", {labels: one}, "step_labels", labels) for k, one in enumerate(given, 1))
    ends, text = [], ""
    for k, (step, label) in enumerate(zip(steps, found, strict=True), 1):
        if not isinstance(step, str) or not step.strip():
            said = kind_of(step) if not isinstance(step, str) else "empty"
            raise Refused(f"{where}, step {k}: column {column!r} (data.columns.steps) is {said}, expected text")
        if not 0 <= label <= 1:
            raise Refused(f"{where}, step {k}: label {label:g} in column {labels!r}, expected 0 (wrong) to 1 (right)")
        text += step
        ends.append(len(text))
    return Rated(text, min(found), steps=found, ends=tuple(ends))


def _side(where: str, row: Row, key: str, column: str) -> Any:
    value = cell(where, row, key, column)
    if not isinstance(value, list):
        return text_of(where, row, key, column)
    if not value:
        raise Refused(f"{where}: column {column!r} (data.columns.{key}) is an empty list, expected messages")
    return value


def _common(a: str, b: str) -> int:
    """How many characters both begin with, not counting a word that they only begin with."""
    n = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    ends = all(len(text) == n or text[n].isspace() for text in (a, b))
    while not ends and n and not a[n - 1].isspace():
        n -= 1
    return n - (n > 0 and not ends and a[n - 1] == " ")
