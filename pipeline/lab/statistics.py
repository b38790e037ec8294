"""What a handful of numbers says: means with intervals, comparisons paired by seed, correction for many of them.

A share's interval is Wilson's (1927). A mean's interval is a bootstrap's (percentile method, Efron 1979): no shape of
distribution is assumed, but of three seeds it can't be wider than from the lowest to the highest of them. A comparison
is Student's t on the differences of equal seeds, which does widen for few seeds; many comparisons are corrected by Holm
(1979).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
CONFIDENCE = 0.95
Z = 1.959963984540054  # the normal distribution's quantile of it


def wilson(right: float, n: float) -> tuple[float, float]:
    """Wilson's 95% interval of a share, `right` of `n` (or of as many as they are worth); (0, 1) of none."""
    if not n:
        return 0.0, 1.0
    p, spread = right / n, Z**2 / n
    centre, half = p + spread / 2, Z * math.sqrt(p * (1 - p) / n + spread / (4 * n))
    low, high = (centre - half) / (1 + spread), (centre + half) / (1 + spread)
    return (0.0 if right == 0 else low), (1.0 if right == n else high)


def interval(replicates: np.ndarray) -> np.ndarray:
    """[low, high] f64[2] or f64[2, K]: the 95% percentile interval of bootstrap replicates f64[R] or f64[R, K]."""
    tail = (1 - CONFIDENCE) / 2
    return np.nanquantile(replicates, [tail, 1 - tail], axis=0)


def bootstrap(
    statistic: Callable[[np.ndarray], np.ndarray], n: int, seed: int = 0, block: int = 1, resamples: int = 1000
) -> np.ndarray:
    """f64[R, K]: `statistic(places i64[n])` f64[K] of `n` places drawn with replacement, R times.

    block  how many neighbours are drawn together: what follows each other in time is alike (Künsch 1989)
    """
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, n - block + 1, (resamples, -(-n // block)))
    places = (starts[:, :, None] + np.arange(block)).reshape(resamples, -1)[:, :n]
    return np.stack([statistic(row) for row in places])


@dataclass(frozen=True)
class Mean:
    """The mean of `n` numbers, its 95% interval (both ends the mean itself where n is 1), and their standard
    deviation (0 where n is 1)."""

    value: float
    low: float
    high: float
    n: int
    deviation: float


@dataclass(frozen=True)
class Difference:
    """Mean of n paired differences, its 95% interval, and the two-sided p of no difference.

    Of a single pair there is no interval and no p: they are None.
    """

    value: float
    low: float | None
    high: float | None
    p: float | None
    n: int


def mean(values: Sequence[float], seed: int = 0) -> Mean | None:
    """Mean and bootstrap interval, the same for the same numbers in any order; None of no numbers."""
    if not values:
        return None
    x = np.sort(np.asarray(values, float))
    drawn = np.random.default_rng(seed).integers(0, len(x), (RESAMPLES, len(x)))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(x[drawn].mean(axis=1), [tail, 1 - tail])
    deviation = float(x.std(ddof=1)) if len(x) > 1 else 0.0
    return Mean(float(x.mean()), float(low), float(high), len(x), deviation)


def paired(values: Mapping[int, float], control: Mapping[int, float]) -> Difference | None:
    """values minus control, both by seed, over the seeds that both have; None where they share none.

    Differences that are all the same number leave no doubt: p is 0, or 1 where that number is 0.
    """
    seeds = sorted(values.keys() & control.keys())
    if not seeds:
        return None
    x = np.array([values[seed] - control[seed] for seed in seeds])
    centre, n = float(x.mean()), len(x)
    if n == 1:
        return Difference(centre, None, None, None, 1)
    error = float(x.std(ddof=1)) / math.sqrt(n)
    if error == 0:
        return Difference(centre, centre, centre, float(centre == 0), n)
    from scipy import stats  # takes a second to import

    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * error
    p = 2 * float(stats.t.sf(abs(centre) / error, n - 1))
    return Difference(centre, centre - half, centre + half, p, n)


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """The p values corrected for their number by Holm's step-down method; what is None stays None and counts nothing.

    The k-th smallest of m is multiplied by m - k + 1, and none is smaller than the one before it, or above 1.
    """
    places = sorted((i for i, p in enumerate(ps) if p is not None), key=lambda i: ps[i] or 0.0)
    out: list[float | None] = [None] * len(ps)
    least = 0.0
    for rank, i in enumerate(places):
        least = max(least, min(1.0, (ps[i] or 0.0) * (len(places) - rank)))
        out[i] = least
    return out
