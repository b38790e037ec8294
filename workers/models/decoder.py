"""A decoder as generating needs it: token ids in, logits out, no gradient, no cache of its own.

    decode = decoder(adopted model)
    logits = decode(ids i64[B, T], position i64[B, T], attend, places i64[K])       f[K, V]

`attend` is as in `workers.models.attention`; `places` are those of the B * T tokens whose logits are wanted.

Of a small model's decoding step in transformers half is bookkeeping, module by module. `Lean` runs the decoders of
Llama's shape in half the calls: queries, keys and values in one product, gate and up in another. The products' weights
lie side by side in memory and the model's own parameters are views of them, so whoever loads weights into the model
loads them here. Norms, activation and rotary angles are the model's own modules. All other decoders run as
transformers has them.
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


class Decode(Protocol):
    def __call__(self, ids: Tensor, position: Tensor, attend: Attend, places: Tensor) -> Tensor: ...


def decoder(model: PreTrainedModel) -> Decode:
    """For an adopted model. Where the memory of its parameters changes (`workers.weights.arrays.refill`), make anew."""
    return Lean(model) if model.config.model_type in LEAN else whole(model)


def whole(model: nn.Module) -> Decode:
    """An adopted model as transformers runs it."""

    def decode(ids: Tensor, position: Tensor, attend: Attend, places: Tensor) -> Tensor:
        rows = len(ids) == 1  # of the logits, those of one row's tokens can be asked for; else every row has its last
        wanted = {"logits_to_keep": places} if rows else {}
        logits = model(ids, position_ids=position, attend=attend, use_cache=False, **wanted).logits
        return logits[0] if rows else logits.flatten(0, 1)[places]

    return decode


class Lean:
    """A decoder of Llama's shape."""

    def __init__(self, model: PreTrainedModel):
        trunk: Any = model.base_model
        self.embed, self.rotary, self.norm = trunk.embed_tokens, trunk.rotary_emb, trunk.norm
        self.head: Any = model.get_output_embeddings()
        self.layers = [_Layer(layer) for layer in trunk.layers]

    def __call__(self, ids: Tensor, position: Tensor, attend: Attend, places: Tensor) -> Tensor:
        hidden = self.embed(ids)
        cos, sin = (x[:, :, None] for x in self.rotary(hidden, position))
        for number, layer in enumerate(self.layers):
            hidden = layer(number, hidden, cos, sin, attend)
        return self.head(self.norm(hidden).flatten(0, 1)[places])


class _Layer:
    def __init__(self, layer: Any):
        self.attention, self.mlp = layer.self_attn, layer.mlp
        self.before, self.after = layer.input_layernorm, layer.post_attention_layernorm
        a, m = self.attention, self.mlp
        self.qkv, self.qkv_bias = _joined([a.q_proj, a.k_proj, a.v_proj])
        self.gate_up, self.gate_up_bias = _joined([m.gate_proj, m.up_proj])
        self.dim = a.head_dim
        self.heads = [proj.out_features // self.dim for proj in (a.q_proj, a.k_proj, a.v_proj)]
        self.q_norm, self.k_norm = getattr(a, "q_norm", None), getattr(a, "k_norm", None)

    def __call__(self, number: int, hidden: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
        """f[B, T, hidden] -> f[B, T, hidden]; cos and sin f[B, T, 1, D]."""
        rows, tokens, _ = hidden.shape
        fused = F.linear(self.before(hidden), self.qkv, self.qkv_bias).view(rows, tokens, -1, self.dim)
        q, k, v = fused.split(self.heads, 2)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = _turned(self.q_norm(q), cos, sin), _turned(self.k_norm(k), cos, sin)
        else:
            q, k = _turned(fused[:, :, : -self.heads[2]], cos, sin).split(self.heads[:2], 2)
        seen = attend(number, q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), self.attention.scaling)
        hidden = hidden + self.attention.o_proj(seen.reshape(rows, tokens, -1))
        gate, up = F.linear(self.after(hidden), self.gate_up, self.gate_up_bias).chunk(2, -1)
        return hidden.add_(self.mlp.down_proj(self.mlp.act_fn(gate).mul_(up)))


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """f[B, T, H, D] by their rotary angles, as transformers lays them: the first half of D with the second."""
    one, two = x.chunk(2, -1)
    return torch.addcmul(x * cos, torch.cat([-two, one], -1), sin)


def _joined(linears: Sequence[nn.Linear]) -> tuple[Tensor, Tensor | None]:
    """The layers' weights and biases as one; each layer's own become views of it."""
    biases = [linear.bias for linear in linears if linear.bias is not None]
    return _side_by_side([linear.weight for linear in linears]), _side_by_side(biases) if biases else None


def _side_by_side(parameters: Sequence[nn.Parameter]) -> Tensor:
    joined = torch.cat([parameter.data for parameter in parameters])
    for parameter, part in zip(parameters, joined.split([len(p) for p in parameters]), strict=True):
        parameter.data = part
    return joined
