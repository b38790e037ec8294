"""Labelled data to audit a reward source on: JSONL (or a JSON array, either gzipped), a task and its answers a row.

RewardBench  {"prompt", "chosen", "rejected", "subset"}                  a pair
RM-Bench     {"prompt", "chosen": [3], "rejected": [3], "subset"}        plain, detailed, detailed with markdown: as
             many of both, each more embellished than the one before
HH-RLHF      {"chosen", "rejected"}: whole dialogues                     a pair
our own      {"prompt" or "messages", "answers": [{"text", "label"}], "reference"?, "subset"?}
             label: a number, or true and false; two answers of one task with different labels are a pair
steps        {"prompt" or "messages", "answers": [{"steps": [texts], "step_labels": [0 to 1, or true and false]}], ...}
             an answer is its steps, one after the other, and is as good as the worst of them where it has no label
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.refusals import said
from pipeline.tasks.preferences import by_steps, whole_pair
from rewards.errors import Refused
from rewards.types import Message, Rated, Task


@dataclass(frozen=True)
class Labelled:
    """A task, its answers, and how good each is known to be.

    styles  how embellished each answer is beside the others; empty where nothing says so
    steps   each answer's step labels, and where in its text they end; empty where none are given
    """

    task: Task
    texts: tuple[str, ...]
    labels: tuple[float, ...]
    subset: str = "all"
    styles: tuple[int, ...] = ()
    steps: tuple[tuple[float, ...], ...] = ()
    ends: tuple[tuple[int, ...], ...] = ()


def read_labelled(path: Path) -> list[Labelled]:
    """Every row of the file. Raises `Refused` with file and row for one without labels, and for a file without rows."""
    rows = _rows(path)
    if not rows:
        raise Refused(f"{path}: no rows in it, expected labelled answers")
    return [_labelled(f"{path}:{number}", str(number), row) for number, row in enumerate(rows, 1)]


def _rows(path: Path) -> list[Any]:
    if not path.is_file():
        raise Refused(f"--data {path}: there is no such file")
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"--data {path}: can't be read as text: {error}") from None
    if text.lstrip().startswith("["):
        try:
            return list(json.loads(text))
        except json.JSONDecodeError as error:
            raise Refused(f"{path}:{error.lineno}: no JSON: {error.msg}") from None
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise Refused(f"{path}:{number}: no JSON: {error.msg}") from None
    return rows


def _labelled(where: str, name: str, row: Any) -> Labelled:
    if not isinstance(row, Mapping):
        raise Refused(f"{where}: expected a row with keys, found {said(row)}")
    styles: tuple[int, ...] = ()
    if "answers" in row:
        rated = _own(where, row["answers"])
        messages = _messages(where, row)
    elif not {"chosen", "rejected"} <= row.keys():
        raise Refused(
            f"{where}: no labels: expected `chosen` and `rejected`, or `answers` with a label each; found {said(row)}"
        )
    elif "prompt" in row or "messages" in row:
        good, bad = (_texts(where, row, key) for key in ("chosen", "rejected"))
        rated = [*(Rated(text, 1.0) for text in good), *(Rated(text, 0.0) for text in bad)]
        styles = (*range(len(good)), *range(len(bad))) if len(good) == len(bad) > 1 else ()
        messages = _messages(where, row)
    else:
        messages, better, worse = whole_pair(where, dict(row), "chosen", "rejected")
        rated = [Rated(better, 1.0), Rated(worse, 0.0)]
    stepped = any(one.steps for one in rated)
    return Labelled(
        Task(str(row.get("id", name)), messages, row.get("reference")),
        tuple(one.text for one in rated),
        tuple(one.rating for one in rated),
        str(row.get("subset", row.get("domain", "all"))),
        styles,
        tuple(one.steps for one in rated) if stepped else (),
        tuple(one.ends for one in rated) if stepped else (),
    )


def _messages(where: str, row: Mapping[str, Any]) -> tuple[Message, ...]:
    if isinstance(row.get("prompt"), str):
        return (Message("user", row["prompt"]),)
    given = row.get("messages", row.get("prompt"))
    if not isinstance(given, list) or not all(isinstance(m, dict) and {"role", "content"} <= m.keys() for m in given):
        raise Refused(f"{where}: expected `prompt`, a text, or `messages` with role and content; found {said(given)}")
    return tuple(Message(m["role"], m["content"]) for m in given)


def _texts(where: str, row: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = row[key]
    found = value if isinstance(value, list) else [value]
    if not found or not all(isinstance(text, str) for text in found):
        raise Refused(f"{where}: {key}: expected a text or several, found {said(value)}")
    return tuple(found)


def _own(where: str, answers: Any) -> list[Rated]:
    if not isinstance(answers, list) or not answers:
        raise Refused(f"{where}: answers: expected a list of answers, found {said(answers)}")
    return [_rated(f"{where}: answer {place}", answer) for place, answer in enumerate(answers, 1)]


def _rated(where: str, answer: Any) -> Rated:
    if not isinstance(answer, Mapping) or not ("steps" in answer or isinstance(answer.get("text"), str)):
        raise Refused(f"{where}: expected `text` and `label`, or `steps` and `step_labels`, found {said(answer)}")
    if "steps" in answer:
        if "step_labels" not in answer:
            raise Refused(f"{where} has no `step_labels`: expected one for each of its steps")
        found = by_steps(where, dict(answer), "steps", "step_labels")
        if "label" not in answer:
            return found
    else:
        found = Rated(answer["text"], 0.0)
    label = answer.get("label")
    if not isinstance(label, int | float) or not math.isfinite(label):
        raise Refused(f"{where} has no label: expected a number or true/false, found {said(label)}")
    return replace(found, rating=float(label))
