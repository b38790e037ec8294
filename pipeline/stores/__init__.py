"""Where a run is remembered: JSONL files always, MLflow beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.stores.ports import RunStore


class Stores:
    """Several stores as one; each is told everything, in the order given."""

    def __init__(self, *stores: RunStore) -> None:
        self._stores = stores

    def params(self, params: Mapping[str, Any]) -> None:
        for store in self._stores:
            store.params(params)

    def metrics(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        for store in self._stores:
            store.metrics(stage, step, metrics)

    def samples(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for store in self._stores:
            store.samples(rows)

    def event(self, kind: str, text: str, stage: str | None = None) -> None:
        for store in self._stores:
            store.event(kind, text, stage)

    def finish(self, status: str) -> None:
        for store in self._stores:
            store.finish(status)
