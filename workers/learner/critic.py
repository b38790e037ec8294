"""A scalar model in the learner's hands: a critic beside the policy, or a reward model in its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rewards.errors import Refused
from workers.learner.sharding import named_tensors, put
from workers.models.load import load_tokenizer
from workers.models.scalar import apply_head, blank, load_scalar, on_trunk, scalar_head, scalars
from workers.types import MicroBatch, Optimization, Scalar

if TYPE_CHECKING:
    from workers.learner.engine_torch import TorchLearner


class ScalarLearner:
    """The model that `Scalar` describes, and its own AdamW, spread as the learner's policy is. Weights are float32; the
    trunk computes in the learner's `dtype`.

    Raises `Refused` where `start` has no scalar model, one of another vocabulary, or one with another number of heads.
    """

    def __init__(self, spec: Scalar, learner: TorchLearner, optimization: Optimization):
        self.spec, self.learner = spec, learner
        lr = optimization.lr if spec.lr is None else spec.lr
        self.model = learner.spread(_made(spec, learner))
        self.descent = learner.descent(self.model, replace(optimization, lr=lr))

    def numbers(self, batch: MicroBatch, hidden: Tensor | None) -> Tensor:
        """f32[N, heads] or f32[S, heads], with gradient. A shared trunk's states f[N, hidden] come from outside, and
        so does their gradient."""
        if not isinstance(self.model, PreTrainedModel):
            assert hidden is not None, "a shared trunk's states come with the policy's forward pass"
            return apply_head(self.model, hidden)
        positions = batch.lengths.cumsum(0) - 1 if self.spec.at == "last" else batch.own - int(self.spec.at == "own")
        return scalars(self.model, batch, positions, self.learner.dtype, self.learner.runs(self.model))

    def loss(self, batch: MicroBatch, hidden: Tensor | None) -> tuple[Tensor, Mapping[str, tuple[Any, Any]]]:
        """The spec's loss of the numbers, as a sum, and its metrics."""
        return self.spec.loss(batch, self.numbers(batch, hidden))

    def in_one_piece(self) -> PreTrainedModel:
        """See `Holder.in_one_piece`."""
        assert isinstance(self.model, PreTrainedModel)
        if self.learner.ranks.of == 1:
            return self.model
        model = blank(self.model.config)
        for (_, to), (_, tensor) in zip(named_tensors(model), self.learner.tensors(self.model), strict=True):
            put(to, tensor)
        return model


def _made(spec: Scalar, learner: TorchLearner) -> torch.nn.Module:
    if spec.shared:
        hidden: int = learner.policy.config.get_text_config().hidden_size
        return scalar_head(hidden, spec.heads, spec.depth, spec.seed).to(learner.device)
    if spec.start is None:
        return on_trunk(learner.plain(), spec.heads, spec.depth, spec.seed, spec.peers)
    if load_tokenizer(spec.start).get_vocab() != learner.tokenizer.get_vocab():
        raise Refused(
            f"model {spec.start!r}: its vocabulary is not the policy's, expected a scalar model that reads the "
            "policy's tokens"
        )
    model = load_scalar(spec.start, learner.device)
    if model.config.num_labels != spec.heads:
        raise Refused(f"model {spec.start!r}: has {model.config.num_labels} heads, expected {spec.heads}")
    return model
