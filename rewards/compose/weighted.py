"""The weighted sum: what `rewards` does unless `combine` says otherwise."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from rewards.errors import nearest
from rewards.ports import Row
from rewards.types import Group


@dataclass(frozen=True)
class Weighted:
    """The sum of the sources' values, each times its weight."""

    def check(self, weights: Mapping[str, float]) -> None:
        """Any sources will do."""

    def combine(self, group: Group, rows: Sequence[Row]) -> Sequence[float]:
        """See `Combiner.combine`."""
        return [weighted_sum(row) for row in rows]


def weighted_sum(row: Row, without: Collection[str] = ()) -> float:
    """Sum of weight times value over the sources that judge the whole: what judges steps counts by its steps."""
    counted = (score for name, score in row.items() if name not in without and score.steps is None)
    return float(sum(score.weight * (score.value or 0.0) for score in counted))


def known(key: str, name: str, weights: Mapping[str, float]) -> None:
    """Raises `ValueError` where a combiner's key names no source, or one that only watches."""
    if name not in weights:
        raise ValueError(f"{key}: no source {name!r}; {nearest(name, weights)}")
    if not weights[name]:
        raise ValueError(f"{key}: source {name!r} has weight 0 and only watches, expected one that counts")
