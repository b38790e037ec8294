"""Which metric names pipeline/README.md explains."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

README = Path(__file__).parents[2] / "pipeline" / "README.md"


def documented(name: str) -> bool:
    """Whether a row of a table in pipeline/README.md begins with this metric's name.

    Names stand in backticks; a word in capitals stands for any one part: `reward/source/NAME/mean`.
    """
    return any(pattern.fullmatch(name) for pattern in _patterns())


@cache
def _patterns() -> list[re.Pattern[str]]:
    rows = [line.split("|")[1] for line in README.read_text().splitlines() if line.startswith("|")]
    return [_pattern(name) for row in rows for name in re.findall(r"`([^`]+)`", row)]


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"[A-Z]+", "[^/]+", re.escape(name)))
