"""From an exception to the record that stands for it: the same words wherever a judge fails."""

from __future__ import annotations

from rewards.declared import Unanswered
from rewards.types import Failure, Score

DETAIL_CHARS = 300


def one_line(text: object) -> str:
    """The text without line breaks, cut to what a log line holds."""
    line = " ".join(str(text).split())
    return line if len(line) <= DETAIL_CHARS else line[: DETAIL_CHARS - 3] + "..."


def as_failure(error: BaseException, border: str = "source") -> Failure:
    """What an exception says about a judge. A cancellation is no failure and is raised again."""
    if isinstance(error, TimeoutError):
        return Failure(border, "timeout", one_line(error) or "no answer in time")
    if isinstance(error, ChildProcessError):
        return Failure(border, "died", one_line(error) or "its process died")
    if isinstance(error, Unanswered):
        return Failure(border, error.kind, one_line(error))
    if isinstance(error, Exception):
        return Failure(border, "error", one_line(f"{type(error).__name__}: {error}"))
    raise error


def abstained(detail: str) -> Score:
    """The score of a source that could not judge, and why. The panel fills in the source's name."""
    return Score(failure=Failure("source", "abstained", one_line(detail)))


def malformed(detail: str) -> Score:
    """The score of a source whose answer is no number."""
    return Score(failure=Failure("source", "malformed", one_line(detail)))
