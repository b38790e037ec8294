"""A decoder as generating needs it: token ids in, logits out, no gradient, no cache of its own.

    decode = decoder(adopted model)
    logits = decode(ids i64[B, T], position i64[B, T], attend, places i64[K])       f[K, V]

`attend` is as in `workers.models.attention`; `places` are those of the B * T tokens whose logits are wanted, None: all.

Of a small model's decoding step in transformers half is bookkeeping, module by module. `Lean` runs the decoders of
Llama's shape in a third of the calls. Activation and rotary angles are the model's own modules. All other decoders run
as transformers has them.

A small model's queries, keys and values are one product besides, gate and up another: their weights lie side by side
in memory, and the model's own parameters are views of them, to be written to in place. In a large model products are
all the work, joined or not; there parameters may be put to other memory at any time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
# Kinds of rotary angles that depend on the place alone; others also on how long the sequence is.
FIXED = ("default", "linear", "llama3", "yarn")


class Decode(Protocol):
    """`joined`: parameters are views of the decoder's memory."""

    joined: bool

    def __call__(self, ids: Tensor, position: Tensor, attend: Attend, places: Tensor | None) -> Tensor: ...


def decoder(model: PreTrainedModel) -> Decode:
    """For an adopted model. Where the memory of its parameters changes (`workers.weights.arrays.refill`), make anew."""
    return Lean(model) if model.config.model_type in LEAN else Whole(model)


class Whole:
    """An adopted model as transformers runs it."""

    joined = False

    def __init__(self, model: nn.Module):
        self.model = model

    def __call__(self, ids: Tensor, position: Tensor, attend: Attend, places: Tensor | None) -> Tensor:
        some = len(ids) == 1 and places is not None  # of one row's tokens, logits can be asked for
        wanted = {"logits_to_keep": places} if some else {}
        logits = self.model(ids, position_ids=position, attend=attend, use_cache=False, **wanted).logits.flatten(0, 1)
        return logits if some or places is None else logits[places]


class Lean:
    """A decoder of Llama's shape."""

    def __init__(self, model: PreTrainedModel):
        trunk: Any = model.base_model
        self.embed, self.rotary, self.norm = trunk.embed_tokens, trunk.rotary_emb, trunk.norm
        self.head: Any = model.get_output_embeddings()
        self.joined = sum(parameter.numel() for parameter in model.parameters()) < SMALL
        self.layers = [(_Joint if self.joined else _Layer)(layer) for layer in trunk.layers]
        self.turns: Tensor | None = None  # `_turn` of the first places, where it depends on the place alone

    def __call__(self, ids: Tensor, position: Tensor, attend: Attend, places: Tensor | None) -> Tensor:
        hidden = self.embed(ids)
        cos, sin = self._turn(hidden, position).unsqueeze(3).unbind(2)
        for number, layer in enumerate(self.layers):
            hidden = layer(number, hidden, (cos, sin), attend)
        hidden = hidden.flatten(0, 1)
        return self.head(_normed(self.norm, hidden if places is None else hidden[places]))

    def _turn(self, hidden: Tensor, position: Tensor) -> Tensor:
        """`Turn` as f[B, T, 2, D]; looked up where it can be, for working it out takes as long as a layer's norms."""
        if self.rotary.rope_type not in FIXED:
            return self._angles(hidden, position)
        most = int(position.max())
        if self.turns is None or most >= len(self.turns):
            self.turns = self._angles(hidden, torch.arange(2 * most + 2, device=position.device)[None])[0]
        return self.turns[position]

    def _angles(self, hidden: Tensor, position: Tensor) -> Tensor:
        cos, sin = self.rotary(hidden, position)
        one, two = sin.chunk(2, -1)
        return torch.stack([cos, torch.cat([-one, two], -1)], 2)


# Of every place the cosines of its rotary angles, and their sines with the signs of `_turned`; f[B, T, 1, D] each.
Turn = tuple[Tensor, Tensor]


