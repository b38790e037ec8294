"""One attention for every model of the hub: the caller says what attends to what.

A transformers model loaded with `attn_implementation=ATTENTION` passes the `attend` of its forward call down to
every layer. Two of them live here:

    Packed  sequences laid end to end in one row of T tokens; each token sees the earlier ones of its own sequence
    Slots   one new token for each of R rows, whose earlier keys and values stand in a cache

Projections and MLPs thus never see padding. Attention itself pads, but sequences are sorted into buckets of
similar length first, so padding costs little there either; where lengths are equal nothing is moved at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from rewards.errors import Refused

ATTENTION = "assay"


class Attend(Protocol):
    """q, k f[1 or R, H or Hkv, T, D]; v f[1 or R, Hkv, T, Dv]. Returns f[1 or R, T, H, Dv]."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scaling: float) -> Tensor: ...


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    attend: Attend,
    dropout: float = 0.0,
    **extras: object,
) -> tuple[Tensor, None]:
    for name in _UNSUPPORTED:
        if extras.get(name) is not None:
            raise Refused(f"the torch engines support full attention only; this model has {_UNSUPPORTED[name]}")
    return attend(module.layer_idx, query, key, value, scaling), None  # pyright: ignore[reportArgumentType]


_UNSUPPORTED = {"sliding_window": "a sliding window", "softcap": "capped attention scores", "s_aux": "attention sinks"}
AttentionInterface.register(ATTENTION, _attention)


def adopt(model: PreTrainedModel) -> PreTrainedModel:
    """Have every layer attend as the caller of the forward pass says.

    Raises `Refused` for a model with layers that can't: recurrent ones, and attention that does not go through
    transformers' interface. They would mix what was laid side by side, without a word.
    """
    model.set_attn_implementation(ATTENTION)
    two = torch.zeros(1, 2, dtype=torch.long, device=model.device)
    probe = Packed(torch.ones(2, dtype=torch.long, device=model.device), keep=True)
    try:
        with torch.no_grad():
            model(two, position_ids=two, attend=probe, use_cache=False)
    except (TypeError, ValueError, RuntimeError, LookupError) as error:
        if isinstance(error, Refused):
            raise
        raise Refused(
            f"the torch engines can't run {model.config.model_type}: its attention can't be replaced"
        ) from error
    layers = model.config.get_text_config().num_hidden_layers
    if len(probe.kept or ()) != layers:
        raise Refused(
            f"the torch engines can't run {model.config.model_type}: "
            f"{layers - len(probe.kept or ())} of its {layers} layers are no replaceable attention"
        )
    return model


class _Pad(torch.autograd.Function):
    """f[T, ...] -> f[padded T, ...]. Backward is a gather as well, for nothing that was padded has a gradient:
    torch's own would add up, place by place, in eight times the time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gather: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        return x.index_select(0, gather)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grads[0].index_select(0, ctx.saved_tensors[0]), None, None


class _Unpad(torch.autograd.Function):
    """f[padded T, ...] -> f[T, ...], the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.padded = len(x)
        return x.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        grad = grads[0]
        return grad.new_zeros(ctx.padded, *grad.shape[1:]).index_copy_(0, ctx.saved_tensors[0], grad), None


class Packed:
    """Block-diagonal causal attention over sequences of `lengths` i64[S], laid end to end.

    With `keep=True` the keys and values of every layer stay at hand as `kept[layer]` (for a prefill).
    """

    def __init__(self, lengths: Tensor, keep: bool = False):
        starts = torch.cumsum(lengths, 0) - lengths
        rest = torch.argsort(lengths, descending=True, stable=True)
        self._shapes: list[tuple[int, int]] = []  # of the buckets: sequences, padded length
        gathers, insides = [], []
        while len(rest):
            longest = int(lengths[rest[0]])
            # A quarter of padding at most within a bucket, but no bucket for short leftovers alone.
            take = max(int((lengths[rest] * 4 >= longest * 3).sum()), min(len(rest), 8))
            rows, rest = rest[:take], rest[take:]
            column = torch.arange(longest, device=lengths.device)
            self._shapes.append((len(rows), longest))
            insides.append((column[None] < lengths[rows][:, None]).flatten())
            gathers.append((starts[rows][:, None] + torch.minimum(column[None], lengths[rows][:, None] - 1)).flatten())
        self._gather, inside = torch.cat(gathers), torch.cat(insides)
        self._places = inside.nonzero()[:, 0][self._gather[inside].argsort()]  # where each token stands once padded
        self._moves = not torch.equal(self._gather, torch.arange(len(self._places), device=lengths.device))
        self.kept: dict[int, tuple[Tensor, Tensor]] | None = {} if keep else None

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scaling: float) -> Tensor:
        if self.kept is not None:
            self.kept[layer] = (k, v)
        split = zip(*(self._split(x[0].transpose(0, 1)) for x in (q, k, v)), strict=True)
        parts = []
        for (rows, length), (q_, k_, v_) in zip(self._shapes, split, strict=True):
            # The causal mask keeps real tokens from the padding on their right; what padding sees is thrown away.
            block = [x.view(rows, length, *x.shape[1:]).transpose(1, 2) for x in (q_, k_, v_)]
            grouped = q.shape[1] != k.shape[1]
            out = F.scaled_dot_product_attention(*block, is_causal=True, scale=scaling, enable_gqa=grouped)
            parts.append(out.transpose(1, 2).reshape(rows * length, *q_.shape[1:2], v_.shape[2]))
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        return (_Unpad.apply(whole, self._places) if self._moves else whole)[None]

    def _split(self, x: Tensor) -> tuple[Tensor, ...]:
        """f[T, H, D], padded and cut into the buckets."""
        padded = _Pad.apply(x, self._gather, self._places) if self._moves else x
        return padded.split([rows * length for rows, length in self._shapes])


