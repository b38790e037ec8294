"""The policy in a learner's hands: whole in one process, or spread over many by FSDP2; with adapters, or without."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from workers.learner.descent import Descent
from workers.learner.head import has_plain_head
from workers.learner.ranks import Ranks
from workers.learner.sharding import named_tensors, put, recompute, shard, whole
from workers.models import Lora
from workers.models.attention import adopt
from workers.models.load import load_model, load_tokenizer
from workers.types import Optimization


class Values(Protocol):
    """Tensors by name, read when they are asked for."""

    def __getitem__(self, name: str) -> Tensor: ...


class Holder:
    """Holds the policy on `device`, and knows how it, and whatever learns beside it, is spread over the ranks.

    What many ranks hold they gather and fill together: each of these methods is called on all of them.
    """

    def __init__(self, model_path: str, device: torch.device, gradient_checkpointing: bool, lora: Lora | None):
        self.device, self.gradient_checkpointing, self.lora = device, gradient_checkpointing, lora
        self.ranks = Ranks.here()
        self.tokenizer = load_tokenizer(model_path)
        self.take(model_path)

    def take(self, model_path: str) -> None:
        """Hold the model of a directory or hub name, as it lies there."""
        self.path = model_path
        policy = self._fresh()
        self.plain_head = has_plain_head(policy)
        self.policy = self.spread(policy)

    def _fresh(self) -> PreTrainedModel:
        """The model as it lies on disk, in one piece: on the device where it is to stay so, else on the host."""
        model = self._bare()
        if not self.lora:
            return model
        from workers.learner.lora import put_on  # peft takes a second to import

        adapted: Any = put_on(model, self.lora)
        return adapted.to(model.device)

    def _bare(self) -> PreTrainedModel:
        device = self.device if self.ranks.of == 1 else torch.device("cpu")
        # eval mode throughout: dropout would make the learner's log-probs differ from the rollout's.
        return adopt(load_model(self.path, "float32", device)).eval().requires_grad_(True)

    def spread(self, model: Any) -> Any:
        """Give every rank its part of the model."""
        if self.gradient_checkpointing and any(p.requires_grad for p in model.parameters()):
            recompute(model)
        return shard(model, self.ranks, self.device)

    def descent(self, model: nn.Module, optimization: Optimization, first: int = 0) -> Descent:
        """What moves the model."""
        return Descent(model, optimization, first)

    def runs(self, model: nn.Module) -> Any:
        """What is called in the model's place, if anything."""
        return None

    def tensors(self, model: nn.Module) -> Iterator[tuple[str, Tensor]]:
        """Parameters and buffers of the policy, the reference or a critic by name, each in one piece when it is its
        turn. All ranks go through them together."""
        return ((name, whole(tensor)) for name, tensor in named_tensors(model))

    def shapes(self, model: nn.Module) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Of `tensors`, without gathering them."""
        return ((name, tuple(tensor.shape)) for name, tensor in named_tensors(model))

    def gradient(self, parameter: nn.Parameter) -> Tensor:
        """What has been added up for a parameter, in one piece, as `tensors` are."""
        return torch.zeros_like(whole(parameter)) if parameter.grad is None else whole(parameter.grad)

    def fill(self, model: nn.Module, values: Values) -> None:
        """Give the model other weights, by the names of `tensors`."""
        for name, tensor in named_tensors(model):
            put(tensor, values[name])

    def in_one_piece(self) -> PreTrainedModel:
        """The policy as it stands, on every rank: itself, where it is not spread."""
        if self.ranks.of == 1:
            return self.policy
        model = self._fresh()
        for (_, to), (_, tensor) in zip(named_tensors(model), self.tensors(self.policy), strict=True):
            put(to, tensor)
        return model

    def plain_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """`tensors` of the policy as anybody else knows it: adapters are merged into what they stand beside."""
        if not self.lora:
            return self.tensors(self.policy)
        from workers.learner.lora import merged

        return merged(self.policy, self.lora, self.tensors(self.policy))

    def plain(self) -> PreTrainedModel:
        """`in_one_piece`, without adapters."""
        if not self.lora:
            return self.in_one_piece()
        model = self._bare()
        tensors = dict(named_tensors(model))
        for name, value in self.plain_tensors():
            put(tensors[name], value)
        return model

    def frozen(self) -> PreTrainedModel:
        """The policy as it stands, to stay so: a copy of it, or of its adapter (see `as_reference`)."""
        if not self.lora:
            return self.spread(copy.deepcopy(self.in_one_piece()).requires_grad_(False))
        from workers.learner.lora import remember

        remember(self.policy)
        return self.policy

    def as_reference(self) -> AbstractContextManager[None]:
        """Inside, what `frozen` gave computes as it did then."""
        if not self.lora:
            return nullcontext()
        from workers.learner.lora import as_reference

        return as_reference(self.policy)

    def save_adapter(self, directory: Path) -> None:
        """In a folder of its own beside the merged model; nothing, where there is none."""
        if self.lora:
            from workers.learner.lora import save_adapter

            save_adapter(self.lora, self.path, self.tensors(self.policy), directory / "adapter", self.ranks)
