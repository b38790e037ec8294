"""The torch engine's core: batched sampling with a KV cache, for models of transformers on any device."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import partial

import torch

from workers.models.attention import adopt
from workers.models.decoder import Whole, decoder
from workers.models.load import load_model
from workers.rollout.batch import Batch
from workers.rollout.renderer import Renderer
from workers.rollout.served import Pause, Pending, ServedEngine
from workers.types import Proof, Published
from workers.weights.arrays import empty, load_arrays, refill, take_arrays
from workers.weights.proof import prove

# Prompts join when this share of the rows is free, or when all that wait fit.
JOIN_SHARE = 0.2


def torch_engine(
    model_path: str,
    renderer: Renderer,
    max_rows: int,
    dtype: str = "float32",
    device: str = "cpu",
    pause: Pause = "keep",
) -> ServedEngine:
    """A torch engine, ready to generate."""
    return ServedEngine(partial(TorchCore, model_path, renderer, max_rows, dtype, device), pause)


class TorchCore:
    """The port `Core`. `max_rows` bounds the sequences in flight; further prompts wait their turn."""

    def __init__(self, model_path: str, renderer: Renderer, max_rows: int, dtype: str = "float32", device: str = "cpu"):
        self.model = adopt(load_model(model_path, dtype, device))
        self.batch = Batch(decoder(self.model), list(renderer.stop_ids), renderer.text, device)
        self.max_rows, self.version = max_rows, 0
        self.waiting: deque[Pending] = deque()
        self.slept: dict[torch.nn.Parameter, torch.Size] = {}

    def __len__(self) -> int:
        return len(self.waiting) + len(self.batch)

    def add(self, pendings: Sequence[Pending]) -> None:
        self.waiting.extend(pendings)

    @torch.inference_mode()
    def step(self) -> list[Pending]:
        """See `Core.step`."""
        finished = self._admit()
        return finished + self.batch.step() if len(self.batch) else finished

    @torch.inference_mode()
    def drop(self, gone: set[Pending]) -> None:
        """See `Core.drop`."""
        self.waiting = deque(pending for pending in self.waiting if pending not in gone)
        self.batch.drop(gone)

    def sleep(self) -> None:
        """See `Core.sleep`."""
        self.batch.clear()
        self.batch.decode = Whole(self.model)  # the decoder has memory of its own
        self.slept = self.slept or empty(self.model)

    @torch.inference_mode()
    def load(self, weights: Published) -> Proof:
        """See `Core.load`. Keeps the old weights where the new do not fit."""
        if self.slept:
            refill(self.slept)
            self.slept.clear()
            self.batch.decode = decoder(self.model)
        # What nobody holds views of needs no copy: the parameters are what lies in shared memory.
        (load_arrays if self.batch.decode.joined else take_arrays)(self.model, weights.arrays)
        self.version = weights.version
        self.batch.renew(weights.version)
        return prove(self.model, self.batch.decode, weights)

    def clear(self) -> None:
        self.waiting.clear()
        self.batch.clear()

    def close(self) -> None:
        self.clear()

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
