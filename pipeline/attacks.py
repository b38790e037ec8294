"""Attacks on a stage's judges while it runs: at its start, and every so many steps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from pipeline.feeds import Batch
from rewards.attack import Attack
from rewards.errors import Refused, RunFailed
from rewards.panel import Panel
from rewards.types import Task
from workers.ports import Judges

After = Callable[[int, Batch, dict[str, float]], Awaitable[float]]


class Attacks:
    """`attack` on the panel that `judges` host, with these tasks."""

    def __init__(self, attack: Attack, stage: str, panel: Panel, judges: Judges, tasks: Sequence[Task]) -> None:
        self._attack, self._stage, self._panel, self._judges = attack, stage, panel, judges
        self._groups = attack.groups(tasks)
        self._found: dict[str, float] = {}

    async def before(self, step: int) -> None:
        """Attack, if one is due before this step: what is found is among the step's metrics.

        Raises `Refused`, or after the stage's first step `RunFailed`, where a source is fooled more often than allowed.
        """
        if step and (not self._attack.every or step % self._attack.every):
            return
        fooled = self._attack.fooled(self._panel, (await self._judges.judge(self._groups)).groups)
        self._found = {f"guard/{name}/false_positives": share for name, (share, _) in fooled.items()}
        for name, (share, key) in fooled.items():
            if share > self._attack.allowed:
                raise (RunFailed if step else Refused)(
                    f"stages.{self._stage}: reward source {name!r} takes the answer {key!r} for right on {share:.0%} "
                    f"of {len(self._groups)} tasks; rewards.attack.allowed is {self._attack.allowed:.0%}"
                )

    def around(self, after: After) -> After:
        """`after` with the rates among its metrics, and an attack behind it whenever one is due."""

        async def attacked(step: int, batch: Batch, metrics: dict[str, float]) -> float:
            found, self._found = self._found, {}
            seconds = await after(step, batch, {**metrics, **found})
            await self.before(step + 1)
            return seconds

        return attacked
