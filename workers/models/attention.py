"""One attention for every model of the hub: the caller says what attends to what.

A transformers model loaded with `attn_implementation=ATTENTION` passes the `attend` of its forward call down to
every layer. Two of them live here:

    Packed  sequences laid end to end in one row of T tokens; each token sees the earlier ones of its own sequence
    Slots   one new token for each of R rows, whose earlier keys and values stand in a cache

Projections and MLPs thus never see padding. Attention itself pads, but sequences are sorted into buckets of
similar length first, so padding costs little there either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from rewards.errors import Refused

ATTENTION = "assay"


class Attend(Protocol):
    """q f[1 or R, H, T, D]; k, v f[1 or R, Hkv, T, D]. Returns f[1 or R, T, H, D]."""

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
    sliding_window: int | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    if sliding_window is not None:
        raise Refused("the torch engines support full attention only; this model has a sliding window")
    return attend(module.layer_idx, query, key, value, scaling), None  # pyright: ignore[reportArgumentType]


AttentionInterface.register(ATTENTION, _attention)


@dataclass(frozen=True)
class Bucket:
    """Sequences of similar length. `gather` i64[S_b, L_b] finds their tokens in the row; `scatter` the way back."""

    gather: Tensor
    inside: Tensor


class Packed:
    """Block-diagonal causal attention over sequences of `lengths` i64[S], laid end to end.

    With `keep=True` the keys and values of every layer stay at hand as `kept[layer]` (for a prefill).
    """

    def __init__(self, lengths: Tensor, keep: bool = False):
        starts = torch.cumsum(lengths, 0) - lengths
        order = torch.argsort(lengths, descending=True, stable=True)
        self.buckets: list[Bucket] = []
        rest = order
        while len(rest):
            longest = int(lengths[rest[0]])
            # A quarter of padding at most within a bucket, but no bucket for short leftovers alone.
            take = max(int((lengths[rest] * 4 >= longest * 3).sum()), min(len(rest), 8))
            rows, rest = rest[:take], rest[take:]
            column = torch.arange(longest, device=lengths.device)
            inside = column[None] < lengths[rows][:, None]
            gather = starts[rows][:, None] + torch.minimum(column[None], lengths[rows][:, None] - 1)
            self.buckets.append(Bucket(gather, inside))
        self._scatter = torch.cat([bucket.gather[bucket.inside] for bucket in self.buckets]).argsort()
        self.kept: dict[int, tuple[Tensor, Tensor]] | None = {} if keep else None

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scaling: float) -> Tensor:
        if self.kept is not None:
            self.kept[layer] = (k, v)
        q, k, v = (x[0].transpose(0, 1) for x in (q, k, v))  # [T, H, D]
        parts = []
        for bucket in self.buckets:
            # The causal mask keeps real tokens from the padding on their right; what padding sees is thrown away.
            q_, k_, v_ = (x[bucket.gather].transpose(1, 2) for x in (q, k, v))
            grouped = q_.shape[1] != k_.shape[1]
            out = F.scaled_dot_product_attention(q_, k_, v_, is_causal=True, scale=scaling, enable_gqa=grouped)
            parts.append(out.transpose(1, 2)[bucket.inside])
        return torch.cat(parts)[self._scatter][None]


class Slots:
    """Keys and values of R rows, each as long as it is: `keys[layer]` f[R, Hkv, W, D].

    `lengths` i64[R] counts the tokens already in each row; a call appends one token per row, and `advance`
    counts it once all layers have seen it.
    """

    def __init__(self, lengths: Tensor, keys: list[Tensor], values: list[Tensor]):
        self.lengths, self.keys, self.values = lengths, keys, values

    @classmethod
    def from_prefill(cls, packed: Packed, lengths: Tensor, width: int, repeat: Tensor) -> Slots:
        """Rows of `width` from a prefill; `repeat` i64[R] names the prompt that each row continues."""
        assert packed.kept is not None
        longest = int(lengths.max())
        starts = torch.cumsum(lengths, 0) - lengths
        column = torch.arange(longest, device=lengths.device)
        gather = (starts[:, None] + torch.minimum(column[None], lengths[:, None] - 1))[repeat]

        def rows(x: Tensor) -> Tensor:
            out = x.new_zeros(len(repeat), x.shape[1], width, x.shape[3])
            out[:, :, :longest] = x[0][:, gather].transpose(0, 1)
            return out

        layers = [packed.kept[i] for i in range(len(packed.kept))]
        return cls(lengths[repeat].clone(), [rows(k) for k, _ in layers], [rows(v) for _, v in layers])

    def begin(self) -> None:
        """Look up, once for all layers, where the next token goes and what it may see."""
        self._rows = torch.arange(len(self.lengths), device=self.lengths.device)
        self._width = int(self.lengths.max()) + 1
        column = torch.arange(self._width, device=self.lengths.device)
        self._hidden = (column[None] > self.lengths[:, None])[:, None, None]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scaling: float) -> Tensor:
        keys, values = self.keys[layer], self.values[layer]
        keys[self._rows, :, self.lengths] = k[:, :, 0]
        values[self._rows, :, self.lengths] = v[:, :, 0]
        keys, values = keys[:, :, : self._width], values[:, :, : self._width]
        rows, heads, _, dim = q.shape
        shared = q.view(rows, keys.shape[1], heads // keys.shape[1], dim)  # the heads that share a key head
        weights = (shared @ keys.transpose(2, 3)).mul_(scaling).masked_fill_(self._hidden, -torch.inf)
        return (weights.float().softmax(-1).to(q.dtype) @ values).view(rows, 1, heads, dim)

    def advance(self, live: Tensor) -> None:
        """Count the token just seen, in the rows of `live` bool[R]; the others will overwrite theirs."""
        self.lengths += live

    def keep(self, rows: Tensor) -> None:
        """Forget all rows but these, i64[R']."""
        self.lengths = self.lengths[rows]
        self.keys = [x[rows] for x in self.keys]
        self.values = [x[rows] for x in self.values]

    def join(self, other: Slots) -> None:
        """Take in another's rows, widening to the larger of the two."""
        width = max(self.keys[0].shape[2], other.keys[0].shape[2])

        def merged(a: Tensor, b: Tensor) -> Tensor:
            return torch.cat([F.pad(x, (0, 0, 0, width - x.shape[2])) for x in (a, b)])

        self.lengths = torch.cat([self.lengths, other.lengths])
        self.keys = [merged(a, b) for a, b in zip(self.keys, other.keys, strict=True)]
        self.values = [merged(a, b) for a, b in zip(self.values, other.values, strict=True)]
