"""An engine on one thread of its own: the event loop hands prompts over and hears of finished ones.

Prompts handed over in one call reach the core together, so in synchronous mode every run batches, and therefore
rounds, alike. New weights come in between two tokens. What happens to the sequences in flight then is `pause`:

    keep   they go on with the new weights, on the keys and values they have; every token knows its version
    wait   they are finished with the old weights first; what is handed over in the meantime waits
    abort  they are thrown away and written anew with the new weights
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from rewards.errors import RunFailed
from rewards.failures import one_line
from workers.types import Completion, Prompt, Proof, Published

Pause = Literal["keep", "wait", "abort"]
Finished = list[tuple[int, list[Completion]]]


@dataclass(eq=False)
class Pending:
    """A prompt whose n completions are not all done."""

    prompt: Prompt
    done: dict[int, Completion] = field(default_factory=dict)


class Core(Protocol):
    """What generates. Made, called and closed on the engine's thread only."""

    def __len__(self) -> int:
        """Prompts taken in and not yet finished."""
        ...

    def add(self, pendings: Sequence[Pending]) -> None: ...

    def step(self) -> list[Pending]:
        """About one token more for what is in flight; the prompts whose completions are now all done."""
        ...

    def drop(self, gone: set[Pending]) -> None:
        """Stop writing for these prompts."""
        ...

    def load(self, weights: Published) -> Proof:
        """Take over new weights; what it makes of them. Raises `ValueError` where they do not fit."""
        ...

    def sleep(self) -> None:
        """Give the device's memory back, weights included; the next load wakes it. Called with nothing in flight."""
        ...

    def clear(self) -> None:
        """Forget every prompt."""
        ...

    def close(self) -> None: ...


class _Sink:
    """Where the results of one call go: back into the caller's event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self.loop, self.queue = loop, asyncio.Queue()

    def put(self, item: Finished | Proof | BaseException | None) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self.loop.call_soon_threadsafe(self.queue.put_nowait, item)


@dataclass
class _Generate:
    pendings: list[Pending]
    sink: _Sink


@dataclass
class _Leave:
    sink: _Sink


@dataclass
class _Load:
    weights: Published
    sink: _Sink


@dataclass
class _Sleep:
    sink: _Sink


class ServedEngine:
    """The port `Engine` over a core that `make_core` makes on the engine's thread."""

    def __init__(self, make_core: Callable[[], Core], pause: Pause = "keep"):
        self.pause: Pause = pause
        self.inbox: queue.SimpleQueue[_Generate | _Leave | _Load | _Sleep | None] = queue.SimpleQueue()
        self.sinks: dict[Pending, _Sink] = {}
        self.asleep = False
        self.held: list[_Generate | _Load] = []  # from the first load on that waits for sequences in flight
        self.made: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._serve, args=(make_core,), name="engine", daemon=True)
        self.thread.start()
        if (error := self.made.get()) is not None:
            raise error

    async def generate(self, prompts: Sequence[Prompt]) -> AsyncIterator[Finished]:
        """See `Engine.generate`. Raises `RunFailed` where the model broke, or the engine was closed.

        Leaving the loop early takes back what is not yet written.
        """
        sink, missing = _Sink(asyncio.get_running_loop()), len(prompts)
        self.inbox.put(_Generate([Pending(prompt) for prompt in prompts], sink))
        try:
            while missing:
                item = await sink.queue.get()
                if isinstance(item, BaseException):
                    raise item
                missing -= len(item)
                yield item
        finally:
            if missing:
                self.inbox.put(_Leave(sink))

    async def load(self, weights: Published) -> Proof:
        """See `Engine.load`."""
        sink = _Sink(asyncio.get_running_loop())
        return await self._told(_Load(weights, sink))

    async def sleep(self) -> None:
        """See `Engine.sleep`."""
        await self._told(_Sleep(_Sink(asyncio.get_running_loop())))

    async def _told(self, message: _Load | _Sleep) -> Any:
        self.inbox.put(message)
        if isinstance(answer := await message.sink.queue.get(), BaseException):
            raise answer
        return answer

    async def close(self) -> None:
        """Ends the thread; whoever still waits is told so."""
        self.inbox.put(None)
        await asyncio.to_thread(self.thread.join)

    def _serve(self, make_core: Callable[[], Core]) -> None:
        try:
            self.core = make_core()
        except BaseException as error:  # noqa: BLE001 - carried over to the constructor, which raises it
            return self.made.put(error)
        self.made.put(None)
        while True:
            idle = not len(self.core)
            while idle or not self.inbox.empty():
                idle = False
                message = self.inbox.get()
                if message is None:
                    self._fail(RunFailed("the engine was closed"))
                    return self.core.close()
                with self._border():
                    self._take(message)
            with self._border():
                if len(self.core):
                    self._deliver(self.core.step())
                self._release()

    @contextmanager
    def _border(self) -> Iterator[None]:
        """A broken engine answers all that wait for it, and goes on."""
        try:
            yield
        except RunFailed as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 - the border
            self._fail(RunFailed(one_line(f"the engine failed: {type(error).__name__}: {error}")))

    def _take(self, message: _Generate | _Leave | _Load | _Sleep) -> None:
        match message:
            case _Sleep(sink):
                sink.put(self._slept())
            case _Generate(_, sink) if self.asleep:
                sink.put(RunFailed("asked to generate while it sleeps: it has no weights until new ones are loaded"))
            case _Generate(pendings, sink):
                self.sinks.update(dict.fromkeys(pendings, sink))
                if self.held:
                    self.held.append(message)
                else:
                    self.core.add(pendings)
            case _Leave(sink):
                gone = {pending for pending, owner in self.sinks.items() if owner is sink}
                self.sinks = {pending: owner for pending, owner in self.sinks.items() if owner is not sink}
                self.held = [m for m in self.held if m.sink is not sink]
                self.core.drop(gone)
            case _Load():
                if self.held or (self.pause == "wait" and len(self.core)):
                    self.held.append(message)
                else:
                    self._load(message)

    def _slept(self) -> RunFailed | None:
        if len(self.core) or self.held:
            return RunFailed(f"asked to sleep with {len(self.sinks)} prompts in flight")
        self.core.sleep()
        self.asleep = True
        return None

    def _load(self, message: _Load) -> None:
        again = list(self.sinks) if self.pause == "abort" else []
        try:
            if again:
                self.core.drop(set(again))
            proof = self.core.load(message.weights)
            self.asleep = False
            for pending in again:
                pending.done.clear()
            if again:
                self.core.add(again)
            message.sink.put(proof)
        except (ValueError, TypeError, RuntimeError, RunFailed) as error:
            message.sink.put(error)
            if again:
                self._fail(RunFailed(one_line(f"the engine has no weights to go on with: {error}")))

    def _release(self) -> None:
        """What was held goes on, up to the next load that has to wait."""
        while self.held and not (isinstance(self.held[0], _Load) and len(self.core)):
            match self.held.pop(0):
                case _Generate(pendings):
                    self.core.add(pendings)
                case _Load() as load:
                    self._load(load)

    def _deliver(self, finished: list[Pending]) -> None:
        by_sink: dict[_Sink, Finished] = {}
        for pending in finished:
            completions = [pending.done[i] for i in range(pending.prompt.n)]
            by_sink.setdefault(self.sinks.pop(pending), []).append((pending.prompt.id, completions))
        for sink, items in by_sink.items():
            sink.put(items)

    def _fail(self, error: RunFailed) -> None:
        for sink in {*self.sinks.values(), *(message.sink for message in self.held)}:
            sink.put(error)
        self.sinks.clear()
        self.held.clear()
        self.core.clear()
