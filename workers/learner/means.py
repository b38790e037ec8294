"""Metrics that add up over micro-batches and ranks before they are means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mean:
    """A metric with its own arithmetic: a sum and a count that add up over micro-batches and ranks."""

    total: float
    count: float

    def __add__(self, other: Mean) -> Mean:
        return Mean(self.total + other.total, self.count + other.count)

    @property
    def value(self) -> float:
        return self.total / self.count if self.count else 0.0


def add_means(parts: Sequence[Mapping[str, Mean]]) -> dict[str, Mean]:
    """Sum metrics by name."""
    out: dict[str, Mean] = {}
    for part in parts:
        for name, mean in part.items():
            out[name] = out[name] + mean if name in out else mean
    return out
