"""A learner rank in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workers.ports import LossFn
from workers.ray_actors import node_address
from workers.types import MicroBatch, Needs, Optimization, Plan, Proof, Published, Scalar, StepReport

if TYPE_CHECKING:
    from workers.learner.engine_torch import TorchLearner


class LearnerWorker:
    """Hosts one learner engine; `make_engine` is called in `open`, in the worker's own process."""

    def __init__(self, make_engine: Callable[[], TorchLearner]):
        self.make_engine = make_engine

    def invite(self, ranks: int) -> tuple[str, int]:
        """Of the first rank: where the others are to come to."""
        from workers.learner.ranks import invite

        return invite(node_address(), ranks)

    def open(self, address: tuple[str, int] | None, number: int, of: int, cuda: bool, timeout_s: float) -> None:
        """Meet the other ranks, where there are any, and make the engine."""
        if address is not None:
            from workers.learner.ranks import join

            join(address, number, of, cuda, timeout_s)
        self.engine = self.make_engine()

    def begin(
        self, optimization: Optimization, losses: Sequence[LossFn], keep_reference: bool, scalar: Scalar | None = None
    ) -> None:
        self.engine.begin(optimization, losses, keep_reference, scalar)

    def infer(self, batches: Sequence[MicroBatch], needs: Needs) -> tuple[list[dict[str, np.ndarray] | None], float]:
        start = time.perf_counter()
        return self.engine.infer(batches, needs), time.perf_counter() - start

    def update(self, plan: Plan) -> StepReport:
        start = time.perf_counter()
        report = self.engine.update(plan)
        return replace(report, seconds=time.perf_counter() - start)

    def export(self) -> Published | None:
        return self.engine.export()

    def proof(self) -> Proof | None:
        return self.engine.proof()

    def version(self, *answers: None) -> int:
        """`answers` are what other ranks answered to an export or a proof: where that failed, so does this question."""
        return self.engine.version

    def sleep(self) -> None:
        self.engine.sleep()

    def files(self, verb: str, directory: str) -> None:
        """save, load, save_model or load_model."""
        action: Any = getattr(self.engine, verb)
        action(Path(directory))
