"""Rubrics: weighted criteria, read from a task or a file, checked by code or by a judge, or written by contrast."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rewards.errors import nearest

_LINE = re.compile(r"\s*(?:[-*]\s*|\d+[.)]\s*)?\[\s*([-+]?\d+(?:\.\d+)?)\s*\]\s*(\S.*)")
_JSON = re.compile(r"\s*(?:\{|\[\s*[{\"\]])")
_RULE = re.compile(r"(\w+)\s*:\s*(.*)", re.DOTALL)


@dataclass(frozen=True)
class Criterion:
    """What an answer must do, and what that is worth; a negative weight is for what it must not do.

    rule  checked by code in place of a judge: "contains: TEXT", "matches: REGEX", "max_words: N", "min_words: N",
          "max_chars: N" or "equals: TEXT"
    """

    text: str
    weight: float = 1.0
    rule: str = ""


def parse_rubric(text: str) -> tuple[Criterion, ...]:
    """The criteria of a rubric: JSON (a list of objects with `criterion` and, if they have them, `weight` or `points`
    and `rule`; or of texts), or lines ("[2] criterion", "- criterion").

    Raises `ValueError` where there is no criterion, one of no form, a weight that is 0 or no number, a rule that is
    none, the same criterion twice, or nothing to gain.
    """
    found = _of_json(text) if _JSON.match(text) else _of_lines(text)
    if not found:
        raise ValueError("a rubric without criteria")
    known: dict[str, float] = {}
    for criterion in found:
        if not math.isfinite(criterion.weight) or not criterion.weight:
            raise ValueError(f"criterion {criterion.text[:60]!r}: weight {criterion.weight:g}, expected another number")
        key = " ".join(criterion.text.lower().split())
        if key in known:
            against = (
                "" if known[key] == criterion.weight else f", with weights {known[key]:g} and {criterion.weight:g}"
            )
            raise ValueError(f"criterion {criterion.text[:60]!r} stands there twice{against}")
        known[key] = criterion.weight
        if criterion.rule:
            compiled(criterion.rule)
    if not any(criterion.weight > 0 for criterion in found):
        raise ValueError("no criterion has a positive weight: the best answer would be one that does nothing")
    return tuple(found)


def _of_json(text: str) -> list[Criterion]:
    try:
        rows = json.loads(text)
    except ValueError as error:
        raise ValueError(f"no JSON: {error}") from None
    rows = rows.get("rubric", rows.get("criteria")) if isinstance(rows, Mapping) else rows
    if not isinstance(rows, list):
        raise ValueError("expected a list of criteria")  # noqa: TRY004 - of a file, not of a caller
    return [_criterion(row, i) for i, row in enumerate(rows, 1)]


def _criterion(row: Any, number: int) -> Criterion:
    if isinstance(row, str):
        return Criterion(row)
    if not isinstance(row, Mapping) or not isinstance(row.get("criterion", row.get("description")), str):
        found = f"expected an object with `criterion`, found {str(row)[:60]!r}"
        raise ValueError(f"criterion {number}: {found}")  # noqa: TRY004
    weight = row.get("weight", row.get("points", 1.0))
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise ValueError(f"criterion {number}: weight {weight!r}, expected a number")  # noqa: TRY004
    return Criterion(str(row.get("criterion", row.get("description"))), float(weight), str(row.get("rule", "")))


def _of_lines(text: str) -> list[Criterion]:
    out = []
    for line in filter(str.strip, text.splitlines()):
        match = _LINE.fullmatch(line)
        bare = re.sub(r"^\s*(?:[-*]|\d+[.)])\s*", "", line).strip()
        out.append(Criterion(match[2].strip(), float(match[1])) if match else Criterion(bare))
    return [criterion for criterion in out if criterion.text]


RULES = ("contains", "equals", "matches", "max_chars", "max_words", "min_words")


def compiled(rule: str) -> tuple[str, Any]:
    """The rule's kind, and what it compares with. Raises `ValueError` where it is none."""
    match = _RULE.fullmatch(rule.strip())
    if match is None or match[1] not in RULES:
        kind = match[1] if match else rule
        raise ValueError(f"rule {rule[:60]!r}: {nearest(kind, RULES)}, as in 'max_words: 50'")
    kind, given = match[1], match[2].strip()
    if kind.startswith(("max", "min")):
        if not given.isdigit():
            raise ValueError(f"rule {rule[:60]!r}: expected a whole number")
        return kind, int(given)
    if kind == "matches":
        try:
            re.compile(given)
        except re.error as error:
            raise ValueError(f"rule {rule[:60]!r}: no regular expression: {error}") from None
    return kind, given


def obeys(rules: Sequence[str], text: str) -> list[bool]:
    """Whether the text obeys each rule. For a helper process: an expression may take for ever."""
    return [_obeys(*compiled(rule), text) for rule in rules]


def _obeys(kind: str, given: Any, text: str) -> bool:
    match kind:
        case "contains":
            return given.lower() in text.lower()
        case "equals":
            return given == text.strip()
        case "matches":
            return re.search(given, text, re.MULTILINE) is not None
        case "max_words":
            return len(text.split()) <= given
        case "min_words":
            return len(text.split()) >= given
        case _:
            return len(text) <= given


def total(criteria: Sequence[Criterion], met: Sequence[bool], normalise: bool) -> float:
    """The signed sum of the met criteria's weights (ORBIT, arXiv 2510.15859); normalised: over the sum of the positive
    ones (HealthBench, arXiv 2505.08775), without its clipping at 0."""
    gained = sum(c.weight for c, fulfilled in zip(criteria, met, strict=True) if fulfilled)
    return gained / sum(c.weight for c in criteria if c.weight > 0) if normalise else gained
