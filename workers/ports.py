"""The faces of the hands: `Rollouts`, `Judges`, `Learner` and `WeightTransport` for the head, `Engine` for a worker.

`pipeline/assemble.py` chooses the classes behind them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rewards.types import Group, Task
from workers.messages import Generated
from workers.types import (
    Completion,
    Judged,
    MicroBatch,
    Needs,
    Optimization,
    Plan,
    Prompt,
    Proof,
    Published,
    Request,
    Scalar,
    StepReport,
)


class Engine(Protocol):
    """Generates tokens for a rollout worker: ids in, ids and log-probs out."""

    def generate(self, prompts: Sequence[Prompt]) -> AsyncIterator[list[tuple[int, list[Completion]]]]:
        """Yield (prompt id, its n completions) as they finish.

        Prompts handed over in one call are batched the same way every time, so that a synchronous run repeats.
        """
        ...

    async def load(self, weights: Published) -> Proof:
        """Take over new weights; tokens drawn afterwards carry their version. Answers with what it makes of what it now
        holds (see `workers.weights.proof`).

        Raises `ValueError`, and keeps the old weights, where they do not fit.
        """
        ...

    async def sleep(self) -> None:
        """Give the device's memory back, weights included, until `load` brings new ones.

        Raises `RunFailed` where sequences are in flight; so does `generate`, until then.
        """
        ...

    async def close(self) -> None: ...


class Rollouts(Protocol):
    """The rollout workers, as one."""

    def run(self, wave: Sequence[Request]) -> AsyncIterator[Generated]:
        """Yield groups as they finish. A wave is split over the workers in a fixed way."""
        ...

    async def render(self, tasks: Sequence[Task]) -> list[tuple[np.ndarray, np.ndarray]]:
        """(prompt, answer) as token ids, i32[P] and i32[C], of tasks with a demonstration."""
        ...

    async def step_ends(self, answers: Sequence[tuple[np.ndarray, Sequence[int]]]) -> list[np.ndarray]:
        """i32[K] each: which of an answer's tokens i32[C] hold the last characters of its K steps, by where in its text
        they end."""
        ...


class Judges(Protocol):
    """The judge workers, as one."""

    async def judge(self, groups: Sequence[Group]) -> Judged:
        """Verdicts for every rollout of every group; what could not be judged comes back as failures."""
        ...


class LossFn(Protocol):
    """A loss over the own tokens of a micro-batch, as a weighted **sum**; the learner divides by the denominator.

    A frozen, picklable value. `logp` and `entropy` are f32[N] tensors; the returned metrics map a name to
    (sum, count) tensors or numbers.
    """

    def __call__(self, batch: MicroBatch, logp: Any, entropy: Any) -> tuple[Any, Mapping[str, tuple[Any, Any]]]: ...


class ScalarLoss(Protocol):
    """As `LossFn`, over a scalar model's numbers: f32[N, heads] at own tokens, f32[S, heads] at sequences' ends."""

    def __call__(self, batch: MicroBatch, values: Any) -> tuple[Any, Mapping[str, tuple[Any, Any]]]: ...


class Learner(Protocol):
    """All learner ranks, as one."""

    async def begin(
        self, optimization: Optimization, losses: Sequence[LossFn], keep_reference: bool, scalar: Scalar | None = None
    ) -> None:
        """Start a stage: fresh optimizer and schedule; `keep_reference` freezes a copy of the policy as it stands.

        `scalar` is learned beside the policy, or in its place where there are no losses of a policy. Raises `Refused`
        where it can't be made.
        """
        ...

    async def infer(self, batches: Sequence[MicroBatch], needs: Needs) -> tuple[list[dict[str, np.ndarray]], float]:
        """For each micro-batch, f32[N] log-probs by name (logp_old, logp_ref) and the scalar model's numbers (value,
        f32[N, heads] or f32[S, heads]); and the learner's own seconds."""
        ...

    async def update(self, plan: Plan) -> StepReport:
        """Take the plan's optimizer updates. Raises `RunFailed` on a non-finite gradient."""
        ...

    def export(self) -> Any:
        """A Ray reference to the weights as `Published`; the bytes never pass through the driver."""
        ...

    def proof(self) -> Any:
        """A Ray reference to the learner's `Proof` of the weights just exported."""
        ...

    async def version(self) -> int:
        """The version of the weights as they stand: the number of steps taken."""
        ...

    async def save(self, directory: Path) -> None:
        """Write everything that a resumed run needs: policy, reference, optimizer, schedule, version."""
        ...

    async def load(self, directory: Path) -> None: ...

    async def save_model(self, directory: Path) -> None:
        """Write what the stage learned as a Hugging Face directory: the policy, or a reward model."""
        ...

    async def load_model(self, directory: Path) -> None:
        """Take the policy of a Hugging Face directory (a stage that starts from another one)."""
        ...


class WeightTransport(Protocol):
    """Brings the learner's weights to every engine."""

    async def publish(self) -> None:
        """Returns when every engine holds the learner's weights."""
        ...
