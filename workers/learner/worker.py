"""A learner rank in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workers.ports import LossFn
from workers.types import MicroBatch, Needs, Optimization, Plan, Published, Scalar, StepReport

if TYPE_CHECKING:
    from workers.learner.engine_torch import TorchLearner


class LearnerWorker:
    """Hosts one learner engine; `make_engine` is called here, in the worker's own process."""

    def __init__(self, make_engine: Callable[[], TorchLearner]):
        self.engine = make_engine()

    def begin(
        self, optimization: Optimization, losses: Sequence[LossFn], keep_reference: bool, scalar: Scalar | None = None
    ) -> None:
        self.engine.begin(optimization, losses, keep_reference, scalar)

    def infer(self, batches: Sequence[MicroBatch], needs: Needs) -> tuple[list[dict[str, np.ndarray]], float]:
        start = time.perf_counter()
        return self.engine.infer(batches, needs), time.perf_counter() - start

    def update(self, plan: Plan) -> StepReport:
        start = time.perf_counter()
        report = self.engine.update(plan)
        return replace(report, seconds=time.perf_counter() - start)

    def export(self) -> Published:
        return self.engine.export()

    def version(self) -> int:
        return self.engine.version

    def sleep(self) -> None:
        self.engine.sleep()

    def files(self, verb: str, directory: str) -> None:
        """save, load, save_model or load_model."""
        action: Any = getattr(self.engine, verb)
        action(Path(directory))
