"""One judge process: hosts the panel and what its sources may use."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from types import MappingProxyType

from rewards.declared import ScalarModel, Service, declared
from rewards.panel import Panel
from rewards.types import Group, Verdict
from workers.judging.hosts import Spec
from workers.judging.live import LiveToolbox
from workers.messages import Lot, Verdicts
from workers.ray_actors import Actor

GROUPS_PER_HELPER = 2
GROUPS_WAITING = 16
WARM_S = 60.0


class JudgeWorker:
    """Judges many groups at once, see `groups_at_once`."""

    def __init__(self, panel: Panel, helpers: int, hosts: Mapping[Spec, Actor] = MappingProxyType({})) -> None:
        imports = {name for source in panel.sources for name in getattr(source, "helper_imports", ())}
        self._panel = panel
        self._tools = LiveToolbox(helpers, tuple(sorted(imports)), hosts)
        self._uses_helpers = any(hasattr(source, "helper_imports") for source in panel.sources)
        self._places = asyncio.Semaphore(groups_at_once(panel, helpers))

    async def judge(self, lot: Lot) -> Verdicts:
        """Every group's verdicts, in order. Raises `RunFailed` where a seat's policy is abort.

        The groups themselves stay with the driver: they need not travel twice.
        """
        start = time.perf_counter()
        verdicts = await asyncio.gather(*(self._judge(group) for group in lot.groups))
        return Verdicts(tuple(verdicts), time.perf_counter() - start)

    async def _judge(self, group: Group) -> tuple[Verdict, ...]:
        async with self._places:
            return (await self._panel.judge(group, self._tools)).verdicts

    async def warm(self) -> None:
        """Start the helper processes and load the models, where a source says that it uses them."""
        if self._uses_helpers:
            await self._tools.call(os.getpid, limit_s=WARM_S)
        await self._tools.warm(self._panel)

    async def close(self) -> None:
        """Kill the helper processes, close all connections."""
        await self._tools.aclose()


def groups_at_once(panel: Panel, helpers: int) -> int:
    """Two for each helper, so that none is idle and a seat's limit is not spent waiting; more where a source waits for
    others: they have limits of their own (`Service.concurrency`), and batch what they have at hand."""
    waits = any(isinstance(spec, Service | ScalarModel) for source in panel.sources for spec in declared(source))
    return (GROUPS_WAITING if waits else GROUPS_PER_HELPER) * helpers
