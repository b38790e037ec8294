"""Labelled data to audit a reward source on: JSONL (or a JSON array, either gzipped), a task and its answers a row.

RewardBench  {"prompt", "chosen", "rejected", "subset"}                  a pair
RM-Bench     {"prompt", "chosen": [3], "rejected": [3], "subset"}        plain, detailed, detailed with markdown
HH-RLHF      {"chosen", "rejected"}: whole dialogues                     a pair
our own      {"prompt" or "messages", "answers": [{"text", "label"}], "reference"?, "subset"?}
             label: a number, or true and false; two answers of one task with different labels are a pair
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.refusals import said
from pipeline.tasks.preferences import whole_pair
from rewards.errors import Refused
from rewards.types import Message, Task


@dataclass(frozen=True)
class Labelled:
    """A task, its answers, and how good each is known to be."""

    task: Task
    texts: tuple[str, ...]
    labels: tuple[float, ...]
    subset: str = "all"


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
    if "answers" in row:
        texts, labels = _own(where, row["answers"])
        messages = _messages(where, row)
    elif not {"chosen", "rejected"} <= row.keys():
        raise Refused(
            f"{where}: no labels: expected `chosen` and `rejected`, or `answers` with a label each; found {said(row)}"
        )
    elif "prompt" in row or "messages" in row:
        good, bad = (_texts(where, row, key) for key in ("chosen", "rejected"))
        texts, labels = (*good, *bad), (*(1.0 for _ in good), *(0.0 for _ in bad))
        messages = _messages(where, row)
    else:
        messages, good, bad = whole_pair(where, dict(row), "chosen", "rejected")
        texts, labels = (good, bad), (1.0, 0.0)
    task = Task(str(row.get("id", name)), messages, row.get("reference"))
    return Labelled(task, texts, labels, str(row.get("subset", row.get("domain", "all"))))


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


def _own(where: str, answers: Any) -> tuple[tuple[str, ...], tuple[float, ...]]:
    if not isinstance(answers, list) or not answers:
        raise Refused(f"{where}: answers: expected a list of answers, found {said(answers)}")
    texts, labels = [], []
    for place, answer in enumerate(answers, 1):
        if not isinstance(answer, Mapping) or not isinstance(answer.get("text"), str):
            raise Refused(f"{where}: answer {place}: expected `text` and `label`, found {said(answer)}")
        label = answer.get("label")
        if not isinstance(label, int | float) or not math.isfinite(label):
            raise Refused(f"{where}: answer {place} has no label: expected a number or true/false, found {said(label)}")
        texts.append(answer["text"])
        labels.append(float(label))
    return tuple(texts), tuple(labels)
