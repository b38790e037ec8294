"""All learner ranks behind one face."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workers.learner.worker import LearnerWorker
from workers.ports import LossFn
from workers.ray_actors import Actor, call, kill, ready, start_actor, submit
from workers.types import MicroBatch, Needs, Optimization, Plan, Scalar, StepReport

if TYPE_CHECKING:
    from workers.learner.engine_torch import TorchLearner


class LearnerTeam:
    """One rank, an actor with `cpus` CPUs. Every wait ends with the learner's name after `timeout_s`.

    `start` starts it where it is to sit (see `workers.placement`).
    """

    def __init__(
        self,
        make_engine: Callable[[], TorchLearner],
        cpus: float,
        timeout_s: float,
        start: Callable[..., Actor] = start_actor,
    ):
        self.make_engine, self.cpus, self.timeout_s, self.start_actor = make_engine, cpus, timeout_s, start
        self.actor: Actor | None = None

    async def start(self) -> None:
        """Returns when the learner holds its model."""
        self.actor = self.start_actor(LearnerWorker, self.make_engine, name="learner", cpus=self.cpus)
        await ready(self.actor, self.timeout_s)

    async def _call(self, method: str, *args: Any) -> Any:
        assert self.actor is not None, "start() comes first"
        return await call(self.actor, method, *args, timeout_s=self.timeout_s)

    async def begin(
        self, optimization: Optimization, losses: Sequence[LossFn], keep_reference: bool, scalar: Scalar | None = None
    ) -> None:
        """See `Learner.begin`."""
        await self._call("begin", optimization, losses, keep_reference, scalar)

    async def infer(self, batches: Sequence[MicroBatch], needs: Needs) -> tuple[list[dict[str, np.ndarray]], float]:
        """See `Learner.infer`."""
        return await self._call("infer", batches, needs)

    async def update(self, plan: Plan) -> StepReport:
        """See `Learner.update`."""
        return await self._call("update", plan)

    def export(self) -> Any:
        """See `Learner.export`."""
        assert self.actor is not None, "start() comes first"
        return submit(self.actor, "export")

    async def version(self) -> int:
        """The version of the weights as they stand."""
        return await self._call("version")

    async def save(self, directory: Path) -> None:
        """See `Learner.save`."""
        await self._call("files", "save", str(directory))

    async def load(self, directory: Path) -> None:
        """See `Learner.load`."""
        await self._call("files", "load", str(directory))

    async def save_model(self, directory: Path) -> None:
        """See `Learner.save_model`."""
        await self._call("files", "save_model", str(directory))

    async def load_model(self, directory: Path) -> None:
        """See `Learner.load_model`."""
        await self._call("files", "load_model", str(directory))

    async def sleep(self) -> None:
        """Give the device's memory back, the weights' aside, until the next update (see `workers.turns`)."""
        await self._call("sleep")

    async def close(self) -> None:
        if self.actor is not None:
            kill(self.actor)
