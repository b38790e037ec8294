"""Parameters as named numpy arrays, and back. bfloat16, which numpy lacks, travels as its uint16 bits."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn


def arrays_of(tensors: Iterable[tuple[str, Tensor]], dtype: torch.dtype) -> dict[str, np.ndarray]:
    """Tensors by name, floating ones as `dtype`; not copied where they are so already, on the CPU."""
    return {name: bits(tensor.to("cpu", dtype if tensor.is_floating_point() else None)) for name, tensor in tensors}


def bits(tensor: Tensor) -> np.ndarray:
    """The tensor as an array on the host, not copied where it lies there in one piece; bfloat16 as its uint16 bits."""
    tensor = tensor.cpu().contiguous()
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def tensor_of(array: np.ndarray) -> Tensor:
    """The way back, without a copy."""
    with warnings.catch_warnings():
        # Shared memory is read-only; it is only read from.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if array.dtype == np.uint16 else tensor


def empty(model: nn.Module) -> dict[nn.Parameter, torch.Size]:
    """Free the memory of every parameter; answers with their shapes, for `refill`."""
    shapes = {parameter: parameter.shape for parameter in model.parameters()}
    for parameter in shapes:
        parameter.data = parameter.data.new_empty(0)
    if any(parameter.is_cuda for parameter in shapes):
        torch.cuda.empty_cache()
    return shapes


def refill(shapes: Mapping[nn.Parameter, torch.Size]) -> None:
    """Give the parameters their memory back; what stands in it is anything, until `load_arrays`."""
    for parameter, shape in shapes.items():
        parameter.data = parameter.data.new_empty(shape)


@torch.no_grad()
def load_arrays(model: nn.Module, arrays: Mapping[str, np.ndarray]) -> None:
    """Copy the arrays into the model, whatever its own dtype.

    Raises `ValueError`, before anything is copied, where a name or a shape does not fit.
    """
    own = _fitting(model, arrays)
    for name, array in arrays.items():
        own[name].copy_(tensor_of(array))


@torch.no_grad()
def take_arrays(model: nn.Module, arrays: Mapping[str, np.ndarray]) -> None:
    """The model's parameters become the arrays: without a copy where they lie on its device, in its dtype. They are
    then not to be written to. Raises as `load_arrays` does."""
    own, parameters = _fitting(model, arrays), dict(model.named_parameters(remove_duplicate=False))
    for name, array in arrays.items():
        if name in parameters:
            parameters[name].data = tensor_of(array).to(parameters[name].device, parameters[name].dtype)
        else:
            own[name].copy_(tensor_of(array))


def _fitting(model: nn.Module, arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """The model's own tensors by name, where names and shapes fit."""
    own = model.state_dict()
    unknown = arrays.keys() - own.keys()
    held = {own[name].data_ptr() for name in arrays.keys() & own.keys()}  # tied weights come under one name
    missing = {name for name, tensor in own.items() if tensor.data_ptr() not in held}
    if unknown or missing:
        raise ValueError(f"weights do not fit the model: unknown {sorted(unknown)[:3]}, missing {sorted(missing)[:3]}")
    for name, array in arrays.items():
        if array.shape != tuple(own[name].shape):
            raise ValueError(f"weights do not fit the model: {name} is {array.shape}, not {tuple(own[name].shape)}")
    return own
