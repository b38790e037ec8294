"""math-verify, without its signals: for a helper process that someone else will kill. Imports sympy: 1.7 s."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from math_verify import parse, verify
from sympy import Basic, MatrixBase

for _name in ("math_verify.parser", "math_verify.grader"):  # both warn once that their time-out is off: on purpose
    logging.getLogger(_name).setLevel(logging.ERROR)


def equal(answers: Sequence[str], reference: str, bare: bool) -> list[bool | None]:
    """For each answer whether it equals the reference; None where the reference can't be read.

    bare    the answers are expressions and nothing else; otherwise math-verify looks for one in the text
    """
    gold = _read(reference)
    if not gold:
        return [None] * len(answers)
    read = _read if bare else _parse
    return [verify(gold, read(answer), timeout_seconds=None) for answer in answers]


def _read(text: str) -> list[Any]:
    """A bare expression, LaTeX or plain: math-verify only trusts what is marked, so mark it."""
    if "\\boxed" not in text and text.count("$") < 2:
        marked = _parse(f"\\boxed{{{text}}}")
        if marked and isinstance(marked[0], (Basic, MatrixBase)):
            return marked
    return _parse(text)


def _parse(text: str) -> list[Any]:
    return parse(text, parsing_timeout=None)  # pyright: ignore[reportArgumentType] - None is its documented "off"
