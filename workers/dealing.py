"""How much of the learner's work is done at once, and by whom: chunks of the vocabulary's product, shares of ranks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

# A token's attention costs as much as the rest of its layer once this many stand before it: a model of 0.5 billion
# weights; larger ones have more of the rest.
EVEN = 16_384
# Logits at once; and tokens at least, for each chunk adds to the whole gradient of the head.
CHUNK, FEWEST = 2**22, 256


def chunk_tokens(vocabulary: int) -> int:
    """Tokens whose logits stand in memory at once."""
    return max(FEWEST, CHUNK // vocabulary)


def cost(lengths: Iterable[int]) -> float:
    """Of sequences laid end to end: their tokens, and what attention takes beyond, by the square of each length."""
    return float(sum(n + n * n / EVEN for n in lengths))


def deal(costs: Sequence[float], ranks: int) -> list[list[int]]:
    """The longest first, each to the rank that has least so far (Graham, 1969); item numbers by rank, ascending."""
    hands: list[list[int]] = [[] for _ in range(ranks)]
    loads = [0.0] * ranks
    for item in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        rank = min(range(ranks), key=lambda r: (loads[r], len(hands[r]), r))
        hands[rank].append(item)
        loads[rank] += costs[item]
    return [sorted(hand) for hand in hands]
