"""What a person sees while a sweep goes on: a live view on a terminal, a line per event elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipeline.progress import duration


class SweepProgress:
    """A context manager. `clock` is in seconds."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._total = self._done = self._failed = 0
        self._at_once = 1
        self._begun: dict[str, float] = {}
        self._where: Mapping[str, str] = {}
        self._took: list[float] = []
        self._start = clock()
        self._live: Live | None = None
        if console.is_terminal and not console.is_dumb_terminal:
            self._live = Live(console=console, get_renderable=self._view, refresh_per_second=4, transient=True)

    def __enter__(self) -> SweepProgress:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.stop()

    def begin(self, total: int, done: int, at_once: int) -> None:
        """That many runs, so many of them done before."""
        self._total, self._done, self._at_once, self._start = total, done, at_once, self._clock()
        before = f", {done} of them done before" if done else ""
        self._say(f"{total} runs{before}; {at_once} at once")

    def started(self, label: str) -> None:
        self._begun[label] = self._clock()

    def seen(self, where: Mapping[str, str]) -> None:
        """Where the runs in hand stand, by label."""
        self._where = where

    def ended(self, label: str, reason: str | None) -> None:
        """A run is over; `reason` where it failed."""
        took = self._clock() - self._begun.pop(label)
        self._done, self._failed = self._done + 1, self._failed + (reason is not None)
        if reason is None:
            self._took.append(took)
        how = f"done in {duration(took)}" if reason is None else f"FAILED after {duration(took)}: {reason}"
        self._say("  ".join([f"[{self._done}/{self._total}]", f"{label}: {how}", *self._left()]), reason is not None)

    def left(self) -> float | None:
        """Seconds that the rest may take, from the mean of the runs so far; None before the first has ended."""
        if not self._took:
            return None
        each, now = sum(self._took) / len(self._took), self._clock()
        begun = sum(max(0.0, each - (now - start)) for start in self._begun.values())
        return (begun + each * (self._total - self._done - len(self._begun))) / self._at_once

    def _left(self) -> list[str]:
        left = self.left()
        return [] if left is None or self._done == self._total else [f"about {duration(left)} left"]

    def _say(self, text: str, bad: bool = False) -> None:
        if self._live:
            self._console.print(f"[{'red' if bad else 'dim'}]{escape(text)}[/]")
        else:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _view(self) -> Group:
        bar = Table.grid(padding=(0, 1))
        clock = "  ".join([duration(self._clock() - self._start), *self._left()])
        failed = f", {self._failed} failed" if self._failed else ""
        gauge = ProgressBar(total=self._total or 1, completed=self._done, width=32)
        bar.add_row(gauge, Text(f"{self._done}/{self._total}{failed}", "bold"), Text(clock, "dim"))
        rows = Table.grid(padding=(0, 2))
        for label, start in self._begun.items():
            rows.add_row(
                Text("  " + label, "cyan"),
                Text(self._where.get(label, "")),
                Text(duration(self._clock() - start), "dim"),
            )
        return Group(bar, rows)
