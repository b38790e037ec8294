"""The critic of an actor-critic algorithm: what a config says of it, and its loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

from annotated_types import Ge, Gt

from workers.types import MicroBatch, Scalar


@dataclass(frozen=True, slots=True)
class ClippedValueLoss:
    """c max((V - R)^2, (clip(V, V_old - range, V_old + range) - R)^2): PPO's value clipping, as in OpenAI's baselines.

    With c = 1/2 it is verl's compute_value_loss. Weighted like the policy's loss; `range` None does not clip.
    """

    coefficient: float
    range: float | None

    def __call__(self, batch: MicroBatch, values: Any) -> tuple[Any, Mapping[str, tuple[Any, Any]]]:
        value, old = values[:, 0], cast(Any, batch.value_old)
        free = worse = (value - batch.target).square()
        if self.range is not None:
            near = value.clamp(old - self.range, old + self.range)
            worse = free.maximum((near - batch.target).square())
        loss = self.coefficient * (worse * batch.weight).sum()
        n = len(value)
        return loss, {
            "critic/loss": (self.coefficient * worse.detach().sum(), n),
            "critic/clipped": ((worse > free).sum(), n),
        }


@dataclass(frozen=True, slots=True)
class Critic:
    """A value for every token the policy writes: the reward to be expected from there on.

    trunk        separate: a transformer of its own; shared: a head on the policy's
    start        directory of a reward model to start from; default: the policy's trunk as the stage finds it
    lr           its own peak rate; default: learner.lr
    warmup       updates at the start of the stage in which it learns and the policy does not
    value_clip   how far one step's updates may move a value before its loss stops falling; default: anywhere (with
                 one update per step it changes nothing)
    coefficient  of its loss: what it has to say in a shared trunk
    """

    trunk: Literal["separate", "shared"] = "separate"
    start: str | None = None
    lr: Annotated[float, Gt(0)] | None = None
    warmup: Annotated[int, Ge(0)] = 0
    value_clip: Annotated[float, Gt(0)] | None = None
    coefficient: Annotated[float, Gt(0)] = 0.5

    def __post_init__(self) -> None:
        """Raises `ValueError` for keys that contradict each other."""
        if self.trunk == "shared" and self.start is not None:
            raise ValueError(f"critic.start: {self.start!r} with trunk: shared, the policy's own; expected separate")

    @property
    def scalar(self) -> Scalar:
        """The model that the learner keeps."""
        loss = ClippedValueLoss(self.coefficient, self.value_clip)
        return Scalar(loss, self.lr, shared=self.trunk == "shared", start=self.start, warmup=self.warmup)
