"""Judges of steps: a reward model with a number for each, or a chat model with a verdict on each."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np

from rewards.asking import Bill, Writer
from rewards.declared import Passage, ScalarModel
from rewards.failures import abstained
from rewards.ports import Case, Toolbox
from rewards.selfcheck import written_case
from rewards.steps import Steps, step_score
from rewards.types import Group, Message, Score, Task
from rewards.verdicts import answers, defused

NO_STEP = "no step found in the answer"


@dataclass(frozen=True)
class Process:
    """A process reward model's number for each step of an answer, read where the step ends.

    model  the reward model, with a head on every token (a token classifier) or one that judged whole answers; with two
           labels the second is that of a right step, and the number is its probability
    steps  where the steps are
    read   of a head with one label: number as it is, or its sigmoid, a probability
    """

    model: ScalarModel
    steps: Steps = field(default_factory=Steps)
    read: Literal["sigmoid", "number"] = "sigmoid"

    judges_steps: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Raises `ValueError` for a head that is none of a judge of steps."""
        if self.model.labels > 2:
            raise ValueError(f"model.labels: {self.model.labels}, expected 1, or 2 (wrong and right)")

    async def score(self, group: Group, tools: Toolbox) -> Sequence[Score]:
        """One score per rollout; abstains where there is no step, or the answer is longer than the model's context."""
        ends = [self.steps.ends(rollout.text) for rollout in group.rollouts]
        asked = [i for i, found in enumerate(ends) if len(found)]
        read = await tools.scalar(
            self.model,
            [
                Passage(
                    (*group.task.messages, Message("assistant", group.rollouts[i].text)), marks=tuple(ends[i].tolist())
                )
                for i in asked
            ],
        )
        numbers = dict(zip(asked, read, strict=True))
        return [self._score(numbers.get(i), ends[i]) for i in range(len(ends))]

    def _score(self, numbers: Any, ends: np.ndarray) -> Score:
        if not len(ends):
            return abstained(NO_STEP)
        if numbers is None:
            return abstained(f"longer than the context of {self.model.path}")
        numbers = np.asarray(numbers, np.float64)
        if numbers.shape[1] == 2 or self.read == "sigmoid":
            odds = numbers[:, 1] - numbers[:, 0] if numbers.shape[1] == 2 else numbers[:, 0]
            values = 0.5 * (1 + np.tanh(odds / 2))  # the sigmoid, without overflow
        else:
            values = numbers[:, 0]
        return step_score(values.tolist(), ends)


@dataclass(frozen=True)
class StepJudge(Writer):
    """A chat model says of each step of an answer whether it is right: 1.0 or 0.0, the mean over the samples.

    steps  where the steps are
    """

    steps: Steps = field(default_factory=Steps)

    judges_steps: ClassVar[bool] = True
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)

    async def score(self, group: Group, tools: Toolbox) -> Sequence[Score]:
        """One score per rollout; abstains where there is no step, or the verdict leaves one out."""
        return await asyncio.gather(*(self._one(group.task, rollout.text, tools) for rollout in group.rollouts))

    async def _one(self, task: Task, text: str, tools: Toolbox) -> Score:
        ends = self.steps.ends(text)
        if not len(ends):
            return abstained(NO_STEP)
        shown = [defused(step.strip()) for step in self.steps.texts(text)]
        asked = await self.ask(tools, self.question("steps", task, steps=shown), lambda said: answers(said, len(ends)))
        bill = Bill.of(asked.replies)
        if not asked.enough:
            return bill.score(None, {}, "no verdict on every step could be read")
        return bill.steps(step_score(np.mean(asked.verdicts, axis=0).tolist(), ends))

    def case(self, task: Task) -> Case | None:
        """See `written_case`."""
        return written_case(task)
