"""Low-rank adapters by peft (Hu et al., 2021): W + alpha / rank * B A, of which A and B alone are learned.

A policy wears two: the one that learns, and a frozen copy of it as the stage began, which is the reference (no second
model is kept for that). Engines and model directories get the merged weights; the adapter is saved beside them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers import PreTrainedModel

from rewards.errors import Refused
from workers.learner.ranks import Ranks
from workers.models import Lora
from workers.models.shards import write

LEARNS, REFERENCE = "default", "reference"


def put_on(model: PreTrainedModel, spec: Lora) -> PreTrainedModel:
    """Both adapters, alike, drawn the same way every time; all else is frozen. Raises `Refused` for unknown targets."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # That there are two adapters, and that a Conv1D holds its matrix the other way round.
        warnings.simplefilter("ignore", UserWarning)
        for name in (LEARNS, REFERENCE):
            torch.manual_seed(0)
            try:
                inject_adapter_in_model(_config(spec), model, name)
            except ValueError as error:
                raise Refused(f"learner.lora.targets: {' '.join(str(error).split())[:200]}") from error
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(f".{LEARNS}." in name)
    _wear(model, LEARNS)
    return model


def _config(spec: Lora) -> LoraConfig:
    targets = list(spec.targets) or "all-linear"
    return LoraConfig(r=spec.rank, lora_alpha=spec.alpha, target_modules=targets, task_type="CAUSAL_LM")  # pyright: ignore[reportArgumentType]


def _wear(model: PreTrainedModel, name: str) -> None:
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module._active_adapter = [name]  # `set_adapter` would also say what learns


@contextmanager
def as_reference(model: PreTrainedModel) -> Iterator[None]:
    """Inside, the model computes as it did when the stage began."""
    _wear(model, REFERENCE)
    try:
        yield
    finally:
        _wear(model, LEARNS)


@torch.no_grad()
def remember(model: PreTrainedModel) -> None:
    """The reference becomes what has been learned so far."""
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        if f".{LEARNS}." in name:
            parameters[name.replace(f".{LEARNS}.", f".{REFERENCE}.")].copy_(parameter)


def merged(model: PreTrainedModel, spec: Lora, tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """The model's whole tensors, by the names and with the values that they have without adapters."""
    turned = {
        name for name, m in model.named_modules() if isinstance(m, LoraLayer) and getattr(m, "fan_in_fan_out", False)
    }
    base = a = torch.empty(0)
    for name, tensor in tensors:
        layer, _, rest = name.partition(".base_layer.")
        if rest == "weight":
            base = tensor
        elif f".lora_A.{LEARNS}." in name:
            a = tensor
        elif f".lora_B.{LEARNS}." in name:
            layer = name.partition(".lora_B.")[0]
            delta = tensor @ a * (spec.alpha / spec.rank)
            yield f"{layer}.weight", base + (delta.T if layer in turned else delta)
        elif ".lora_" not in name:
            yield (f"{layer}.{rest}" if rest else name), tensor


def save_adapter(spec: Lora, base: str, tensors: Iterable[tuple[str, Tensor]], directory: Path, ranks: Ranks) -> None:
    """As `peft.PeftModel.from_pretrained` reads it, on the model that lies at `base`. All ranks go through the tensors,
    the first one writes."""
    own = [(name, tensor.to("cpu", copy=True)) for name, tensor in tensors if f".{LEARNS}." in name]
    if ranks.number:
        return
    directory.mkdir(exist_ok=True)
    config = _config(spec)
    config.base_model_name_or_path, config.inference_mode = base, True
    config.save_pretrained(str(directory))
    named = ((f"base_model.model.{name.replace(f'.{LEARNS}.', '.')}", tensor) for name, tensor in own)
    write(directory, "adapter_model", named)
