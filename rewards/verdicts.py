"""Reading what judges write: the one place where text becomes a verdict, or nothing.

A verdict stands at the end of the answer, once, in double brackets: [[7]], [[A]], [[7, 3]], or as \\boxed{...}; on many
things there is a line each, "1. [[yes]]". What a judge thinks before `</think>` is no verdict; two different ones are
none; none is an abstention, never a number.

A candidate may write such things too, for the judge to repeat. So everything shown to a judge is `defused` first: what
it quotes can't be read as its own words.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from typing import Any

TAIL = 80  # characters at the end in which a verdict has to stand (RM-R1, arXiv 2505.02387)
_MARKED = re.compile(r"\[\[([^\[\]]*)\]\]|\\boxed\{([^{}]*)\}")
_NUMBER = re.compile(r"\s*([-+]?\d+(?:\.\d+)?)(?:\s*/\s*(\d+(?:\.\d+)?))?\s*")
_LINE = re.compile(
    r"\W*(\d+)\b[^\[\]]*\[\[\W*(yes|no|true|false|met|unmet|not met|good|bad|right|wrong)\W*\]\]\W*", re.IGNORECASE
)
_YES = {"yes", "true", "met", "good", "right"}
_LIVE = (
    (re.compile(r"\[(?=\[)"), "[ "),
    (re.compile(r"\](?=\])"), "] "),
    (re.compile(r"\\(?=boxed)"), "\\ "),
    (re.compile(r"<(?=\||/?(?:think|answer|score|eval|rubric|solution|type|s>|/s>))", re.IGNORECASE), "< "),
    (re.compile(r"\[(?=/?(?:INST|End of|Start of))", re.IGNORECASE), "[ "),
    (re.compile(r"\b(Observation|Action|Action Input|Thought|Tool)[ \t]*:", re.IGNORECASE), r"\1 -"),
    (re.compile(r"best-to-worst", re.IGNORECASE), "best to worst"),
)


def defused(text: str) -> str:
    """The text with all that could pass for a verdict, a tool's answer, a chat template's mark or an end of quotation
    taken apart by a space; otherwise as it was."""
    for pattern, instead in _LIVE:
        text = pattern.sub(instead, text)
    return text


def said(text: str) -> str | None:
    """What stands after a judge's thoughts; None where it was still thinking."""
    before, closed, after = text.rpartition("</think>")
    if closed:
        return after.strip()
    return None if "<think>" in before + after else text.strip()


def marked(text: str, tail: int = TAIL) -> str | None:
    """The one verdict at the end; None where there is none, or several that differ."""
    answer = said(text)
    if answer is None:
        return None
    found = {(a or b).strip() for a, b in _MARKED.findall(answer[-tail:])}
    return found.pop() if len(found) == 1 else None


def number(text: str, low: float, high: float) -> float | None:
    """A score from low to high: 7, 7.5, or 7/10 where high is 10."""
    return _number(marked(text), low, high)


def choice(text: str, options: Sequence[str]) -> str | None:
    """One of the options, by its name."""
    found = marked(text)
    return next((option for option in options if found is not None and option.lower() == found.lower()), None)


def numbers(text: str, n: int, low: float, high: float) -> list[float] | None:
    """n scores, in order."""
    found = marked(text, TAIL + 8 * n)
    values = [_number(part, low, high) for part in found.split(",")] if found else []
    out = [value for value in values if value is not None]
    return out if len(out) == len(values) == n else None


def answers(text: str, n: int) -> list[bool] | None:
    """Yes or no to each of n numbered questions, one a line ("3. [[yes]]"); None where one is missing or answered in
    two ways."""
    found: dict[int, set[bool]] = {}
    for line in (said(text) or "").splitlines():
        if match := _LINE.fullmatch(line.strip()):
            found.setdefault(int(match[1]), set()).add(match[2].lower() in _YES)
    if sorted(found) != list(range(1, n + 1)) or any(len(ways) > 1 for ways in found.values()):
        return None
    return [found[i].pop() for i in range(1, n + 1)]


def ranking(text: str, names: Sequence[str], low: float, high: float) -> list[float] | None:
    """The names' scores, in the names' order, from RewardAnything's JSON (arXiv 2506.03637):
    {"scores": {name: score}, "best-to-worst": [name, ...]}.

    Single quotes, unquoted names, trailing commas and text around it are put up with; a name too many or too few, a
    score out of range, or a ranking against the scores are not.
    """
    read = _json(said(text) or "")
    scores, order = (read.get("scores"), read.get("best-to-worst")) if isinstance(read, dict) else (None, None)
    if not isinstance(scores, dict) or not isinstance(order, list):
        return None
    if sorted(map(str, scores)) != sorted(names) or sorted(map(str, order)) != sorted(names):
        return None
    values = {name: _number(str(score), low, high) for name, score in scores.items()}
    out = [value for name in names if (value := values[name]) is not None]
    if len(out) < len(names):
        return None
    ranked = [values[name] or 0.0 for name in order]
    return out if ranked == sorted(ranked, reverse=True) else None


def _number(text: str | None, low: float, high: float) -> float | None:
    match = _NUMBER.fullmatch(text) if text is not None else None
    if match is None or (match[2] and float(match[2]) != high):
        return None
    value = float(match[1])
    return value if low <= value <= high else None


def _json(text: str) -> Any:
    """The last object in braces, read with patience; None where there is none."""
    start, end = _outer_braces(text)
    body = text[start:end]
    quoted = re.sub(r"([{,]\s*)([A-Za-z][\w-]*)(\s*:)", r'\1"\2"\3', body)
    for attempt in (body, re.sub(r",(\s*[}\]])", r"\1", quoted)):
        for read in (json.loads, ast.literal_eval):
            try:
                return read(attempt)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
    return None


def _outer_braces(text: str) -> tuple[int, int]:
    """Where the last outermost pair of braces begins and ends."""
    depth, start, found = 0, 0, (0, 0)
    for i, c in enumerate(text):
        if c == "{":
            start = start if depth else i
            depth += 1
        elif c == "}" and depth:
            depth -= 1
            found = found if depth else (start, i + 1)
    return found
