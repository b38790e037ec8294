"""Log-probs and entropies from hidden states, without the logits of all tokens at once: chunks of them come and go.

The product with the vocabulary is the learner's largest array: 8,192 tokens of a vocabulary of 151,936 make 5 GB, and
log-softmax, entropy and gradient each another. Here a chunk of tokens is taken through all of it at a time; backward
makes its logits once more, which costs a fourth product beside three.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from workers.dealing import chunk_tokens
from workers.models.attention import Packed


class _Drawn(torch.autograd.Function):
    """hidden f[N, hidden], weight f[V, hidden], bias f[V] or None, ids i64[N] -> log-prob and entropy, f32[N] each."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, ids: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        ctx.dtype, ctx.temperature = dtype, temperature
        logp, entropy = [], []
        with torch.autocast(device, enabled=False):
            cast = weight.to(dtype)
            for rows, drawn in _chunks(hidden, ids, len(weight)):
                table = _table(rows.to(dtype), cast, bias, temperature)
                logp.append(table.gather(1, drawn[:, None])[:, 0])
                entropy.append(table.exp().mul_(table).sum(-1).neg_())
                del table  # before the next one is made
        out = torch.cat(logp), torch.cat(entropy)
        ctx.save_for_backward(hidden, weight, bias, ids, out[1])
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        hidden, weight, bias, ids, entropy = ctx.saved_tensors
        of_logp, of_entropy = grads
        rewarded = bool(of_entropy.any())  # few losses ask for the entropy's gradient
        wanted, dtype = ctx.needs_input_grad, ctx.dtype
        into_hidden = torch.empty_like(hidden) if wanted[0] else None
        # Where the products are coarse, their sum over the chunks is not.
        wide = torch.promote_types(weight.dtype, torch.float32)
        into_weight = torch.zeros_like(weight, dtype=wide) if wanted[1] else None
        into_bias = torch.zeros_like(bias, dtype=wide) if bias is not None and wanted[2] else None
        cast, done = weight.to(dtype), 0
        for rows, drawn in _chunks(hidden, ids, len(weight)):
            part = slice(done, done := done + len(rows))
            rows = rows.to(dtype)
            table = _table(rows, cast, bias, ctx.temperature)
            grad, factor = table.exp(), of_logp[part, None]
            if rewarded:  # d entropy / d logit = -p (log p + entropy)
                factor = table.add_(entropy[part, None]).mul_(of_entropy[part, None]).add_(factor)
            grad = grad.mul_(factor).neg_().scatter_add_(1, drawn[:, None], of_logp[part, None]).div_(ctx.temperature)
            if into_bias is not None:
                into_bias += grad.sum(0)
            grad = grad.to(dtype)
            if into_hidden is not None:
                into_hidden[part] = grad @ cast
            if into_weight is not None and dtype == wide:
                into_weight.addmm_(grad.T, rows)
            elif into_weight is not None:
                into_weight += grad.T @ rows
            del table, grad, factor  # before the next ones are made
        return (
            into_hidden,
            None if into_weight is None else into_weight.to(weight.dtype),
            None if into_bias is None or bias is None else into_bias.to(bias.dtype),
            None,
            None,
        )


def _chunks(hidden: Tensor, ids: Tensor, vocabulary: int) -> Iterator[tuple[Tensor, Tensor]]:
    size = chunk_tokens(vocabulary)
    return zip(hidden.split(size), ids.split(size), strict=True)


def _table(rows: Tensor, weight: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    """f32[n, V]: the log-probs of everything that could be drawn. The softmax is float32 at least."""
    logits = torch.nn.functional.linear(rows, weight, None if bias is None else bias.to(weight.dtype))
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return (wide if temperature == 1.0 else wide.div_(temperature)).log_softmax(-1)


def drawn_logprobs(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, ids: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """log pi(ids | hidden) and the entropy there, f32[N] each, both with gradient.

    The product computes in autocast's number format, the softmax in float32 at least. f[N, hidden], f[V, hidden],
    f[V], i64[N].
    """
    out: Any = _Drawn.apply(hidden, weight, bias, ids, temperature)
    return out


@contextmanager
def drawing(model: PreTrainedModel, ids: Tensor, temperature: float) -> Iterator[None]:
    """Inside, the model's `logits` are f32[1, N, 2]: log-prob of `ids` i64[N] and entropy. The head itself answers
    with them, so that whoever gathers its weights for its forward pass (FSDP, ZeRO) does so as ever."""
    head: Any = model.get_output_embeddings()

    def forward(hidden: Tensor) -> Tensor:
        drawn = drawn_logprobs(hidden[0], head.weight, head.bias, ids, temperature)
        return torch.stack([one[None] for one in drawn], -1)

    head.forward = forward
    try:
        yield
    finally:
        del head.forward


def has_plain_head(model: PreTrainedModel) -> bool:
    """Whether an adopted model's logits are what its last layer, a linear one, gives: some scale or cap them."""
    head: Any = model.get_output_embeddings()
    if type(head) is not nn.Linear:
        return False
    seen: list[Tensor] = []
    hook = head.register_forward_hook(lambda *told: seen.append(told[2]))
    two = torch.arange(2, device=model.device)[None]
    attend = Packed(torch.tensor([1, 1], device=model.device))
    try:
        with torch.no_grad():
            logits = model(two, position_ids=two, attend=attend, use_cache=False).logits
    finally:
        hook.remove()
    return torch.equal(logits, seen[0])
