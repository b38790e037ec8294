"""Parameters as named numpy arrays, and back. bfloat16, which numpy lacks, travels as its uint16 bits."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import nn

from workers.types import Published


def to_arrays(model: nn.Module) -> dict[str, np.ndarray]:
    """Every parameter and persistent buffer once (a tied weight has one entry), copied to the CPU."""
    arrays: dict[str, np.ndarray] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() in seen:
            continue
        seen.add(tensor.data_ptr())
        tensor = tensor.detach().cpu().contiguous()
        arrays[name] = (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return arrays


@torch.no_grad()
def load_arrays(model: nn.Module, weights: Published) -> None:
    """Copy the arrays into the model. Raises `ValueError` where a name or a shape does not fit."""
    own = model.state_dict()
    unknown = weights.arrays.keys() - own.keys()
    tied = {own[name].data_ptr() for name in weights.arrays.keys() & own.keys()}
    missing = {name for name, tensor in own.items() if name not in weights.arrays and tensor.data_ptr() not in tied}
    if unknown or missing:
        raise ValueError(f"weights do not fit the model: unknown {sorted(unknown)[:3]}, missing {sorted(missing)[:3]}")
    for name, array in weights.arrays.items():
        with warnings.catch_warnings():
            # Shared memory is read-only; it is only read from.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            tensor = torch.from_numpy(array)
        tensor = tensor.view(torch.bfloat16) if array.dtype == np.uint16 else tensor
        if tensor.shape != own[name].shape:
            raise ValueError(
                f"weights do not fit the model: {name} is {tuple(tensor.shape)}, not {tuple(own[name].shape)}"
            )
        own[name].copy_(tensor)
