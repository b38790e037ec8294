"""Named random streams: every draw of a run is a function of (seed, the stream's name)."""

from __future__ import annotations

import zlib

import numpy as np


def sequence(seed: int, *names: str | int) -> np.random.SeedSequence:
    """The seed sequence of a named stream."""
    words = [zlib.crc32(name.encode()) if isinstance(name, str) else name for name in names]
    return np.random.SeedSequence([seed, *words])


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """A generator on a named stream."""
    return np.random.default_rng(sequence(seed, *names))


def key(seed: int, *names: str | int) -> int:
    """A 63-bit key of a named stream, for records that carry their stream along."""
    return int(sequence(seed, *names).generate_state(1, np.uint64)[0] >> 1)
