"""The torch engine's continuous batch: rows join by prefill, all draw one token a step, finished rows leave.

Axes: R live rows, V vocabulary, M the longest completion any live row may still write.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from workers.models.attention import Packed, Slots
from workers.models.decoder import Decode
from workers.rollout.sampling import Uniforms, draw
from workers.rollout.served import Pending
from workers.types import Completion

# Finished rows are computed along until this share of the rows is idle: dropping them copies the cache.
IDLE_SHARE = 0.2
# Prompts are prefilled in lots of about this many tokens, on a CPU and elsewhere: a layer's numbers then stay in a
# CPU's cache, and a large wave needs no more memory than a small one.
PREFILL_TOKENS = 512, 16384


@dataclass
class Rows:
    """What is known of every live row, [R] each (uniforms, drawn tokens and their log-probs [R, M + 1]: what a finished
    row still draws needs a place, too).

    `truncate`, `greedy` and `strings` say whether any row's draws may be truncated, any takes the likeliest token, and
    any may end at a string.
    """

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
    owners: list[tuple[Pending, int, list[tuple[int, int]]]]  # prompt, index in its group, spans of its versions
    truncate: bool
    greedy: bool
    strings: bool

    TENSORS = ("last", "count", "limit", "temperature", "top_p", "top_k", "uniform", "tokens", "logprobs", "live")
    ANY = ("truncate", "greedy", "strings")

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
        for name in self.ANY:
            setattr(self, name, getattr(self, name) or getattr(other, name))


class Batch:
    """The live rows of one model on `device`. Not thread-safe: one thread calls `admit` and `step`."""

    def __init__(
        self, decode: Decode, stop_ids: list[int], text: Callable[[np.ndarray], str], device: str | torch.device = "cpu"
    ):
        self.decode, self.text, self.device = decode, text, torch.device(device)
        self.stop_ids = torch.tensor(stop_ids, dtype=torch.long, device=self.device)
        self.rows: Rows | None = None
        self.live = 0

    def __len__(self) -> int:
        return self.live

    def clear(self) -> None:
        """Forget every row."""
        self.rows, self.live = None, 0

    def admit(self, pendings: list[Pending], version: int) -> list[Pending]:
        """Prefill the prompts, once each, draw every row's first token, and let the rows join.

        Returns the prompts that this first token already finished.
        """
        prompts = [pending.prompt for pending in pendings]
        lots = list(_lots([p.prompt_ids for p in prompts], PREFILL_TOKENS[self.device.type != "cpu"]))
        logits, packs, lengths = zip(*map(self._prefill, lots), strict=True)
        lengths = torch.cat(lengths)
        repeat = torch.tensor([i for i, p in enumerate(prompts) for _ in range(p.n)], device=self.device)
        limits = [p.sampling.max_new_tokens for p in prompts]
        slots = Slots.from_prefill(packs, lengths, int(lengths.max()) + max(limits), repeat)
        rows = self._new_rows(pendings, slots, max(limits), version)
        self._draw(rows, torch.cat(logits)[repeat])
        self.live += len(rows.owners)
        finished = self._retire(rows)
        if self.rows is None:
            self.rows = rows
        else:
            self._compact(0.0)  # joining copies the cache anyway
            self.rows.join(rows)
        self._compact(IDLE_SHARE)
        return finished

    def _prefill(self, prompts: Sequence[np.ndarray]) -> tuple[Tensor, Packed, Tensor]:
        """The logits f[P, V] of what follows each of P prompts, what attention keeps of them, and their lengths."""
        lengths = torch.tensor([len(ids) for ids in prompts], device=self.device)
        ids = torch.from_numpy(np.concatenate(prompts).astype(np.int64)).to(self.device)
        starts = lengths.cumsum(0) - lengths
        position = torch.arange(len(ids), device=self.device) - starts.repeat_interleave(lengths)
        packed = Packed(lengths, keep=True)
        return self.decode(ids[None], position[None], packed, lengths.cumsum(0) - 1), packed, lengths

    def renew(self, version: int) -> None:
        """The model has new weights: what the live rows write from here on carries their version."""
        if self.rows is not None:
            for (_, _, spans), written in zip(self.rows.owners, self.rows.count.tolist(), strict=True):
                if spans[-1][0] == written:  # nothing was written with the weights in between
                    spans.pop()
                spans.append((written, version))

    def drop(self, gone: set[Pending]) -> None:
        """Stop writing for these prompts."""
        if self.rows is not None:
            keep = torch.tensor([pending not in gone for pending, _, _ in self.rows.owners], device=self.device)
            self.rows.live &= keep
            self.live = int(self.rows.live.sum())
            self._compact(IDLE_SHARE)

    def _compact(self, idle_share: float) -> None:
        """Let finished rows go where they are more than this share of all."""
        if self.live == 0:
            self.rows = None
        elif self.rows is not None and self.live < len(self.rows.owners) * (1 - idle_share):
            self.rows.keep(self.rows.live.nonzero()[:, 0])

    def _new_rows(self, pendings: list[Pending], slots: Slots, width: int, version: int) -> Rows:
        owners = [(pending, i, [(0, version)]) for pending in pendings for i in range(pending.prompt.n)]
        sampling = [pending.prompt.sampling for pending, _, _ in owners]
        uniform, uniforms = np.zeros((len(owners), width + 1)), Uniforms()
        for row, (pending, index, _) in zip(uniform, owners, strict=True):
            s = pending.prompt.sampling
            row[: s.max_new_tokens] = uniforms(s.seed, pending.prompt.id, index, s.max_new_tokens)

        def column(values: list[float] | list[int], dtype: torch.dtype) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=self.device)

        temperatures = [p.prompt.sampling.temperature_of(i, p.prompt.n) for p, i, _ in owners]
        n = len(owners)
        return Rows(
            slots=slots,
            last=torch.zeros(n, dtype=torch.long, device=self.device),
            count=torch.zeros(n, dtype=torch.long, device=self.device),
            limit=column([s.max_new_tokens for s in sampling], torch.long),
            temperature=column(temperatures, torch.float32),
            top_p=column([s.top_p for s in sampling], torch.float32),
            top_k=column([s.top_k for s in sampling], torch.long),
            uniform=torch.from_numpy(uniform).to(self.device),
            tokens=torch.zeros(n, width + 1, dtype=torch.long, device=self.device),
            logprobs=torch.zeros(n, width + 1, dtype=torch.float32, device=self.device),
            live=torch.ones(n, dtype=torch.bool, device=self.device),
            owners=owners,
            greedy=0.0 in temperatures,
            truncate=any(s.top_p < 1 or s.top_k > 0 for s in sampling),
            strings=any(s.stop for s in sampling),
        )

    def step(self) -> list[Pending]:
        """One more token for every row. Returns the prompts whose completions are now all done."""
        rows = self.rows
        assert rows is not None
        rows.slots.begin()
        logits = self.decode(rows.last[:, None], rows.slots.lengths[:, None], rows.slots, None)
        rows.slots.advance(rows.live)
        self._draw(rows, logits)
        finished = self._retire(rows)
        self._compact(IDLE_SHARE)
        return finished

    def _draw(self, rows: Rows, logits: Tensor) -> None:
        # A finished row that still computes along draws into the place after its last: its tokens have been taken.
        place = rows.count[:, None]
        uniform = rows.uniform.gather(1, place)[:, 0]
        token, logprob = draw(logits, uniform, rows.temperature, rows.top_p, rows.top_k, rows.truncate, rows.greedy)
        rows.tokens.scatter_(1, place, token[:, None])
        rows.logprobs.scatter_(1, place, logprob[:, None])
        rows.count += rows.live
        rows.last = token

    def _retire(self, rows: Rows) -> list[Pending]:
        """Take what is finished from the live rows. Returns the prompts whose completions are now all done."""
        stopped = rows.live & torch.isin(rows.last, self.stop_ids)
        if at_string := self._at_stop_string(rows, stopped):
            stopped[at_string] = True
        over = stopped | (rows.live & (rows.count >= rows.limit))
        ends = over.nonzero()[:, 0]
        finished = []
        if len(ends):
            tokens, logprobs = rows.tokens[ends].int().cpu().numpy(), rows.logprobs[ends].cpu().numpy()
            counts, by_stop = rows.count[ends].tolist(), stopped[ends].tolist()
            for i, row in enumerate(ends.tolist()):
                pending, index, spans = rows.owners[row]
                ids, logp = tokens[i, : counts[i]], logprobs[i, : counts[i]]
                pending.done[index] = Completion(ids, logp, "stop" if by_stop[i] else "length", tuple(spans))
                if len(pending.done) == pending.prompt.n:
                    finished.append(pending)
            rows.live &= ~over
            self.live -= len(ends)
        return finished

    def _at_stop_string(self, rows: Rows, stopped: Tensor) -> list[int]:
        """The other live rows whose text just reached one of their stop strings."""
        if not rows.strings:
            return []
        going = (rows.live & ~stopped).tolist()
        asked = [i for i, (pending, _, _) in enumerate(rows.owners) if going[i] and pending.prompt.sampling.stop]
        tokens, counts = rows.tokens[asked].int().cpu().numpy(), rows.count[asked].tolist()
        return [
            row
            for row, written, count in zip(asked, tokens, counts, strict=True)
            if self._ends(written[:count], rows.owners[row][0].prompt.sampling.stop)
        ]

    def _ends(self, written: np.ndarray, stops: tuple[str, ...]) -> bool:
        # A token is a byte at least, so as many tokens as the longest string has bytes suffice, and one cut in two.
        # (Special tokens are nothing: a string with several of them inside is seen only by who cuts the whole text.)
        tail = self.text(written[-max(len(stop.encode()) for stop in stops) - 1 :])
        return any(stop in tail for stop in stops)


def _lots(prompts: Sequence[np.ndarray], tokens: int) -> Iterator[Sequence[np.ndarray]]:
    """The prompts in their order, cut into lots of about as many tokens each: not many more than `tokens`."""
    ends = np.cumsum([len(ids) for ids in prompts])
    lots = -(-int(ends[-1]) // tokens)
    cuts = np.unique(np.searchsorted(ends, ends[-1] * np.arange(1, lots + 1) / lots) + 1)
    return (prompts[start:end] for start, end in itertools.pairwise([0, *cuts]))
