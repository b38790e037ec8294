"""Whose turn it is where learner and engines share devices: one works, the other sleeps.

    engines' turn    open, load, run        the learner sleeps: its gradients are gone, its optimizer is on the host
    learner's turn   begin, infer, update, load, load_model        the engines sleep: weights and caches are gone

The turn goes over with the first call of the other side, once the one at work is through. Waking is part of the work:
an engine wakes with the weights of the next publish, which every turn of the engines begins with, so that keeping the
old ones would only cost memory (vLLM calls that level 2); the learner fetches its optimizer when it next needs it.
Reading the weights (export, save) is no work and needs no turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

from workers.learner.team import LearnerTeam
from workers.messages import Generated
from workers.rollout.pool import RolloutPool
from workers.types import Request


class Sleeper(Protocol):
    async def sleep(self) -> None:
        """Give the device's memory back, as far as the next turn does without what was in it."""
        ...


class Turns:
    """One of two sides is awake; `async with turns.of(side)` waits for the other to finish, and sends it to sleep."""

    def __init__(self) -> None:
        self._awake: Sleeper | None = None
        self._at_work = 0
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def of(self, side: Sleeper) -> AsyncIterator[None]:
        async with self._changed:
            await self._changed.wait_for(lambda: self._awake is side or not self._at_work)
            if self._awake is not side:
                if self._awake is not None:
                    await self._awake.sleep()
                self._awake = side
            self._at_work += 1
        try:
            yield
        finally:
            async with self._changed:
                self._at_work -= 1
                self._changed.notify_all()


class LearnerInTurn(LearnerTeam):
    """A learner that works in its turns only."""

    READS = ("version", "save", "save_model", "sleep")

    def __init__(self, *args: Any, turns: Turns, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.turns = turns

    async def _call(self, method: str, *args: Any) -> Any:
        if (args[0] if method == "files" else method) in self.READS:
            return await super()._call(method, *args)
        async with self.turns.of(self):
            return await super()._call(method, *args)


class RolloutsInTurn(RolloutPool):
    """Rollout workers that work in their turns only."""

    def __init__(self, *args: Any, turns: Turns, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.turns = turns

    async def open(self, *args: Any) -> None:
        """See `RolloutPool.open`."""
        async with self.turns.of(self):
            await super().open(*args)

    async def run(self, wave: Sequence[Request]) -> AsyncIterator[Generated]:
        """See `Rollouts.run`."""
        async with self.turns.of(self):
            async for generated in super().run(wave):
                yield generated

    async def load(self, weights: Any, proof: Any) -> list[int]:
        """See `RolloutPool.load`."""
        async with self.turns.of(self):
            return await super().load(weights, proof)
