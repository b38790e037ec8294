"""Parameters as named numpy arrays, and back. bfloat16, which numpy lacks, travels as its uint16 bits."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import nn

from workers.types import Published


def to_arrays(model: nn.Module, dtype: torch.dtype) -> dict[str, np.ndarray]:
    """Every parameter and persistent buffer once (a tied weight has one entry), floating ones as `dtype`.

    What is on the CPU and of that dtype already is not copied: the arrays change as the model does.
    """
    arrays: dict[str, np.ndarray] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() in seen:
            continue
        seen.add(tensor.data_ptr())
        tensor = tensor.detach().to("cpu", dtype if tensor.is_floating_point() else tensor.dtype).contiguous()
        arrays[name] = (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return arrays


@torch.no_grad()
def load_arrays(model: nn.Module, weights: Published) -> None:
    """Copy the arrays into the model, whatever its own dtype.

    Raises `ValueError`, before anything is copied, where a name or a shape does not fit.
    """
    own, arrays = model.state_dict(), weights.arrays
    unknown = arrays.keys() - own.keys()
    held = {own[name].data_ptr() for name in arrays.keys() & own.keys()}  # tied weights come under one name
    missing = {name for name, tensor in own.items() if tensor.data_ptr() not in held}
    if unknown or missing:
        raise ValueError(f"weights do not fit the model: unknown {sorted(unknown)[:3]}, missing {sorted(missing)[:3]}")
    for name, array in arrays.items():
        if array.shape != tuple(own[name].shape):
            raise ValueError(f"weights do not fit the model: {name} is {array.shape}, not {tuple(own[name].shape)}")
    with warnings.catch_warnings():
        # Shared memory is read-only; it is only read from.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        for name, array in arrays.items():
            tensor = torch.from_numpy(array)
            own[name].copy_(tensor.view(torch.bfloat16) if array.dtype == np.uint16 else tensor)
