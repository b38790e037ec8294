"""Weights as arrays, and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import SIZES, make, to_arrays

from workers.models.load import load_model
from workers.weights.arrays import load_arrays, take_arrays


@pytest.fixture(scope="module", params=list(SIZES))
def models(request, tmp_path_factory):
    """Two models of one shape with different weights."""
    return [load_model(make(tmp_path_factory.mktemp("m"), request.param, seed)) for seed in (0, 1)]


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def frozen(arrays):
    """As they come out of the object store: read-only."""
    out = {name: array.copy() for name, array in arrays.items()}
    for array in out.values():
        array.flags.writeable = False
    return out


def test_float32_arrives_bit_for_bit(models):
    source, target = models
    assert any(not torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))
    load_arrays(target, frozen(to_arrays(source, torch.float32)))
    for name, tensor in state(source).items():
        assert torch.equal(tensor, target.state_dict()[name]), name


def test_float32_is_taken_over_without_a_copy(models):
    source, target = models
    arrays = frozen(to_arrays(source, torch.float32))
    take_arrays(target, arrays)
    for name, tensor in state(source).items():
        assert torch.equal(tensor, target.state_dict()[name]), name
    for name, parameter in target.named_parameters():
        assert np.shares_memory(parameter.detach().numpy(), arrays[name]), name
    take_arrays(target, frozen(to_arrays(source, torch.bfloat16)))  # nothing is written into what was taken over
    rounded = {name: tensor.to(torch.bfloat16).float() for name, tensor in state(source).items()}
    assert all(torch.equal(rounded[name], tensor) for name, tensor in target.state_dict().items())


def test_a_tied_weight_travels_once(models):
    source, _ = models
    arrays = to_arrays(source, torch.float32)
    assert sum(array.size for array in arrays.values()) == sum(p.numel() for p in source.parameters())
    assert ("lm_head.weight" in arrays) == (not source.config.tie_word_embeddings)


def test_bfloat16_travels_as_its_bits(models):
    source, target = models
    arrays = frozen(to_arrays(source, torch.bfloat16))
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.uint16)}
    rounded = {name: tensor.to(torch.bfloat16) for name, tensor in state(source).items()}
    load_arrays(target, arrays)
    assert all(torch.equal(rounded[name].float(), tensor) for name, tensor in target.state_dict().items())
    half = target.to(torch.bfloat16)
    load_arrays(half, frozen(to_arrays(source, torch.float32)))
    assert all(torch.equal(rounded[name], tensor) for name, tensor in half.state_dict().items())
    target.float()


@pytest.mark.parametrize("load", [load_arrays, take_arrays])
@pytest.mark.parametrize("fault", ["unknown", "missing", "shape"])
def test_what_does_not_fit_is_refused_before_anything_is_copied(models, fault, load):
    source, target = models
    arrays = {name: array + 1 for name, array in to_arrays(source, torch.float32).items()}
    last = list(arrays)[-1]
    if fault == "unknown":
        arrays["model.layers.9.weight"] = arrays[last]
    elif fault == "missing":
        del arrays[last]
    else:
        arrays[last] = arrays[last][..., :-1]
    before = state(target)
    with pytest.raises(ValueError, match="model.layers.9" if fault == "unknown" else last):
        load(target, arrays)
    assert all(torch.equal(before[name], tensor) for name, tensor in target.state_dict().items())
