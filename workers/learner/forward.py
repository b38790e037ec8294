"""From a micro-batch to the log-probs and entropies of the policy's own tokens, and the states they are drawn in."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from workers.learner.head import drawing
from workers.models.attention import Packed
from workers.types import MicroBatch


def to_torch(batch: MicroBatch, device: torch.device) -> MicroBatch:
    """The same micro-batch with tensors on the device in place of arrays."""
    with warnings.catch_warnings():
        # Arrays from the object store are read-only, and are only read.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        tensors = {
            f.name: torch.from_numpy(value).to(device)
            for f in fields(batch)
            if isinstance(value := getattr(batch, f.name), np.ndarray)
        }
    return replace(batch, **tensors)


def token_logprobs(
    model: PreTrainedModel,
    batch: MicroBatch,
    temperature: float,
    dtype: torch.dtype,
    chunked: bool = True,
    run: Any = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """log pi(own token | what stands before it) and the policy's entropy there, f32[N] each with gradient; and the
    trunk's last states there, f[N, hidden] with gradient, for a critic that shares the trunk.

    Only own tokens cost a product with the vocabulary, and of its logits only a chunk stands in memory at a time;
    all of them do, f32[N, V], where the model's head is not a plain one (`chunked` False, see `has_plain_head`).
    The model computes in `dtype`, whatever its weights are kept in; the softmax is float32 at least. `run` is called in
    the model's place, where something is wrapped around it.
    """
    ids = batch.ids[batch.own]
    drawn = drawing(model, ids, temperature) if chunked else nullcontext()
    # A weight's cast is kept no longer than the layer that uses it: a cache would hold the whole model a second time.
    cast = torch.autocast(batch.ids.device.type, dtype, enabled=dtype != torch.float32, cache_enabled=False)
    with cast, _states(model) as states, drawn:
        logits = (run or model)(
            batch.ids[None],
            position_ids=batch.position[None],
            attend=Packed(batch.lengths),
            use_cache=False,
            logits_to_keep=batch.own - 1,
        ).logits[0]
    if chunked:
        return logits[:, 0], logits[:, 1], states[0][0]
    logp = (logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature).log_softmax(-1)
    return logp.gather(1, ids[:, None])[:, 0], -(logp.exp() * logp).sum(-1), states[0][0]


@contextmanager
def _states(model: PreTrainedModel) -> Iterator[list[Tensor]]:
    """What goes into the product with the vocabulary."""
    seen: list[Tensor] = []

    def keep(_: nn.Module, inputs: Any) -> None:
        seen.append(inputs[0])

    head: Any = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(keep)
    try:
        yield seen
    finally:
        hook.remove()
