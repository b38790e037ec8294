"""What a person sees while a run goes on: a live view on a terminal, plain lines elsewhere.

with Progress() as progress:
    progress.stage("rl", "rl", steps=60)
    progress.step(0, metrics)
    progress.stage_done("rl", "reward 0.93")
console.print(summary_table(summary))
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

LINE_EVERY = 5.0  # seconds between plain lines within a stage
_BLOCKS = "▁▂▃▄▅▆▇█"
_SHOWN = (  # metric, label, format; the first that a step has of those with the same label
    ("reward/mean", "reward", "{:.3f}"),
    ("gold/mean", "gold", "{:.3f}"),
    ("eval/accuracy", "accuracy", "{:.3f}"),
    ("learner/loss", "loss", "{:.4f}"),
    ("rollout/tokens_per_s", "tokens/s", "{:,.0f}"),
)


class Progress:
    """The view of one run; a context manager. `clock` is in seconds."""

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console or Console()
        self._clock = clock
        self._stage = _Stage("", "", None, 0.0)
        self._live: Live | None = None
        self._said = 0.0
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            # `get_renderable`: the clock and the spinner move between two steps, too.
            self._live = Live(console=self._console, get_renderable=self._view, refresh_per_second=8, transient=True)

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._stage = _Stage("", "", None, 0.0)
            self._live.stop()

    def stage(self, name: str, kind: str, steps: int | None = None) -> None:
        """A stage begins; `steps` where it is known how many there are."""
        self._stage = _Stage(name, kind, steps, self._clock())
        self._said = self._clock()
        if not self._live:
            self._line(f"{name}: {kind} started" + (f", {steps} steps" if steps else ""))

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Step `step` (from 0) is done. Metrics not given keep their last value."""
        stage = self._stage
        stage.take(step, metrics, self._clock())
        if not self._live and self._clock() - self._said >= LINE_EVERY:
            self._said = self._clock()
            self._line("  ".join([f"{stage.name}: {stage.count}", *stage.numbers(), *stage.remaining(self._clock())]))

    def stage_done(self, name: str, results: str) -> None:
        """The stage is over; `results` in a few words."""
        took = duration(self._clock() - self._stage.start)
        if self._live:
            self._stage = _Stage("", "", None, 0.0)
            self._console.print(f"[green]✓[/] [bold]{escape(name):<12}[/] [dim]{took:>8}[/]  {escape(results)}")
        else:
            self._line(f"{name}: done in {took}" + (f", {results}" if results else ""))

    def note(self, text: str) -> None:
        """One line for the reader: a warning, a resume."""
        if self._live:
            self._console.print(f"[yellow]•[/] {escape(text)}")
        else:
            self._line(text)

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _view(self) -> Group:
        stage, now = self._stage, self._clock()
        if not stage.name:
            return Group()
        bar = Table.grid(padding=(0, 1))
        name = Text(stage.name, style="bold cyan")
        clock = Text("  ".join([duration(now - stage.start), *stage.remaining(now)]), style="dim")
        share = (stage.done, stage.steps) if stage.steps else (0, None)
        gauge = ProgressBar(total=share[1] or 100, completed=share[0], width=24, pulse=stage.steps is None)
        bar.add_row(stage.spinner, name, gauge, Text(stage.count), clock)
        numbers = Text("  ")
        for item in stage.numbers():
            label, value = item.rsplit(" ", 1)
            numbers.append(f"{label} ", "dim").append(f"{value}   ", "bold")
        numbers.append(sparkline(stage.rewards[-40:]), "cyan")
        return Group(bar, numbers)


class _Stage:
    """The stage that runs now: how far it is and its latest numbers."""

    def __init__(self, name: str, kind: str, steps: int | None, start: float) -> None:
        self.name, self.kind, self.steps, self.start = name, kind, steps, start
        self.done = 0
        self.rewards: list[float] = []
        self.spinner = Spinner("dots", style="cyan")
        self._latest: dict[str, float] = {}
        self._last = start
        self._first: tuple[int, float] | None = None  # after the first step, which is slower than the others

    def take(self, step: int, metrics: Mapping[str, float], now: float) -> None:
        self.done = step + 1
        self._latest |= metrics
        if "reward/mean" in metrics:
            self.rewards.append(metrics["reward/mean"])
        if self._first is None:
            self._first = (self.done, now)
        self._last = now

    @property
    def count(self) -> str:
        return f"{self.done}/{self.steps}" if self.steps else f"{self.kind} {self.done or ''}".strip()

    def numbers(self) -> list[str]:
        """["reward 0.410", "tokens/s 48,000"], of the metrics there are."""
        return [f"{label} {style.format(self._latest[name])}" for name, label, style in _SHOWN if name in self._latest]

    def remaining(self, now: float) -> list[str]:
        """["eta 0:42"] once two steps show how long one takes; counts down between steps."""
        if not self.steps or self._first is None or self.done <= self._first[0]:
            return []
        pace = (self._last - self._first[1]) / (self.done - self._first[0])
        return [f"eta {duration(max(0.0, (self.steps - self.done) * pace - (now - self._last)))}"]


def sparkline(values: list[float]) -> str:
    """One block character per value, from the lowest to the highest of them."""
    if len(values) < 2:
        return ""
    low, high = min(values), max(values)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((value - low) * scale)] if value == value else " " for value in values)


def duration(seconds: float) -> str:
    """4.2 s, 1:07, 2:03:09."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def summary_table(summary: Mapping[str, Any]) -> Table:
    """The end of a run: every stage of summary.json with its seconds and results."""
    title = Text(f"{summary['name']}  {summary['status']}  {duration(summary['seconds'])}", style="bold")
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("stage", style="bold")
    table.add_column("kind")
    table.add_column("time", justify="right")
    table.add_column("results")
    for name, stage in summary["stages"].items():
        table.add_row(escape(name), escape(stage["kind"]), duration(stage["seconds"]), escape(results_text(stage)))
    return table


def results_text(stage: Mapping[str, Any]) -> str:
    """A stage's results in one line: accuracy with its interval and n, then whatever else it has; failures if any."""
    parts = []
    if stage.get("accuracy") is not None:
        text = f"accuracy {stage['accuracy']:.3f}"
        if stage.get("interval"):
            text += " [{:.3f}, {:.3f}]".format(*stage["interval"])
        parts.append(text + (f" of {stage['n']}" if "n" in stage else ""))
    for name, value in stage.items():
        if name in ("kind", "seconds", "accuracy", "interval", "n") or (name == "failed" and not value):
            continue
        if isinstance(value, int | float | str):
            parts.append(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}")
    return ", ".join(parts)
