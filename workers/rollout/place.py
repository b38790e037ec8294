"""One place in the pool of rollout workers: it outlives the processes that hold it.

start -> open -> (generate, load, render) ...
                    | dies, or gives no answer in time: killed
                    v
         a fresh worker of the same name: engine opened, the weights last published loaded
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rewards.errors import RunFailed
from workers.ports import Engine
from workers.ray_actors import Actor, Died, Stalled, call, kill, ready, start_actor
from workers.rollout.worker import TORCH, RolloutWorker

if TYPE_CHECKING:
    from workers.rollout.renderer import Renderer

MakeEngine = Callable[[str, "Renderer"], Engine]

# Fresh workers in a row that may be lost before one of them hands over a group.
RESTARTS = 3
# Before a place that the pool can do without is tried again.
PATIENCE_S = 5.0


class Place:
    """A rollout worker by name.

    restarted  is told, in one line, why a worker had to be replaced
    start      starts a worker where it is to sit
    module     what its engine is imported from
    spare      whether the pool can do without it, as it stands: then it comes when there is room for it, without haste
    """

    def __init__(
        self,
        name: str,
        cpus: float,
        timeout_s: float,
        restarted: Callable[[str], None],
        start: Callable[..., Actor] = start_actor,
        module: str = TORCH,
        spare: Callable[[], bool] = lambda: False,
    ):
        self.name, self.cpus, self.timeout_s, self.restarted = name, cpus, timeout_s, restarted
        self._spare = spare
        self._start, self._module = start, module
        self.actor = self._started()
        self._fruitless = 0
        self._weights: tuple[Any, Any] | None = None
        self._up: asyncio.Task[Actor] | None = None

    async def ready(self) -> None:
        """Returns when the first worker answers. Raises `RunFailed` where it does not."""
        await ready(self.actor, self.timeout_s)

    def open(self, model_path: str, make_engine: MakeEngine) -> asyncio.Task[Actor]:
        """Make the engine, and remember how; `worker` waits for it."""
        self._engine = (model_path, make_engine)
        self._up = asyncio.create_task(self._made())
        return self._up

    @property
    def opening(self) -> asyncio.Task[Actor]:
        """Ends when the worker that now holds the place is up."""
        assert self._up is not None, "open() comes first"
        return self._up

    @property
    def up(self) -> bool:
        """Whether the worker can be asked at once."""
        return self._up is not None and self._up.done() and not self._up.cancelled() and not self._up.exception()

    @property
    def absent(self) -> bool:
        """Whether the worker can't be asked, and need not be."""
        return not self.up and self._spare()

    async def worker(self) -> Actor:
        """The worker of this place, once its engine is open. Raises `RunFailed` where two in a row can't."""
        return await asyncio.shield(self.opening)  # others wait for it too

    async def ask(self, method: str, *args: Any) -> Any:
        """The answer of whoever holds the place: a worker that dies or stalls is replaced, and the fresh one asked.

        None where it is absent.
        """
        while not self.absent:
            actor = await self.worker()
            try:
                return await call(actor, method, *args, timeout_s=self.timeout_s)
            except (Died, Stalled) as error:
                self.replace(actor, error)
        return None

    async def load(self, weights: Any, proof: Any) -> int | None:
        """Have the weights (references to `Published` and to its `Proof`) loaded, now and by every worker to come.

        Answers with the version that the worker then holding the place says it has; None where it is absent.
        """
        self._weights = weights, [proof]
        return await self.ask("load", *self._weights)

    def fruitful(self) -> None:
        """The worker handed over a group."""
        self._fruitless = 0

    def replace(self, actor: Actor, error: Died | Stalled) -> None:
        """Put a fresh worker in the place of this one, unless that has been done; it opens while others go on.

        Raises `RunFailed` where worker after worker is lost and none hands over a group.
        """
        if self.actor is actor:
            self._fresh(error)
            self._up = asyncio.create_task(self._made())

    async def close(self) -> None:
        kill(self.actor)
        if self._up is not None:
            self._up.cancel()
            await asyncio.gather(self._up, return_exceptions=True)

    def _started(self) -> Actor:
        return self._start(RolloutWorker, self.name, self._module, name=self.name, cpus=self.cpus)

    def _fresh(self, error: Died | Stalled) -> None:
        kill(self.actor)
        if self._fruitless >= RESTARTS and not self._spare():
            raise RunFailed(f"{self.name} was replaced {RESTARTS} times in a row and finished nothing; now: {error}")
        self._fruitless += 1
        self.restarted(str(error))
        self.actor = self._started()

    async def _made(self) -> Actor:
        """The worker with its engine open and the current weights; a fresh one where this one could not."""
        tried = 0
        while True:
            try:
                return await self._opened()
            except (Died, Stalled) as error:
                if tried and not self._spare():
                    raise RunFailed(f"{self.name} could not be opened twice in a row: {error}") from error
                self._fresh(error)
            tried += 1
            if self._spare():
                await asyncio.sleep(PATIENCE_S)

    async def _opened(self) -> Actor:
        actor, loaded = self.actor, None
        await self._there(actor)
        await call(actor, "open", *self._engine, timeout_s=self.timeout_s)
        while self._weights and self._weights is not loaded:  # others may be given newer ones meanwhile
            loaded = self._weights
            await call(actor, "load", *loaded, timeout_s=self.timeout_s)
        return actor

    async def _there(self, actor: Actor) -> None:
        """Returns when the process answers; a spare one may wait for its room as long as it takes."""
        while True:
            try:
                return await ready(actor, self.timeout_s)
            except Stalled:
                if not self._spare():
                    raise
