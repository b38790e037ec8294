"""What crosses from one process to another many times a second, and how: few large pieces instead of many small ones.

Of groups, the arrays are laid end to end and everything else is pickled in one go. Ray hands the two long arrays over
without a copy, so what the turns of a received group hold are views into shared memory: ten thousand groups in flight
cost the driver their objects, not their tokens. And two long arrays are sent sooner than thousands of short ones.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from rewards.types import Group, Rollout, ScoredGroup, Turn, Verdict
from workers.types import Request

Packed = tuple[bytes, np.ndarray, np.ndarray]


def _joined(arrays: list[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate(arrays).astype(dtype, copy=False) if arrays else np.zeros(0, dtype)


def _spanned(arrays: list[np.ndarray], dtype: type) -> np.ndarray:
    """As `_joined`; not copied where each goes on where the one before it ends, as those of a received group do."""
    base = arrays[0].base if arrays else None
    if isinstance(base, np.ndarray) and base.dtype == dtype and base.ndim == 1:
        start = end = _address(arrays[0])
        for array in arrays:
            if array.base is not base or array.dtype != dtype or _address(array) != end:
                return _joined(arrays, dtype)
            end += array.nbytes
        first = (start - _address(base)) // base.itemsize
        return base[first : first + (end - start) // base.itemsize]
    return _joined(arrays, dtype)


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def packed(groups: Sequence[Group], join: Callable[[list[np.ndarray], type], np.ndarray] = _joined) -> Packed:
    """The groups without their arrays; all token ids i32; all log-probs f32."""
    ids: list[np.ndarray] = []
    logprobs: list[np.ndarray] = []
    bare = []
    for group in groups:
        prompt: np.ndarray | None = None
        rollouts = []
        for rollout in group.rollouts:
            turns = []
            for turn in rollout.turns:
                asked = None  # the prompt of the turn before, which a group's first turns share
                if turn.prompt_ids is not prompt:
                    prompt, asked = turn.prompt_ids, len(turn.prompt_ids)
                    ids.append(prompt)
                ids.append(turn.completion_ids)
                logprobs.append(turn.logprobs)
                if turn.offsets is not None:
                    ids.append(turn.offsets)
                placed = turn.offsets is not None
                turns.append((asked, len(turn.completion_ids), turn.text, turn.stop, turn.versions, placed))
            rollouts.append((rollout.index, rollout.failure, turns))
        bare.append((group.id, group.task, rollouts))
    return pickle.dumps(bare, 5), join(ids, np.int32), join(logprobs, np.float32)


def unpacked(parcel: Packed) -> tuple[Group, ...]:
    """The groups as they were."""
    bare, ids, logprobs = parcel
    read = written = 0  # of the ids and the log-probs so far
    groups = []
    for id, task, attempts in pickle.loads(bare):
        prompt = ids[:0]
        rollouts = []
        for index, failure, spoken in attempts:
            turns = []
            for asked, answered, text, stop, versions, placed in spoken:
                if asked is not None:
                    prompt = ids[read : read + asked]
                    read += asked
                own, answer = logprobs[written : written + answered], ids[read : read + answered]
                read, written = read + answered, written + answered
                offsets = None
                if placed:
                    offsets = ids[read : read + answered]
                    read += answered
                turns.append(Turn(prompt, answer, own, text, stop, versions, offsets))
            rollouts.append(Rollout(index, tuple(turns), failure))
        groups.append(Group(id, task, tuple(rollouts)))
    return tuple(groups)


@dataclass(frozen=True, slots=True)
class Shelved:
    """A judged group that has to wait: two strings of bytes and two views in place of some dozens of objects, which
    cost several times their tokens."""

    group: Packed
    verdicts: bytes

    @classmethod
    def of(cls, scored: ScoredGroup) -> Shelved:
        return cls(packed([scored.group], _spanned), pickle.dumps(scored.verdicts, 5))

    def opened(self) -> ScoredGroup:
        """The group as it was."""
        return ScoredGroup(unpacked(self.group)[0], pickle.loads(self.verdicts))


class Parcel:
    """A record that is pickled whole, in C: Ray's own pickler goes through Python for every object inside."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        values = tuple(getattr(self, field.name) for field in fields(self))  # pyright: ignore[reportArgumentType]
        return _opened, (type(self), pickle.dumps(values, 5))


def _opened(cls: type, data: bytes) -> Any:
    return cls(*pickle.loads(data))


@dataclass(frozen=True, slots=True)
class Wave(Parcel):
    """Requests that are handed to a rollout worker together."""

    requests: tuple[Request, ...]


@dataclass(frozen=True, slots=True)
class Lot:
    """Groups that are handed to a judge together."""

    groups: tuple[Group, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        return _lot, packed(self.groups)


def _lot(*parcel: Any) -> Lot:
    return Lot(unpacked(parcel))


@dataclass(frozen=True, slots=True)
class Verdicts(Parcel):
    """A judge's answer to a lot: each group's verdicts, and the seconds it took."""

    verdicts: tuple[tuple[Verdict, ...], ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Generated:
    """Groups that a rollout worker finished together, and the seconds it generated since it last handed some over."""

    groups: tuple[Group, ...]
    seconds: float
    who: str

    def __reduce__(self) -> tuple[Any, ...]:
        return _generated, (self.seconds, self.who, *packed(self.groups))


def _generated(seconds: float, who: str, *parcel: Any) -> Generated:
    return Generated(unpacked(parcel), seconds, who)
