"""Where the steps of an answer end: what judges of steps share, and what places their rewards.

A step is told by the place in the text where it ends. The learner puts its reward on the token that holds the
step's last character (`pipeline/samples.py`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rewards.failures import abstained, malformed
from rewards.types import Score


@dataclass(frozen=True)
class Steps:
    """How an answer falls into steps. Raises `ValueError` for a pattern that is none, or that matches nothing at all.

    by    line: a step is a line that is not blank; regex: a step ends where `at` matches; tag: a step is what stands
          between <at> and </at>
    at    the regular expression, or the tag's name
    tail  what follows the last match is a step, too (line and regex; a blank tail never is)
    """

    by: Literal["line", "regex", "tag"] = "line"
    at: str = ""
    tail: bool = True

    def __post_init__(self) -> None:
        if self.by == "line":
            if self.at:
                raise ValueError(f"at: {self.at!r} with by: line, expected by: regex or by: tag")
            return
        if not self.at:
            raise ValueError(f"by: {self.by} needs `at`, the {'pattern' if self.by == 'regex' else 'name of the tag'}")
        try:
            matches_nothing = self.by == "regex" and re.compile(self.at).search("") is not None
        except re.error as error:
            raise ValueError(f"at: {self.at!r} is no regular expression: {error}") from None
        if matches_nothing:
            raise ValueError(f"at: {self.at!r} matches the empty text, expected what ends a step")

    def ends(self, text: str) -> np.ndarray:
        """i32[K], ascending: where each step ends, the character after its last one. K is 0 where there is no step."""
        if self.by == "tag":
            name = re.escape(self.at)
            found = [m.end() for m in re.finditer(f"<{name}>.*?</{name}>", text, re.DOTALL)]
            return np.array(found, np.int32)
        pattern = r"\n+" if self.by == "line" else self.at
        ends, start = [], 0
        for match in re.finditer(pattern, text):
            if text[start : match.start()].strip():
                ends.append(match.end())
            start = match.end()
        if self.tail and text[start:].strip():
            ends.append(len(text))
        return np.array(ends, np.int32)

    def texts(self, text: str) -> list[str]:
        """The steps themselves, with what ends each."""
        ends = self.ends(text).tolist()
        return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def step_score(values: Sequence[float], ends: np.ndarray, explanation: str = "") -> Score:
    """The score of a judge of steps: one value per end; for people, their mean.

    Abstains where there is no step at all; malformed where the numbers differ or one is not finite.
    """
    steps = np.asarray(values, np.float32)
    if not len(ends):
        return abstained("no step found in the answer")
    if steps.shape != ends.shape:
        return malformed(f"{steps.size} step rewards for {len(ends)} steps")
    if not np.isfinite(steps).all():
        return malformed("a step reward is not finite")
    return Score(float(steps.mean(dtype=np.float64)), steps, explanation, ends=ends)


def tokens_at(offsets: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """i32[K]: the token that holds each step's last character. offsets i32[C]: where in the text each token ends."""
    return np.minimum(np.searchsorted(offsets, ends, side="left"), len(offsets) - 1).astype(np.int32)
