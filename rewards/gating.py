"""Several attributes of an answer as one number (ArmoRM, arXiv 2406.12845): decorrelated from verbosity, gated by the
prompt.

    r'_i = r_i - lambda_i r_verbosity            r'_verbosity = 0
    R    = sum_i weight_i g_i r'_i               g = softmax(gate(prompt) / temperature)

What differs: the gate is any classifier of prompts with a label for each attribute, where the paper's is an MLP on the
reward model's own state; and its scale is in the weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

GRID = (0.0, 0.01, *(round(0.025 * i, 3) for i in range(1, 39)))
CORRELATED = 0.03


def decorrelated(ratings: Mapping[str, float], verbosity: str, shares: Mapping[str, float]) -> dict[str, float]:
    """The attributes less their shares of verbosity, which itself becomes 0."""
    verbose = ratings[verbosity]
    return {
        name: 0.0 if name == verbosity else value - shares.get(name, 0.0) * verbose for name, value in ratings.items()
    }


def gates(logits: Sequence[float], temperature: float) -> np.ndarray:
    """f64[K], which sum to 1."""
    scaled = np.asarray(logits, np.float64) / temperature
    odds = np.exp(scaled - scaled.max())
    return odds / odds.sum()


def shares_of(ratings: Mapping[str, Sequence[float]], verbosity: str) -> dict[str, float]:
    """For each attribute the least share of verbosity after whose subtraction the two are no longer correlated on a
    reference set: Spearman's rho at most 0.03, over a grid from 0 to 0.95; 1 where none is enough.

    ratings  for each attribute its ratings of the reference set's answers
    """
    verbose = np.asarray(ratings[verbosity], np.float64)
    return {name: _share(np.asarray(r, np.float64), verbose) for name, r in ratings.items() if name != verbosity}


def _share(ratings: np.ndarray, verbose: np.ndarray) -> float:
    return next((s for s in GRID if spearman(ratings - s * verbose, verbose) <= CORRELATED), 1.0)


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation, ties with their mean rank; 0 where one of the two is constant."""
    ranked = [_ranks(x) - (len(x) - 1) / 2 for x in (a, b)]
    norm = np.sqrt((ranked[0] ** 2).sum() * (ranked[1] ** 2).sum())
    return float((ranked[0] * ranked[1]).sum() / norm) if norm else 0.0


def _ranks(x: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(counts) - 1
    return (last - (counts - 1) / 2)[inverse]
