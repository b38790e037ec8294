"""The torch engine's continuous batch: rows join by prefill, all draw one token a step, finished rows leave.

Axes: R live rows, V vocabulary, M the longest completion any live row may still write.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from workers.models.attention import Packed, Slots
from workers.rollout.sampling import draw, uniforms
from workers.types import Completion, Prompt

# Finished rows are computed along until this share of the rows is idle: dropping them copies the cache.
IDLE_SHARE = 0.2


@dataclass
class Pending:
    """A prompt whose n completions are not all done."""

    prompt: Prompt
    done: dict[int, Completion] = field(default_factory=dict)


@dataclass
class Rows:
    """What is known of every live row, [R] each (drawn tokens and their log-probs [R, M])."""

    slots: Slots
    last: Tensor
    count: Tensor
    limit: Tensor
    temperature: Tensor
    top_p: Tensor
    top_k: Tensor
    uniform: Tensor
    tokens: Tensor
    logprobs: Tensor
    live: Tensor
    owners: list[tuple[Pending, int, int]]  # prompt, index in its group, version it started on

    TENSORS = ("last", "count", "limit", "temperature", "top_p", "top_k", "uniform", "tokens", "logprobs", "live")

    def keep(self, rows: Tensor) -> None:
        """Forget all rows but these, i64[R']."""
        self.slots.keep(rows)
        for name in self.TENSORS:
            setattr(self, name, getattr(self, name)[rows])
        self.owners = [self.owners[i] for i in rows.tolist()]

    def join(self, other: Rows) -> None:
        """Take in another's rows."""
        self.slots.join(other.slots)
        for name in self.TENSORS:
            a, b = getattr(self, name), getattr(other, name)
            if a.dim() == 2:
                width = max(a.shape[1], b.shape[1])
                a, b = (torch.nn.functional.pad(x, (0, width - x.shape[1])) for x in (a, b))
            setattr(self, name, torch.cat([a, b]))
        self.owners += other.owners


class Batch:
    """The live rows of one model. Not thread-safe: one thread calls `admit` and `step`."""

    def __init__(self, model: torch.nn.Module, stop_ids: list[int], text: Callable[[np.ndarray], str]):
        self.model, self.text = model, text
        self.device = next(model.parameters()).device
        self.stop_ids = torch.tensor(stop_ids, device=self.device)
        self.rows: Rows | None = None

    def __len__(self) -> int:
        return 0 if self.rows is None else int(self.rows.live.sum())

    def admit(self, prompts: list[Prompt], version: int) -> list[Pending]:
        """Prefill the prompts, once each, draw every row's first token, and let the rows join.

        Returns the prompts that this first token already finished.
        """
        lengths = torch.tensor([len(p.prompt_ids) for p in prompts], device=self.device)
        ids = torch.from_numpy(np.concatenate([p.prompt_ids for p in prompts]).astype(np.int64)).to(self.device)
        position = torch.cat([torch.arange(len(p.prompt_ids)) for p in prompts]).to(self.device)
        packed = Packed(lengths, keep=True)
        logits = self.model(
            ids[None], position_ids=position[None], attend=packed, use_cache=False, logits_to_keep=lengths.cumsum(0) - 1
        ).logits[0]
        repeat = torch.tensor([i for i, p in enumerate(prompts) for _ in range(p.n)], device=self.device)
        limits = [p.sampling.max_new_tokens for p in prompts]
        slots = Slots.from_prefill(packed, lengths, int(lengths.max()) + max(limits), repeat)
        rows = self._new_rows(prompts, slots, max(limits), version)
        self._draw(rows, logits[repeat])
        finished = self._retire(rows)
        if self.rows is None:
            self.rows = rows
        else:
            self.rows.join(rows)
        return finished

    def _new_rows(self, prompts: list[Prompt], slots: Slots, width: int, version: int) -> Rows:
        owners = [(pending, i, version) for pending in map(Pending, prompts) for i in range(pending.prompt.n)]
        sampling = [pending.prompt.sampling for pending, _, _ in owners]
        uniform = np.zeros((len(owners), width))
        for row, (pending, index, _) in zip(uniform, owners, strict=True):
            s = pending.prompt.sampling
            row[: s.max_new_tokens] = uniforms(s.seed, pending.prompt.id, index, s.max_new_tokens)

        def column(values: list[float] | list[int], dtype: torch.dtype) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=self.device)

        n = len(owners)
        return Rows(
            slots=slots,
            last=torch.zeros(n, dtype=torch.long, device=self.device),
            count=torch.zeros(n, dtype=torch.long, device=self.device),
            limit=column([s.max_new_tokens for s in sampling], torch.long),
            temperature=column([s.temperature for s in sampling], torch.float32),
            top_p=column([s.top_p for s in sampling], torch.float32),
            top_k=column([s.top_k for s in sampling], torch.long),
            uniform=torch.from_numpy(uniform).to(self.device),
            tokens=torch.zeros(n, width, dtype=torch.int32, device=self.device),
            logprobs=torch.zeros(n, width, dtype=torch.float32, device=self.device),
            live=torch.ones(n, dtype=torch.bool, device=self.device),
            owners=owners,
        )

    def step(self) -> list[Pending]:
        """One more token for every row. Returns the prompts whose completions are now all done."""
        rows = self.rows
        assert rows is not None
        rows.slots.begin()
        logits = self.model(
            rows.last[:, None], position_ids=rows.slots.lengths[:, None], attend=rows.slots, use_cache=False
        ).logits[:, 0]
        rows.slots.advance(rows.live)
        self._draw(rows, logits)
        finished = self._retire(rows)
        live = int(rows.live.sum())
        if live == 0:
            self.rows = None
        elif live <= len(rows.owners) * (1 - IDLE_SHARE):
            rows.keep(rows.live.nonzero()[:, 0])
        return finished

    def _draw(self, rows: Rows, logits: Tensor) -> None:
        # A finished row that still computes along draws into its last place.
        place = rows.count.clamp(max=rows.uniform.shape[1] - 1)[:, None]
        truncate = bool((rows.top_k > 0).any() | (rows.top_p < 1).any())
        uniform = rows.uniform.gather(1, place)[:, 0]
        token, logprob = draw(logits, uniform, rows.temperature, rows.top_p, rows.top_k, truncate)
        live = rows.live[:, None]
        rows.tokens.scatter_(1, place, torch.where(live, token[:, None].int(), rows.tokens.gather(1, place)))
        rows.logprobs.scatter_(1, place, torch.where(live, logprob[:, None], rows.logprobs.gather(1, place)))
        rows.count += rows.live
        rows.last = token

    def _retire(self, rows: Rows) -> list[Pending]:
        stopped = torch.isin(rows.last, self.stop_ids)
        over = rows.live & (stopped | (rows.count >= rows.limit))
        over = self._at_stop_string(rows, over)
        finished = []
        ends = over.nonzero()[:, 0]
        if len(ends):
            tokens, logprobs = rows.tokens[ends].cpu().numpy(), rows.logprobs[ends].cpu().numpy()
            counts, by_length = rows.count[ends].tolist(), (~stopped & (rows.count >= rows.limit))[ends].tolist()
            for i, row in enumerate(ends.tolist()):
                pending, index, version = rows.owners[row]
                stop = "length" if by_length[i] and not self._stop_string(rows, row) else "stop"
                pending.done[index] = Completion(tokens[i, : counts[i]], logprobs[i, : counts[i]], stop, version)
                if len(pending.done) == pending.prompt.n:
                    finished.append(pending)
            rows.live &= ~over
        return finished

    def _at_stop_string(self, rows: Rows, over: Tensor) -> Tensor:
        """Add the live rows whose text just reached one of their stop strings."""
        if not any(pending.prompt.sampling.stop for pending, _, _ in rows.owners):
            return over
        hits = [
            row
            for row in (rows.live & ~over).nonzero()[:, 0].tolist()
            if rows.owners[row][0].prompt.sampling.stop and self._stop_string(rows, row)
        ]
        over = over.clone()
        over[hits] = True
        return over

    def _stop_string(self, rows: Rows, row: int) -> bool:
        stops = rows.owners[row][0].prompt.sampling.stop
        # A token is at least one character, so as many tokens as the longest string has suffice, and one cut in two.
        window = max(map(len, stops), default=0) + 1
        count = int(rows.count[row])
        tail = self.text(rows.tokens[row, max(0, count - window) : count].cpu().numpy())
        return any(stop in tail for stop in stops)
