"""Gao's laws of reward-model overoptimization (Gao, Schulman, Hilton, arXiv 2210.10760), and whether there is a peak.

With d the square root of the KL to the policy that was started from, the gold score has gained

    by RL          R(d) = d (a - b ln d)         peak at d* = exp(a / b - 1), R* = b d*
    by best-of-n   R(d) = d (a - b d)            peak at d* = a / 2b,         R* = a^2 / 4b

with R(0) = 0: it is the gain over the start that is fitted. Both are linear in a and b, so least squares gives them;
their intervals are a bootstrap's, for RL of blocks of steps, since neighbouring steps share their policy, for best-of-n
of tasks, whose samples stand behind every point. `a` is what a
little optimisation gains, `b` how fast the proxy is seen through.

A peak is named only where it and its whole interval lie inside the data: an extrapolated one is a guess. The RL form
has an infinite slope at 0 and says nothing there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.lab.statistics import bootstrap, interval
from rewards.types import ScoredGroup

Form = Literal["rl", "best_of_n"]
LEAST = 5  # points below which two parameters say nothing about how sure they are


@dataclass(frozen=True)
class Law:
    """A fitted curve.

    a, b             see the page above; a_interval, b_interval: 95%
    peak, gain       d* and R* of the fit, whether or not they lie inside the data; None where b <= 0: no peak
    peak_interval    95% of d*
    named            whether the peak may be called one; else `refusal` says why not
    reach            (lowest, highest) d of the data
    points           how many
    start            gold score at d = 0 that the gains are over
    """

    form: Form
    a: float
    b: float
    a_interval: tuple[float, float]
    b_interval: tuple[float, float]
    peak: float | None
    gain: float | None
    peak_interval: tuple[float, float] | None
    named: bool
    refusal: str
    reach: tuple[float, float]
    points: int
    start: float

    def curve(self, d: np.ndarray) -> np.ndarray:
        """f64[n]: the fitted gold score (not its gain) at d > 0."""
        return self.start + _terms(self.form, d) @ np.array([self.a, self.b])


@dataclass(frozen=True)
class Unfitted:
    """Why no law was fitted."""

    reason: str


def fit(
    form: Form, d: Sequence[float], gold: Sequence[float], start: float | None = None, block: int = 1, seed: int = 0
) -> Law | Unfitted:
    """The law through gold scores at distances d. Points at d = 0 are the start and carry no information on a and b.

    start  the gold score at d = 0; None: it is fitted as well, as a third parameter
    block  neighbouring points that the bootstrap keeps together
    """
    x, y = np.asarray(d, float), np.asarray(gold, float)
    kept = (x > 0) & np.isfinite(x) & np.isfinite(y)
    x, y = x[kept], y[kept]
    if len(x) < LEAST or len(np.unique(x)) < LEAST:
        return Unfitted(f"no peak can be named: {len(np.unique(x))} distances above 0, expected {LEAST} or more")
    terms = _terms(form, x)
    if start is None:
        terms = np.column_stack([terms, np.ones(len(x))])

    def solve(places: np.ndarray) -> np.ndarray:
        return np.linalg.lstsq(terms[places], y[places] - (start or 0.0), rcond=None)[0]

    found = solve(np.arange(len(x)))
    replicates = bootstrap(solve, len(x), seed, min(block, len(x)))
    return _law(form, found, replicates, x, float(found[2]) if start is None else start)


def _law(form: Form, found: np.ndarray, replicates: np.ndarray, x: np.ndarray, start: float) -> Law:
    """Of a and b as they were found, and of a bootstrap's f64[R, 2 or more]."""
    low, high = interval(replicates[:, :2])
    peak = _peak(form, found[0], found[1])
    # A replicate without a peak has it beyond all data.
    peaks = np.sort([_peak(form, a, b) for a, b in replicates[:, :2]])
    spread = float(peaks[int(0.025 * len(peaks))]), float(peaks[int(0.975 * len(peaks))])
    reach = float(x.min()), float(x.max())
    refusal = _refusal(peak, spread, reach)
    there = math.isfinite(peak)
    return Law(
        form=form,
        a=float(found[0]),
        b=float(found[1]),
        a_interval=(float(low[0]), float(high[0])),
        b_interval=(float(low[1]), float(high[1])),
        peak=peak if there else None,
        gain=float((_terms(form, np.array([peak])) @ found[:2])[0]) if there else None,
        peak_interval=spread if there else None,
        named=not refusal,
        refusal=refusal,
        reach=reach,
        points=len(x),
        start=start,
    )


def _terms(form: Form, d: np.ndarray) -> np.ndarray:
    """f64[n, 2]: what a and b are multiplied by."""
    return np.column_stack([d, -d * (np.log(d) if form == "rl" else d)])


def _peak(form: Form, a: float, b: float) -> float:
    """d*; infinite where the curve has no highest point at d > 0."""
    if b <= 0:
        return math.inf
    if form == "best_of_n":
        return a / (2 * b) if a > 0 else math.inf
    return math.exp(a / b - 1) if a / b < 700 else math.inf


