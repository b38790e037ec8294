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
from dataclasses import dataclass

import torch

from workers.models.attention import ATTENTION
from workers.models.load import load_model
from workers.rollout.batch import Batch, Pending
from workers.rollout.renderer import Renderer
from workers.types import Completion, Prompt, Published
from workers.weights.arrays import load_arrays

Finished = list[tuple[int, list[Completion]]]


class _Sink:
    """Where the results of one `generate` call go: back into the caller's event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self.loop, self.queue = loop, asyncio.Queue()

    def put(self, item: Finished | BaseException | None) -> None:
        self.loop.call_soon_threadsafe(self.queue.put_nowait, item)


@dataclass
class _Generate:
    prompts: list[Prompt]
    sink: _Sink


@dataclass
class _Load:
    weights: Published
    sink: _Sink


class TorchEngine:
    """`max_rows` bounds the sequences in flight; further prompts wait their turn."""

    def __init__(self, model_path: str, renderer: Renderer, max_rows: int, dtype: str = "float32", device: str = "cpu"):
        self.model = load_model(model_path, dtype, device).eval()
        self.model.set_attn_implementation(ATTENTION)
        self.batch = Batch(self.model, list(renderer.stop_ids), renderer.text)
        self.max_rows, self.version = max_rows, 0
        self.inbox: queue.SimpleQueue[_Generate | _Load | None] = queue.SimpleQueue()
        self.waiting: deque[Prompt] = deque()
        self.sinks: dict[int, _Sink] = {}  # by the prompt object: two callers may use the same prompt id
        self.thread = threading.Thread(target=self._serve, name="engine", daemon=True)
        self.thread.start()

    async def generate(self, prompts: Sequence[Prompt]) -> AsyncIterator[Finished]:
        """See `Engine.generate`. Raises what the engine's thread raised."""
        sink, missing = _Sink(asyncio.get_running_loop()), len(prompts)
        self.inbox.put(_Generate(list(prompts), sink))
        while missing:
            item = await sink.queue.get()
            if isinstance(item, BaseException):
                raise item
            missing -= len(item)
            yield item

    async def load(self, weights: Published) -> None:
        """Take over new weights between two tokens; sequences in flight go on with them."""
        sink = _Sink(asyncio.get_running_loop())
        self.inbox.put(_Load(weights, sink))
        if isinstance(error := await sink.queue.get(), BaseException):
            raise error

    async def close(self) -> None:
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
                    return
                self._take(message)
            try:
                self._deliver(self._admit())
                if len(self.batch):
                    self._deliver(self.batch.step())
            except Exception as error:  # noqa: BLE001 - the border: a broken engine answers all that wait for it
                self._fail(error)

    def _take(self, message: _Generate | _Load) -> None:
        if isinstance(message, _Generate):
            self.waiting.extend(message.prompts)
            self.sinks.update((id(prompt), message.sink) for prompt in message.prompts)
            return
        try:
            load_arrays(self.model, message.weights)
            self.version = message.weights.version
            message.sink.put(None)
        except (ValueError, RuntimeError) as error:
            message.sink.put(error)

    def _admit(self) -> list[Pending]:
        room, chosen = self.max_rows - len(self.batch), []
        # A prompt with more samples than all rows together still gets its turn, alone.
        while self.waiting and (self.waiting[0].n <= room or (not chosen and len(self.batch) == 0)):
            chosen.append(self.waiting.popleft())
            room -= chosen[-1].n
        return self.batch.admit(chosen, self.version) if chosen else []

    def _deliver(self, finished: list[Pending]) -> None:
        by_sink: dict[_Sink, Finished] = {}
        for pending in finished:
            n, prompt = pending.prompt.n, pending.prompt
            by_sink.setdefault(self.sinks.pop(id(prompt)), []).append((prompt.id, [pending.done[i] for i in range(n)]))
        for sink, items in by_sink.items():
            sink.put(items)

    def _fail(self, error: Exception) -> None:
        for sink in set(self.sinks.values()):
            sink.put(error)
        self.sinks.clear()
        self.waiting.clear()
        self.batch.rows = None