# Widths of caches and of what is read of them: multiples of STRIDE, and LEAST at least, for softmax is eight times
# slower on fewer numbers.
STRIDE, LEAST = 4, 16


class Slots:
    """Keys and values of R rows, each as long as it is: `keys[layer]` f[R, Hkv, W, D].

    `lengths` i64[R] counts the tokens already in each row; a call appends one token per row, and `advance`
    counts it once all layers have seen it. `bias` f[R, W] is what scores start from: minus infinity at what is not
    there yet.
    """

    def __init__(self, lengths: Tensor, keys: list[Tensor], values: list[Tensor]):
        self.lengths, self.keys, self.values = lengths, keys, values
        column = torch.arange(keys[0].shape[2], device=lengths.device)
        self.bias = keys[0].new_zeros(len(lengths), len(column)).masked_fill_(column >= lengths[:, None], -torch.inf)

    @classmethod
    def from_prefill(cls, packs: Sequence[Packed], lengths: Tensor, width: int, repeat: Tensor) -> Slots:
        """Rows of at least `width` from prefills, the prompts of one after those of the other: `lengths` i64[P] tokens
        each; `repeat` i64[R] names the prompt that each row continues."""
        longest, width = int(lengths.max()), _padded(width)
        starts = torch.cumsum(lengths, 0) - lengths
        column = torch.arange(longest, device=lengths.device)
        gather = (starts[:, None] + torch.minimum(column[None], lengths[:, None] - 1))[repeat].flatten()

        def rows(parts: Sequence[Tensor]) -> Tensor:
            tokens = torch.cat([x[0].transpose(0, 1) for x in parts])
            out = tokens.new_empty(len(repeat), tokens.shape[1], width, tokens.shape[2])
            out[:, :, :longest] = tokens[gather].unflatten(0, (-1, longest)).transpose(1, 2)
            out[:, :, longest:] = 0  # what is hidden has no weight, but must be a number
            return out

        kept = [pack.kept for pack in packs if pack.kept is not None]
        keys, values = ([rows([of[i][j] for of in kept]) for i in range(len(kept[0]))] for j in range(2))
        return cls(lengths[repeat].clone(), keys, values)

    def begin(self) -> None:
        """The next token: where it goes and what it may see is looked up once for all layers."""
        self._width = _padded(int(self.lengths.max()) + 1)
        self.bias.scatter_(1, self.lengths[:, None], 0.0)
        self._laid: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def _lay(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """For a layer with keys f[R, Hkv, W, D]: where the new ones go among R * Hkv * W, i64[R * Hkv]; and `bias` as
        far as it is read, f[R * Hkv, 1, width]."""
        rows, heads, width, _ = keys.shape
        if (heads, width) not in self._laid:
            starts = torch.arange(0, rows * heads * width, width, device=keys.device).view(rows, heads)
            places = (starts + self.lengths[:, None]).flatten()
            bias = self.bias[:, None, None, : self._width].expand(-1, heads, -1, -1).flatten(0, 1)
            self._laid[heads, width] = places, bias
        return self._laid[heads, width]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scaling: float) -> Tensor:
        keys, values = self.keys[layer], self.values[layer]
        places, bias = self._lay(keys)
        for cache, new in ((keys, k), (values, v)):
            cache.view(-1, cache.shape[3]).index_copy_(0, places, new.reshape(len(places), -1))
        keys, values = (x.flatten(0, 1)[:, : self._width] for x in (keys, values))
        shared = q.reshape(len(places), -1, q.shape[3])  # the heads that share a key head
        scores = torch.baddbmm(bias, shared, keys.transpose(1, 2), alpha=scaling)
        return (scores.float().softmax(-1).to(q.dtype) @ values).view(len(q), 1, q.shape[1], -1)

    def advance(self, live: Tensor) -> None:
        """Count the token just seen, in the rows of `live` bool[R]; the others will overwrite theirs."""
        self.lengths += live

    def keep(self, rows: Tensor) -> None:
        """Forget all rows but these, i64[R']."""
        self.lengths, self.bias = self.lengths[rows], self.bias[rows]
        self.keys = [x[rows] for x in self.keys]
        self.values = [x[rows] for x in self.values]

    def join(self, other: Slots) -> None:
        """Take in another's rows, widening to the larger of the two."""
        width = max(self.keys[0].shape[2], other.keys[0].shape[2])

        def merged(a: Tensor, b: Tensor) -> Tensor:
            return torch.cat([F.pad(x, (0, 0, 0, width - x.shape[2])) for x in (a, b)])

        both = (self.bias, other.bias)
        self.bias = torch.cat([F.pad(x, (0, width - x.shape[1]), value=-torch.inf) for x in both])
        self.lengths = torch.cat([self.lengths, other.lengths])
        self.keys = [merged(a, b) for a, b in zip(self.keys, other.keys, strict=True)]
        self.values = [merged(a, b) for a, b in zip(self.values, other.values, strict=True)]


def _padded(width: int) -> int:
    return max(-(-width // STRIDE) * STRIDE, LEAST)
