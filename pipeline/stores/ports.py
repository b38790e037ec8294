"""What a run tells the world, and the port through which it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class RunStore(Protocol):
    """Remembers a run. Every call returns at once: no store may hold up the training loop.

    Only the driver speaks to a store; workers return numbers.
    """

    def params(self, params: Mapping[str, Any]) -> None:
        """The resolved config, nested as it is; called once, before the first stage."""
        ...

    def metrics(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """The numbers of one step. Names are "group/name"; units stand in pipeline/README.md."""
        ...

    def samples(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Samples for a person to read: JSON values with at least `stage` and `step`."""
        ...

    def event(self, kind: str, text: str, stage: str | None = None) -> None:
        """Something that happened once: stage_started, resumed, warning, failed ..."""
        ...

    def finish(self, status: str) -> None:
        """The run is over: "done", "failed" or "killed". May wait, up to minutes, until everything is stored."""
        ...
