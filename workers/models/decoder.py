"""A decoder as generating needs it: token ids in, logits out, no gradient, no cache of its own.

    decode = decoder(adopted model)
    logits = decode(ids i64[B, T], position i64[B, T], attend, places i64[K])       f[K, V]

`attend` is as in `workers.models.attention`; `places` are those of the B * T tokens whose logits are wanted.

Of a small model's decoding step in transformers half is bookkeeping, module by module. `Lean` runs the decoders of
Llama's shape in half the calls. Norms, activation and rotary angles are the model's own modules. All other decoders run
as transformers has them.

A small model's queries, keys and values are one product besides, gate and up another: their weights lie side by side
in memory, and the model's own parameters are views of them, to be written to in place. In a large model products are
all the work, joined or not; there parameters may be put to other memory at any time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from workers.models.attention import Attend

# `model_type`s whose layers are: norm, attention with rotary positions, norm, gated MLP.
LEAN = ("llama", "mistral", "qwen2", "qwen3")
# Products are joined in models of fewer parameters.
SMALL = 20_000_000


class Decode(Protocol):
    """`joined`: parameters are views of the decoder's memory."""

    joined: bool

    def __call__(self, ids: Tensor, position: Tensor, attend: Attend, places: Tensor) -> Tensor: ...


def decoder(model: PreTrainedModel) -> Decode:
    """For an adopted model. Where the memory of its parameters changes (`workers.weights.arrays.refill`), make anew."""
    return Lean(model) if model.config.model_type in LEAN else Whole(model)


class Whole:
    """An adopted model as transformers runs it."""

    joined = False

    def __init__(self, model: nn.Module):
        self.model = model

    def __call__(self, ids: Tensor, position: Tensor, attend: Attend, places: Tensor) -> Tensor:
        rows = len(ids) == 1  # of the logits, those of one row's tokens can be asked for; else every row has its last
        wanted = {"logits_to_keep": places} if rows else {}
        logits = self.model(ids, position_ids=position, attend=attend, use_cache=False, **wanted).logits
        return logits[0] if rows else logits.flatten(0, 1)[places]


class Lean:
    """A decoder of Llama's shape."""

    def __init__(self, model: PreTrainedModel):
        trunk: Any = model.base_model
        self.embed, self.rotary, self.norm = trunk.embed_tokens, trunk.rotary_emb, trunk.norm
        self.head: Any = model.get_output_embeddings()
        self.joined = sum(parameter.numel() for parameter in model.parameters()) < SMALL
        self.layers = [_Layer(layer, self.joined) for layer in trunk.layers]

    def __call__(self, ids: Tensor, position: Tensor, attend: Attend, places: Tensor) -> Tensor:
        hidden = self.embed(ids)
        cos, sin = (x[:, :, None] for x in self.rotary(hidden, position))
        for number, layer in enumerate(self.layers):
            hidden = layer(number, hidden, cos, sin, attend)
        return self.head(self.norm(hidden).flatten(0, 1)[places])


class _Layer:
    def __init__(self, layer: Any, joined: bool):
        self.attention, self.mlp = layer.self_attn, layer.mlp
        self.before, self.after = layer.input_layernorm, layer.post_attention_layernorm
        a, m = self.attention, self.mlp
        make = _Joined if joined else _Apart
        self.qkv, self.gate_up = make([a.q_proj, a.k_proj, a.v_proj]), make([m.gate_proj, m.up_proj])
        self.q_norm, self.k_norm = getattr(a, "q_norm", None), getattr(a, "k_norm", None)

    def __call__(self, number: int, hidden: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
        """f[B, T, hidden] -> f[B, T, hidden]; cos and sin f[B, T, 1, D]."""
        rows, tokens, _ = hidden.shape
        q, k, v = (x.unflatten(-1, (-1, self.attention.head_dim)) for x in self.qkv(self.before(hidden)))
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = _turned(q, cos, sin), _turned(k, cos, sin)
        seen = attend(number, q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), self.attention.scaling)
        hidden = hidden + self.attention.o_proj(seen.reshape(rows, tokens, -1))
        gate, up = self.gate_up(self.after(hidden))
        return hidden.add_(self.mlp.down_proj(self.mlp.act_fn(gate).mul_(up)))


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """f[B, T, H, D] by their rotary angles, as transformers lays them: the first half of D with the second."""
    one, two = x.chunk(2, -1)
    return torch.addcmul(x * cos, torch.cat([-two, one], -1), sin)


class _Apart:
    """What several linear layers make of the same input."""

    def __init__(self, linears: Sequence[nn.Linear]):
        self.linears = linears

    def __call__(self, x: Tensor) -> Sequence[Tensor]:
        return [linear(x) for linear in self.linears]


class _Joined:
    """The same in one product; each layer's own weights and biases become views of the whole."""

    def __init__(self, linears: Sequence[nn.Linear]):
        self.sizes = [linear.out_features for linear in linears]
        biases = [linear.bias for linear in linears if linear.bias is not None]
        self.weight = _side_by_side([linear.weight for linear in linears])
        self.bias = _side_by_side(biases) if biases else None

    def __call__(self, x: Tensor) -> Sequence[Tensor]:
        return F.linear(x, self.weight, self.bias).split(self.sizes, -1)


def _side_by_side(parameters: Sequence[Tensor]) -> Tensor:
    joined = torch.cat([parameter.data for parameter in parameters])
    for parameter, part in zip(parameters, joined.split([len(p) for p in parameters]), strict=True):
        parameter.data = part
    return joined