class _Layer:
    def __init__(self, layer: Any):
        self.attention, self.mlp = layer.self_attn, layer.mlp
        self.before, self.after = layer.input_layernorm, layer.post_attention_layernorm
        self.q_norm, self.k_norm = (getattr(self.attention, name, None) for name in ("q_norm", "k_norm"))
        self.head_dim: int = self.attention.head_dim

    def __call__(self, number: int, hidden: Tensor, turn: Turn, attend: Attend) -> Tensor:
        """f[B, T, hidden], which it writes to."""
        q, k, v = (x.transpose(1, 2) for x in self.heads(_normed(self.before, hidden), turn))
        seen = attend(number, q, k, v, self.attention.scaling)
        _add(self.attention.o_proj, seen.flatten(2), hidden)
        gate, up = self.gated(_normed(self.after, hidden))
        _add(self.mlp.down_proj, self.mlp.act_fn(gate).mul_(up), hidden)
        return hidden

    def heads(self, x: Tensor, turn: Turn) -> Sequence[Tensor]:
        """f[B, T, hidden] -> queries, keys, values f[B, T, H, D]"""
        a = self.attention
        q, k, v = (linear(x).unflatten(-1, (-1, self.head_dim)) for linear in (a.q_proj, a.k_proj, a.v_proj))
        if self.q_norm is not None and self.k_norm is not None:
            q, k = _normed(self.q_norm, q), _normed(self.k_norm, k)
        return *_turned(q, turn), *_turned(k, turn), v

    def gated(self, x: Tensor) -> Sequence[Tensor]:
        return self.mlp.gate_proj(x), self.mlp.up_proj(x)


class _Joint(_Layer):
    """The same with one product where several layers have the same input; queries and keys are turned together."""

    def __init__(self, layer: Any):
        super().__init__(layer)
        a, m = self.attention, self.mlp
        self.qkv, self.gate_up = _Joined([a.q_proj, a.k_proj, a.v_proj]), _Joined([m.gate_proj, m.up_proj])
        self.counts = [linear.out_features // self.head_dim for linear in (a.q_proj, a.k_proj, a.v_proj)]

    def heads(self, x: Tensor, turn: Turn) -> Sequence[Tensor]:
        queries, keys, values = self.counts
        qk, v = self.qkv(x).unflatten(-1, (-1, self.head_dim)).split([queries + keys, values], 2)
        if self.q_norm is not None and self.k_norm is not None:
            qk = _unit(qk, self.q_norm.variance_epsilon)
            qk[:, :, :queries].mul_(self.q_norm.weight)
            qk[:, :, queries:].mul_(self.k_norm.weight)
        return *_turned(qk, turn, (queries, keys)), v

    def gated(self, x: Tensor) -> Sequence[Tensor]:
        return self.gate_up(x).split(self.gate_up.sizes, -1)


def _normed(norm: Any, x: Tensor) -> Tensor:
    return _unit(x, norm.variance_epsilon).mul_(norm.weight)


def _unit(x: Tensor, epsilon: float) -> Tensor:
    """x over the root of its mean square."""
    if x.is_cuda or x.dtype != torch.float32:
        return F.rms_norm(x, x.shape[-1:], eps=epsilon)
    # The same in half the passes over memory that `rms_norm` makes on a CPU.
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x * norm.square_().mul_(1 / x.shape[-1]).add_(epsilon).rsqrt_()


def _turned(x: Tensor, turn: Turn, heads: Sequence[int] = ()) -> Iterator[Tensor]:
    """f[B, T, H, D] by their rotary angles, as transformers lays them: the first half of D with the second; so many
    heads each, all of them by default."""
    cos, sin = turn
    parts = zip(*(y.split(list(heads) or x.shape[2], 2) for y in (x * cos, x.roll(x.shape[-1] // 2, -1))), strict=True)
    return (torch.addcmul(straight, across, sin) for straight, across in parts)


def _add(linear: nn.Linear, x: Tensor, hidden: Tensor) -> None:
    """Add to hidden f[B, T, hidden] what a layer makes of x f[B, T, width]."""
    flat = hidden.flatten(0, 1).addmm_(x.flatten(0, 1), linear.weight.t())
    if linear.bias is not None:
        flat.add_(linear.bias)


class _Joined:
    """What several linear layers make of the same input, in one product f[..., sum of sizes]; each layer's own weights
    and biases become views of the whole."""

    def __init__(self, linears: Sequence[nn.Linear]):
        self.sizes = [linear.out_features for linear in linears]
        biases = [linear.bias for linear in linears if linear.bias is not None]
        self.weight = _side_by_side([linear.weight for linear in linears])
        self.bias = _side_by_side(biases) if biases else None

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


def _side_by_side(parameters: Sequence[Tensor]) -> Tensor:
    joined = torch.cat([parameter.data for parameter in parameters])
    for parameter, part in zip(parameters, joined.split([len(p) for p in parameters]), strict=True):
        parameter.data = part
    return joined
