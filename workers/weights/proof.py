"""Proof that an engine holds the learner's weights: a checksum of every bit, and a few log-probs.

    learner: publishes weights; sums up their bits, and computes its own log-probs of a fixed row of tokens
    engine:  takes the weights over, sums up the bits of what it now holds, and computes the same log-probs

Both at the same time; the rollout worker compares what they come to.

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
from workers.types import Proof, Published
from workers.weights.arrays import bits

# Few, for a large model computes them in every publish; a wrong matrix shows in each. Those before the last are
# computed: three cost as much as one on a CPU, four twice as much.
PROBE_TOKENS = 4
# Mean difference of the log-probs that rounding explains; a wrong matrix makes differences of 1 and more.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.25, torch.float16: 0.25}


def checksum(arrays: Iterable[np.ndarray]) -> int:
    """Sum of the bit patterns of all numbers in the arrays, of four bytes at most each."""
    return sum(int(a.view(f"u{a.dtype.itemsize}").sum(dtype=np.uint32)) for a in arrays) % 2**32


def probe_ids(vocabulary: int) -> np.ndarray:
    """i32[K], the same for everyone who has as many tokens to choose from."""
    return np.random.default_rng(0).integers(vocabulary, size=PROBE_TOKENS).astype(np.int32)


@torch.no_grad()  # a sharded model gathers its weights as it goes, which inference mode does not allow
def probe_logprobs(decode: Decode, ids: np.ndarray, device: torch.device, dtype: torch.dtype) -> np.ndarray:
    """f32[K - 1]: what a model on `device` makes of the tokens, computing in `dtype`."""
    tokens = torch.from_numpy(ids.astype(np.int64)).to(device)
    position = torch.arange(len(ids) - 1, device=device)  # what follows the last token nobody asks
    attend = Packed(torch.tensor([len(position)], device=device))
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        logits = decode(tokens[None, :-1], position[None], attend, position)
    return logits.float().log_softmax(-1).gather(1, tokens[1:, None])[:, 0].cpu().numpy()


def prove(model: nn.Module, decode: Decode, weights: Published) -> Proof:
    """Of an adopted model that has just taken the weights over, and of how it generates."""
    parameters = [parameter.detach() for parameter in model.parameters()]
    own = sum_of(parameters) if same_format(weights, {p.element_size() for p in parameters}) else None
    logprobs = probe_logprobs(decode, weights.probe, parameters[0].device, torch.float32)
    return Proof(own, logprobs, TOLERANCE[parameters[0].dtype])


def sum_of(parameters: Iterable[Tensor]) -> int:
    """`checksum` of tensors."""
    return checksum(map(bits, parameters))


def same_format(weights: Published, sizes: set[int]) -> bool:
    """Whether numbers of these sizes in bytes can have the published bits."""
    return sizes == {array.dtype.itemsize for array in weights.arrays.values()}


def check(held: Proof, published: Proof, version: int) -> None:
    """Raises `RunFailed` unless what is held is what was published: the same bits, in whatever layout, where that can
    be told, and log-probs that differ by no more than rounding."""
    if held.checksum is not None and held.checksum != published.checksum:
        raise RunFailed(
            f"the weights it holds are not version {version}: checksum {held.checksum:08x}, "
            f"the learner's is {published.checksum:08x}"
        )
    gap = float(np.abs(held.logprobs - published.logprobs).mean())
    limit = max(held.tolerance, published.tolerance)
    if not gap <= limit:
        raise RunFailed(
            f"with version {version} its log-probs of {len(held.logprobs)} tokens differ from the learner's by "
            f"{gap:.2g} on average, expected at most {limit:g}"
        )


def publishable(model: nn.Module, arrays: dict[str, np.ndarray], version: int) -> Published:
    """An adopted model's weights, which are at hand as arrays."""
    return Published(version, arrays, probe_ids(model.config.vocab_size))  # pyright: ignore


def learners_proof(model: nn.Module, weights: Published, dtype: torch.dtype) -> Proof:
    """Of the adopted model whose weights were published as `dtype`, the format that it computes in."""
    # Of the parameters alone: engines make buffers themselves.
    buffers = {name for name, _ in model.named_buffers()}
    total = checksum(array for name, array in weights.arrays.items() if name not in buffers)
    device = next(model.parameters()).device
    return Proof(total, probe_logprobs(Whole(model), weights.probe, device, dtype), TOLERANCE[dtype])
