"""A model spread over the learner's ranks by FSDP2: each holds a part of every parameter, gradient and moment.

    shard(model, ranks)     in place; one rank alone keeps it whole
    whole(tensor)           the tensor in one piece, on every rank; all of them call it at the same time
    put(tensor, value)      each rank takes its part of `value`

Gradients are summed over ranks, not averaged: losses are sums over the denominator that all ranks share.
Parameters travel in float32, as they are kept, so that many ranks compute what one does, in bfloat16 too.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from workers.learner.ranks import Ranks


def shard(model: nn.Module, ranks: Ranks, device: torch.device) -> nn.Module:
    """Layer by layer, so that only one at a time is whole while it computes. It moves to `device` on the way."""
    if ranks.of == 1:
        return model
    mesh = init_device_mesh(device.type, (ranks.of,))
    for part in [*layers(model), model]:
        fully_shard(part, mesh=mesh)
    for part in model.modules():
        if isinstance(part, FSDPModule):
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)  # gloo knows sums, not scaled ones
    return model


def recompute(model: nn.Module) -> None:
    """Have every layer keep its inputs alone, and compute the rest once more on the way back (Chen et al., 2016)."""
    for layer in layers(model):
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)


def layers(model: nn.Module) -> list[nn.Module]:
    """The transformer's layers, as transformers marks them."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and persistent buffer once: a tied weight has one name."""
    yield from model.named_parameters()
    kept = model.state_dict().keys()
    yield from ((name, buffer) for name, buffer in model.named_buffers() if name in kept)


def whole(tensor: Tensor) -> Tensor:
    """In one piece. Without ranks it is the tensor itself, not a copy."""
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def put(tensor: Tensor, value: Tensor) -> None:
    """Copy this rank's part of `value` into the tensor."""
    if isinstance(tensor, DTensor):
        value = distribute_tensor(value.to(tensor.device), tensor.device_mesh, tensor.placements, src_data_rank=None)
    tensor.detach().copy_(value)