def _refusal(peak: float, spread: tuple[float, float], reach: tuple[float, float]) -> str:
    low, high = reach
    seen = f"the data reach from {low:.3g} to {high:.3g}"
    if math.isinf(peak):
        return f"no peak can be named: the fitted curve has none ({seen})"
    if not low <= peak <= high:
        return f"no peak can be named: the fitted one, {peak:.3g}, lies outside the data ({seen})"
    if not (low <= spread[0] and spread[1] <= high):
        upper = "without end" if math.isinf(spread[1]) else f"{spread[1]:.3g}"
        return f"no peak can be named: its interval, {spread[0]:.3g} to {upper}, leaves the data ({seen})"
    return ""


@dataclass(frozen=True)
class BestOfN:
    """The best of n samples by the proxy: d = sqrt(KL), and the mean proxy and gold score of what is chosen."""

    n: int
    d: float
    proxy: float
    gold: float


Pool = tuple[np.ndarray, np.ndarray]


def pools(groups: Sequence[ScoredGroup]) -> list[Pool]:
    """(proxy, gold) f64[N] of each group's rollouts that both could judge."""
    out = []
    for scored in groups:
        pairs = [
            (v.reward, v.gold.value)
            for v in scored.verdicts
            if v.reward is not None and v.gold is not None and v.gold.value is not None
        ]
        if pairs:
            proxy, gold = np.array(pairs, float).T
            out.append((proxy, gold))
    return out


def best_of_n(found: Sequence[Pool]) -> list[BestOfN]:
    """The curve over n = 1, 2, 4, ... up to the smallest pool, mean over the pools (one for each task).

    Without bias from one pool of N samples: sorted by the proxy, the i-th is the best of a random n with probability
    C(i - 1, n - 1) / C(N, n). Empty where a pool has one sample.
    """
    sizes, chosen = _chosen(found)
    means = chosen.mean(axis=0).tolist() if sizes else []
    return [BestOfN(n, math.sqrt(best_of_n_kl(n)), *mean) for n, mean in zip(sizes, means, strict=True)]


def fit_best_of_n(found: Sequence[Pool], seed: int = 0) -> Law | Unfitted:
    """The law through the gold scores of that curve; its start is the one sample's."""
    sizes, chosen = _chosen(found)
    if len(sizes) <= LEAST:
        seen = max(0, len(sizes) - 1)
        return Unfitted(f"no peak can be named: {seen} distances above 0, expected {LEAST} or more")
    x, gold = np.sqrt([best_of_n_kl(n) for n in sizes[1:]]), chosen[:, :, 1]
    inverse = np.linalg.pinv(_terms("best_of_n", x))

    def solve(places: np.ndarray) -> np.ndarray:
        mean = gold[places].mean(axis=0)
        return inverse @ (mean[1:] - mean[0])

    every = np.arange(len(gold))
    return _law("best_of_n", solve(every), bootstrap(solve, len(gold), seed), x, float(gold[:, 0].mean()))


def _chosen(found: Sequence[Pool]) -> tuple[list[int], np.ndarray]:
    """n = 1, 2, 4, ... up to the smallest pool, none where it holds one sample; and of each pool the mean proxy and
    gold score of what is chosen of so many, f64[tasks, n's, 2]."""
    most = min((len(proxy) for proxy, _ in found), default=0)
    if most < 2:
        return [], np.zeros((len(found), 0, 2))
    sizes = [2**k for k in range(most.bit_length()) if 2**k < most] + [most]
    weights = {size: np.stack([order_weights(size, n) for n in sizes]) for size in {len(proxy) for proxy, _ in found}}
    ordered = (np.column_stack([np.sort(proxy), _by_proxy(proxy, gold)]) for proxy, gold in found)
    return sizes, np.stack([weights[len(rows)] @ rows for rows in ordered])


def best_of_n_kl(n: int) -> float:
    """Nats between the best of n samples and one sample: ln n - (n - 1) / n, an upper bound where scores tie."""
    return math.log(n) - (n - 1) / n


def order_weights(size: int, n: int) -> np.ndarray:
    """f64[size]: how likely the i-th lowest of `size` is the highest of n drawn without replacement."""
    ranks = np.arange(1, size + 1)
    logs = np.array([math.lgamma(i) - math.lgamma(i - n + 1) if i >= n else -math.inf for i in ranks])
    logs -= math.lgamma(n) + math.lgamma(size + 1) - math.lgamma(n + 1) - math.lgamma(size - n + 1)
    return np.exp(logs)


def _by_proxy(proxy: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """The gold scores in the proxy's order; those of equal proxies are their mean, for a tie is broken by lot."""
    _, tie, count = np.unique(proxy, return_inverse=True, return_counts=True)
    means = np.bincount(tie, gold) / count
    return means[np.sort(tie)]
