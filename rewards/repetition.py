"""How much of a text repeats itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any


def loop_share(tokens: Sequence[Any]) -> float:
    """Share of the C tokens inside the loop that they end in, 0 to 1; C at least 1. Linear in C.

    A loop is whole repeats of one phrase, two or more, up to the last token; of all phrases the one whose loop is
    longest counts (MiroMind-M1, arXiv 2507.14683). Read backwards, a loop of phrases of p tokens is a text that agrees
    with itself p tokens later: `agree[p]` is for how long, found for all p at once as in Gusfield's Z algorithm.
    """
    text = tokens[::-1]
    n = len(text)
    agree, left, right = [0] * n, 0, 0
    for i in range(1, n):
        k = min(right - i, agree[i - left]) if i < right else 0
        while i + k < n and text[k] == text[i + k]:
            k += 1
        agree[i] = k
        if i + k > right:
            left, right = i, i + k
    return max(((agree[p] // p + 1) * p for p in range(1, n // 2 + 1) if agree[p] >= p), default=0) / n


def repeated_grams(words: Sequence[str], n: int) -> float:
    """Different n-grams that come more than once, over all n-grams (Lv et al., arXiv 2505.22653); 0 without any."""
    grams = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    total = grams.total()
    return sum(count > 1 for count in grams.values()) / total if total else 0.0
