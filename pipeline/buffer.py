"""The places between the producer and the loop.

    reserve -> (generated, judged) -> put -> take, in admission order -> learned, published -> release

The capacity is the staleness bound: with (max_staleness + 1) * groups_per_step places, no group can have been
started more than max_staleness weight versions before it is learned from. Completion order would break that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from rewards.types import ScoredGroup
from workers.messages import Shelved

# Groups that are this far from their turn are put on the shelf; nearer ones are not worth the work.
AHEAD = 512


class Buffer:
    """Admission numbers count up from `position`; one asyncio loop uses it."""

    def __init__(self, capacity: int, position: int = 0):
        self.capacity = capacity
        self.reserved = self.taken = self.released = position
        self._groups: dict[int, ScoredGroup | Shelved] = {}
        self._error: BaseException | None = None
        self._changed = asyncio.Condition()

    async def reserve(self, n: int) -> range:
        """Wait for n free places; the admission numbers they stand for."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._error or self.reserved + n - self.released <= self.capacity)
            self._check()
            self.reserved += n
            return range(self.reserved - n, self.reserved)

    async def put(self, groups: Sequence[ScoredGroup]) -> None:
        """Fill places that were reserved; a group's id is its admission number."""
        async with self._changed:
            for scored in groups:
                near = scored.group.id < self.taken + AHEAD
                self._groups[scored.group.id] = scored if near else Shelved.of(scored)
            self._changed.notify_all()

    async def take(self, n: int) -> list[ScoredGroup]:
        """The next n groups in admission order. Raises the producer's error instead of waiting for ever."""
        async with self._changed:
            wanted = range(self.taken, self.taken + n)
            await self._changed.wait_for(lambda: self._error or all(i in self._groups for i in wanted))
            self._check()
            self.taken += n
            found = [self._groups.pop(i) for i in wanted]
            return [one.opened() if isinstance(one, Shelved) else one for one in found]

    async def release(self, n: int) -> None:
        """Free n places: the weights that learned from their groups are now published."""
        async with self._changed:
            self.released += n
            self._changed.notify_all()

    async def fail(self, error: BaseException) -> None:
        """End every wait, now and later, with this error."""
        async with self._changed:
            self._error = error
            self._changed.notify_all()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
