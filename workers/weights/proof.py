"""Proof that an engine holds the learner's weights: a checksum of every bit, and a few log-probs.

    learner: publish weights, their checksum, and its own log-probs of a fixed row of tokens
    engine:  takes the weights over, sums up the bits of what it now holds, and computes the same log-probs

The checksum is the sum of all parameters' bit patterns as whole numbers, modulo 2^32: it stays the same however an
engine fuses or pads its matrices, and changes with any one bit. What it can't see, weights in the wrong place, the
log-probs see.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from rewards.errors import RunFailed
from workers.models.attention import Packed
from workers.models.decoder import Decode, Whole
from workers.types import Probe, Published
from workers.weights.arrays import bits, to_arrays

PROBE_TOKENS = 4  # few, for a large model computes them in every publish; a wrong matrix shows in each
# Mean difference of the log-probs that rounding explains; a wrong matrix makes differences of 1 and more.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.25, torch.float16: 0.25}


def checksum(arrays: Iterable[np.ndarray]) -> int:
    """Sum of the bit patterns of all numbers in the arrays, of four bytes at most each."""
    return sum(int(a.view(f"u{a.dtype.itemsize}").sum(dtype=np.uint32)) for a in arrays) % 2**32


def probe_ids(vocabulary: int) -> np.ndarray:
    """i32[K], the same for everyone who has as many tokens to choose from."""
    return np.random.default_rng(0).integers(vocabulary, size=PROBE_TOKENS).astype(np.int32)


@torch.inference_mode()
def probe_logprobs(decode: Decode, ids: np.ndarray, device: torch.device, dtype: torch.dtype) -> np.ndarray:
    """f32[K - 1]: what a model on `device` makes of the tokens, computing in `dtype`."""
    tokens = torch.from_numpy(ids.astype(np.int64)).to(device)
    position = torch.arange(len(ids), device=device)
    attend = Packed(torch.tensor([len(ids)], device=device))
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        logits = decode(tokens[None], position[None], attend, position[:-1])
    return logits.float().log_softmax(-1).gather(1, tokens[1:, None])[:, 0].cpu().numpy()


def prove(model: nn.Module, decode: Decode, weights: Published) -> None:
    """For an adopted model that has just taken the weights over, and how it generates. Raises `RunFailed` where it does
    not hold them."""
    parameters = [parameter.detach() for parameter in model.parameters()]
    check_sum(parameters, weights)
    held = probe_logprobs(decode, weights.probe.ids, parameters[0].device, torch.float32)
    check_probe(held, weights, parameters[0].dtype)


def check_sum(parameters: list[Tensor], weights: Published) -> None:
    """Raises `RunFailed` unless the parameters are those published, in whatever layout; cannot tell, and says nothing,
    where they are kept in another number format."""
    published = {array.dtype.itemsize for array in weights.arrays.values()}
    if published != {parameter.element_size() for parameter in parameters}:
        return
    if (held := checksum(map(bits, parameters))) != weights.checksum:
        raise RunFailed(
            f"the weights it holds are not version {weights.version}: checksum {held:08x}, "
            f"the learner's is {weights.checksum:08x}"
        )


def check_probe(logprobs: np.ndarray, weights: Published, dtype: torch.dtype) -> None:
    """Raises `RunFailed` where the engine's log-probs of the probe differ from the learner's by more than rounding."""
    gap = float(np.abs(logprobs - weights.probe.logprobs).mean())
    limit = TOLERANCE[torch.bfloat16 if _halves(weights) else dtype]
    if not gap <= limit:
        raise RunFailed(
            f"with version {weights.version} its log-probs of {len(logprobs)} tokens differ from the learner's by "
            f"{gap:.2g} on average, expected at most {limit:g}"
        )


def _halves(weights: Published) -> bool:
    return any(array.dtype.itemsize == 2 for array in weights.arrays.values())


def publishable(model: nn.Module, version: int, dtype: torch.dtype) -> Published:
    """An adopted model's weights as `dtype`, with what proves them."""
    arrays = to_arrays(model, dtype)
    # Of the parameters alone: engines make buffers themselves.
    total = checksum(arrays[name] for name, _ in model.named_parameters())
    ids = probe_ids(model.config.vocab_size)  # pyright: ignore
    device = next(model.parameters()).device
    return Published(version, arrays, total, Probe(ids, probe_logprobs(Whole(model), ids, device, dtype)))
