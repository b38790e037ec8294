"""All learner ranks behind one face."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rewards.errors import Refused, RunFailed
from workers.learner.worker import LearnerWorker
from workers.ports import LossFn
from workers.ray_actors import Actor, call, kill, ready, shared, start_actor, submit
from workers.types import MicroBatch, Needs, Optimization, Plan, Scalar, StepReport

if TYPE_CHECKING:
    from workers.learner.engine_torch import TorchLearner


# Seconds that the other ranks have to say what ailed them, once one says something that may only follow from it.
LAST_WORDS = 10.0


class LearnerTeam:
    """`ranks` actors with `cpus` CPUs each. Every wait ends with a rank's name after `timeout_s`; a rank that raises or
    dies ends them all, with its own message.

    `start` starts them where they are to sit (see `workers.placement`); they compute on GPUs where `cuda`.
    """

    def __init__(
        self,
        make_engine: Callable[[], TorchLearner],
        cpus: float,
        timeout_s: float,
        start: Callable[..., Actor] = start_actor,
        ranks: int = 1,
        cuda: bool = False,
    ):
        self.make_engine, self.cpus, self.timeout_s, self.start_actor = make_engine, cpus, timeout_s, start
        self.names = rank_names(ranks)
        self.cuda = cuda
        self.actors: list[Actor] = []
        self.answers: list[Any] = []  # of the ranks to the last export and proof: nothing, or an error

    async def start(self) -> None:
        """Returns when the learner holds its model."""
        make, cpus = self.make_engine, self.cpus
        self.actors = [self.start_actor(LearnerWorker, make, name=name, cpus=cpus) for name in self.names]
        await asyncio.gather(*(ready(actor, self.timeout_s) for actor in self.actors))
        address, of = None, len(self.actors)
        if of > 1:
            address = await call(self.actors[0], "invite", of, timeout_s=self.timeout_s)
        at = (of, self.cuda, self.timeout_s)
        await self._together(
            [
                call(actor, "open", address, number, *at, timeout_s=self.timeout_s)
                for number, actor in enumerate(self.actors)
            ]
        )

    async def _call(self, method: str, *args: Any) -> list[Any]:
        """Ask all ranks; their answers."""
        assert self.actors, "start() comes first"
        given = args if len(self.actors) == 1 else [shared(argument) for argument in args]
        return await self._together([call(actor, method, *given, timeout_s=self.timeout_s) for actor in self.actors])

    async def _together(self, calls: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
        """All answers; or the error of the rank that is to blame, after which none of them lives."""
        tasks = [asyncio.ensure_future(one) for one in calls]
        try:
            _, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            errors = _errors(tasks)
            if waiting and not any(isinstance(error, Refused | RunFailed) for error in errors):
                # One that was left alone in an exchange says so, before the one that left it is known to have died.
                await asyncio.wait(waiting, timeout=LAST_WORDS, return_when=asyncio.ALL_COMPLETED)
                errors = _errors(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if errors:
            if len(self.actors) > 1:
                await self.close()
            raise next((error for error in errors if isinstance(error, Refused | RunFailed)), errors[0])
        return [task.result() for task in tasks]

    async def begin(
        self, optimization: Optimization, losses: Sequence[LossFn], keep_reference: bool, scalar: Scalar | None = None
    ) -> None:
        """See `Learner.begin`."""
        await self._call("begin", optimization, losses, keep_reference, scalar)

    async def infer(self, batches: Sequence[MicroBatch], needs: Needs) -> tuple[list[dict[str, np.ndarray]], float]:
        """See `Learner.infer`."""
        answers = await self._call("infer", batches, needs)
        found = [next(one for one in of if one is not None) for of in zip(*(a for a, _ in answers), strict=True)]
        return found, max(seconds for _, seconds in answers)

    async def update(self, plan: Plan) -> StepReport:
        """See `Learner.update`."""
        reports = await self._call("update", plan)
        return max(reports, key=lambda report: report.seconds)

    def export(self) -> Any:
        """See `Learner.export`."""
        assert self.actors, "start() comes first"
        first, *self.answers = [submit(actor, "export") for actor in self.actors]
        return first

    def proof(self) -> Any:
        """See `Learner.proof`."""
        self.answers = [submit(actor, "proof") for actor in self.actors]
        return self.answers[0]

    async def version(self) -> int:
        """The version of the weights as they stand; after an export, or a proof, it answers when that is through on
        all ranks."""
        asked = [call(actor, "version", *self.answers, timeout_s=self.timeout_s) for actor in self.actors]
        return (await self._together(asked))[0]

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
        for actor in self.actors:
            kill(actor)


def rank_names(ranks: int) -> list[str]:
    """What the ranks are called in messages and placements."""
    return ["learner"] if ranks == 1 else [f"learner-{i}" for i in range(ranks)]


def _errors(tasks: Sequence[asyncio.Future[Any]]) -> list[BaseException]:
    found = (task.exception() for task in tasks if task.done() and not task.cancelled())
    return [error for error in found if error is not None]
