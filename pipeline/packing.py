"""Lays samples end to end in micro-batches of at most `micro_batch_tokens` tokens.

Losses are sums over one common denominator, so how samples are packed cannot change the gradient; it changes only
how much is computed at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rewards.errors import RunFailed
from workers.dealing import cost, deal
from workers.types import Credit, MicroBatch, Needs, Plan, Sample, Scalar, Signals, Update

EMPTY = np.zeros(0, np.float32)


def plan(credits_: Sequence[Credit], micro_batch_tokens: int, updates: int = 1, ranks: int = 1) -> Plan:
    """Split the samples into `updates` optimizer updates, each over `ranks`, and those into micro-batches.

    Samples go to updates in their order, so a group stays together as far as possible; a bundle always does. Ranks get
    what costs them the same time. Those that are learned from apart are one more update at the end.
    """
    whole = bundles([credit for credit in credits_ if not credit.apart])
    chunks = [chunk for chunk in np.array_split(np.arange(len(whole)), updates) if len(chunk)]
    parts = [[whole[i] for i in chunk] for chunk in chunks]
    apart = bundles([credit for credit in credits_ if credit.apart])
    every = [*parts, *([apart] if apart else [])]
    return Plan(tuple(_update(part, micro_batch_tokens, ranks) for part in every))


def bundles(credits_: Sequence[Credit]) -> list[list[Credit]]:
    """What is never split: the credits of one bundle, in the order of its first; one that is in none stands alone."""
    out: dict[object, list[Credit]] = {}
    for place, credit in enumerate(credits_):
        out.setdefault(("alone", place) if credit.bundle is None else credit.bundle, []).append(credit)
    return list(out.values())


def _update(whole: list[list[Credit]], micro_batch_tokens: int, ranks: int) -> Update:
    hands = deal([cost(len(c.sample.ids) for c in bundle) for bundle in whole], ranks)
    shards = tuple(_packed([whole[i] for i in hand], micro_batch_tokens) for hand in hands)
    return Update(shards, sum(c.mass for bundle in whole for c in bundle))


def _packed(whole: list[list[Credit]], micro_batch_tokens: int) -> tuple[MicroBatch, ...]:
    bins = fill([sum(len(c.sample.ids) for c in bundle) for bundle in whole], micro_batch_tokens)
    return tuple(micro_batch([c for i in b for c in whole[i]]) for b in bins)


def fill(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """First fit, longest first: item numbers by bin. Raises `RunFailed` for an item larger than a bin."""
    bins: list[list[int]] = []
    room: list[int] = []
    for item in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        need = lengths[item]
        if need > capacity:
            raise RunFailed(
                f"a sample or bundle of {need} tokens does not fit learner.micro_batch_tokens={capacity}; "
                f"raise it to {need} or more"
            )
        place = next((b for b, free in enumerate(room) if free >= need), None)
        if place is None:
            bins.append([])
            room.append(capacity)
            place = len(bins) - 1
        bins[place].append(item)
        room[place] -= need
    return bins


def micro_batch(credits_: Sequence[Credit]) -> MicroBatch:
    """Lay these samples end to end."""
    samples = [c.sample for c in credits_]
    lengths = np.array([len(s.ids) for s in samples], np.int64)
    mask = np.concatenate([s.mask for s in samples])
    own = np.flatnonzero(mask)
    drawn = [np.zeros(len(s.ids), np.float32) if s.logp_rollout is None else s.logp_rollout for s in samples]
    rolled_out = any(s.logp_rollout is not None for s in samples)
    logp_rollout = np.concatenate(drawn)[own] if rolled_out else None
    compared = credits_[0].bundle is not None
    signals = [c.signals for c in credits_]
    old = [s.logp_old for s in signals if s.logp_old is not None]
    ref = [s.logp_ref for s in signals if s.logp_ref is not None]
    value = [s.value for s in signals if s.value is not None]
    target = [c.target for c in credits_ if c.target is not None]
    return MicroBatch(
        ids=np.concatenate([s.ids for s in samples]).astype(np.int64),
        position=np.concatenate([np.arange(n) for n in lengths]),
        lengths=lengths,
        own=own,
        owner=np.repeat(np.arange(len(samples)), lengths)[own],
        logp_rollout=logp_rollout,
        logp_old=np.concatenate(old) if old else logp_rollout,
        logp_ref=np.concatenate(ref) if ref else None,
        advantage=np.concatenate([c.advantage for c in credits_]),
        weight=np.concatenate([c.weight for c in credits_]),
        bundle=np.array([c.bundle for c in credits_], np.int64) if compared else None,
        label=np.array([c.label for c in credits_], np.float32) if compared else None,
        value_old=np.concatenate(value) if value else None,
        target=np.concatenate(target) if target else None,
    )


def for_inference(
    samples: Sequence[Sample], micro_batch_tokens: int, ranks: int = 1
) -> tuple[list[list[int]], list[MicroBatch]]:
    """Micro-batches that carry no credit, and which samples each holds; as many as there are ranks, where there are
    samples enough."""
    bare = [Credit(s, Signals(), EMPTY, EMPTY, 0.0) for s in samples]
    lengths = [len(s.ids) for s in samples]
    bins: list[list[int]] = []
    for hand in deal([cost([n]) for n in lengths], ranks):
        bins += [[hand[i] for i in b] for b in fill([lengths[i] for i in hand], micro_batch_tokens)]
    return bins, [micro_batch([bare[i] for i in b]) for b in bins]


def unpack(
    samples: Sequence[Sample], bins: list[list[int]], answers: list[dict[str, np.ndarray]], needs: Needs
) -> list[Signals]:
    """Deal the learner's answers back to the samples."""
    out: list[Signals] = [Signals()] * len(samples)
    for members, answer in zip(bins, answers, strict=True):
        ends = np.cumsum([int(samples[i].mask.sum()) for i in members])[:-1]
        old = np.split(answer["logp_old"], ends) if needs.logp_old else [None] * len(members)
        ref = np.split(answer["logp_ref"], ends) if needs.logp_ref else [None] * len(members)
        value = _values(answer["value"], ends, needs.critic) if needs.critic else [None] * len(members)
        for place, i in enumerate(members):
            out[i] = Signals(old[place], ref[place], value[place])
    return out


def _values(numbers: np.ndarray, ends: np.ndarray, critic: Scalar) -> list[np.ndarray]:
    """A critic's first number at every own token; where it speaks at a sequence's end, all that it says there."""
    return list(numbers) if critic.at == "last" else np.split(numbers[:, 0], ends)
