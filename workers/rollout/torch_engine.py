"""The torch engine: batched sampling with a KV cache, on one thread of its own.

The event loop never waits for a model; it hands prompts over and hears of finished ones. Prompts handed over in one
call enter the batch together, so in synchronous mode every run batches, and therefore rounds, alike.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch

from rewards.errors import RunFailed
from rewards.failures import one_line
from workers.models.attention import adopt
from workers.models.load import load_model
from workers.rollout.batch import Batch, Pending
from workers.rollout.renderer import Renderer
from workers.types import Completion, Prompt, Published
from workers.weights.arrays import load_arrays

# Prompts join when this share of the rows is free, or when all that wait fit.
JOIN_SHARE = 0.2

Finished = list[tuple[int, list[Completion]]]


class _Sink:
    """Where the results of one `generate` call go: back into the caller's event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self.loop, self.queue = loop, asyncio.Queue()

    def put(self, item: Finished | BaseException | None) -> None:
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


class TorchEngine:
    """`max_rows` bounds the sequences in flight; further prompts wait their turn."""

    def __init__(self, model_path: str, renderer: Renderer, max_rows: int, dtype: str = "float32", device: str = "cpu"):
        self.model = adopt(load_model(model_path, dtype, device))
        self.batch = Batch(self.model, list(renderer.stop_ids), renderer.text)
        self.max_rows, self.version = max_rows, 0
        self.inbox: queue.SimpleQueue[_Generate | _Leave | _Load | None] = queue.SimpleQueue()
        self.waiting: deque[Pending] = deque()
        self.sinks: dict[Pending, _Sink] = {}
        self.thread = threading.Thread(target=self._serve, name="engine", daemon=True)
        self.thread.start()

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

    async def load(self, weights: Published) -> None:
        """Take over new weights between two tokens; sequences in flight go on with them, on the keys and values they
        have. Raises `ValueError`, and keeps the old weights, where they do not fit."""
        sink = _Sink(asyncio.get_running_loop())
        self.inbox.put(_Load(weights, sink))
        if isinstance(error := await sink.queue.get(), BaseException):
            raise error

    async def close(self) -> None:
        """Ends the thread; whoever still waits is told so."""
        self.inbox.put(None)
        await asyncio.to_thread(self.thread.join)

    @torch.inference_mode()
    def _serve(self) -> None:
        while True:
            idle = not self.waiting and len(self.batch) == 0
            while idle or not self.inbox.empty():
                idle = False
                message = self.inbox.get()
                if message is None:
                    return self._fail(RunFailed("the engine was closed"))
                self._take(message)
            try:
                self._deliver(self._admit())
                if len(self.batch):
                    self._deliver(self.batch.step())
            except Exception as error:  # noqa: BLE001 - the border: a broken engine answers all that wait for it
                self._fail(RunFailed(one_line(f"the torch engine failed: {type(error).__name__}: {error}")))

    def _take(self, message: _Generate | _Leave | _Load) -> None:
        match message:
            case _Generate(pendings, sink):
                self.waiting.extend(pendings)
                self.sinks.update(dict.fromkeys(pendings, sink))
            case _Leave(sink):
                gone = {pending for pending, owner in self.sinks.items() if owner is sink}
                self.sinks = {pending: owner for pending, owner in self.sinks.items() if owner is not sink}
                self.waiting = deque(pending for pending in self.waiting if pending not in gone)
                self.batch.drop(gone)
            case _Load(weights, sink):
                try:
                    load_arrays(self.model, weights)
                    self.version = weights.version
                    sink.put(None)
                except (ValueError, TypeError, RuntimeError) as error:
                    sink.put(error)

    def _admit(self) -> list[Pending]:
        room, chosen = self.max_rows - len(self.batch), []
        # Joining copies the cache: until a good part of the rows is free, only the last prompts are let in.
        if room < JOIN_SHARE * self.max_rows and sum(pending.prompt.n for pending in self.waiting) > room:
            return []
        # A prompt with more samples than all rows together still gets its turn, alone.
        while self.waiting and (self.waiting[0].prompt.n <= room or (not chosen and len(self.batch) == 0)):
            chosen.append(self.waiting.popleft())
            room -= chosen[-1].prompt.n
        return self.batch.admit(chosen, self.version) if chosen else []

    def _deliver(self, finished: list[Pending]) -> None:
        by_sink: dict[_Sink, Finished] = {}
        for pending in finished:
            completions = [pending.done[i] for i in range(pending.prompt.n)]
            by_sink.setdefault(self.sinks.pop(pending), []).append((pending.prompt.id, completions))
        for sink, items in by_sink.items():
            sink.put(items)

    def _fail(self, error: RunFailed) -> None:
        for sink in set(self.sinks.values()):
            sink.put(error)
        self.sinks.clear()
        self.waiting.clear()
        self.batch.clear()
