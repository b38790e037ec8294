"""Programs that strangers wrote, and what running one in a sandbox comes to (`Toolbox.execute`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Gt


@dataclass(frozen=True)
class Limits:
    """What a program may take.

    cpu_s      CPU seconds of each of its processes; on the clock it has three times that and ten seconds more
    memory_mb  memory of each of its processes, and of the files it writes
    processes  how many it may have at once, threads included
    output_kb  what it may print; more ends it
    """

    cpu_s: Annotated[float, Gt(0)] = 10.0
    memory_mb: Annotated[int, Gt(0)] = 512
    processes: Annotated[int, Gt(0)] = 16
    output_kb: Annotated[int, Gt(0)] = 256


@dataclass(frozen=True, slots=True)
class Ran:
    """A program that ended, or was ended.

    status   its exit status, 128 and the signal's number where one ended it
    stopped  "time" or "output" where a limit ended it; its memory and processes are refused to it while it runs
    """

    status: int
    stdout: str
    stderr: str
    seconds: float
    stopped: Literal["time", "output"] | None = None

    @property
    def last_line(self) -> str:
        """Of what it had to say about its end."""
        lines = self.stderr.strip().splitlines()
        return lines[-1] if lines else f"exit status {self.status}"
