"""A plain Python function as a judge of steps: it is given an answer's steps, and says what each is worth.

    f(prompt: str, steps: list[str], reference: str | None) -> list[float | None]

One number per step; a None anywhere means that the answer can't be judged. It runs in a helper process, once for all
answers of a group.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from annotated_types import Gt

from rewards.errors import Refused
from rewards.failures import abstained, malformed
from rewards.imports import ByName, load
from rewards.ports import Case, Toolbox
from rewards.steps import Steps, step_score
from rewards.types import Group, Score, Task

PARAMETERS = ("prompt", "steps", "reference")


@dataclass(frozen=True)
class StepFunction:
    """A function, named by import path, that judges the steps of an answer.

    path        package.module:name
    split       how an answer falls into steps
    limit_s     seconds one call may take (the import of its module aside)
    gold, foil  an answer it must like and one it must like less, for the self-check
    """

    path: str
    split: Steps = field(default_factory=Steps)
    limit_s: Annotated[float, Gt(0)] = 10.0
    gold: str | None = None
    foil: str | None = None

    judges_steps: ClassVar[bool] = True
    helper_imports: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        """Raises `Refused` where the path does not import, or names no function of these parameters."""
        function = load(self.path)
        if not callable(function):
            raise Refused(f"step function {self.path!r}: expected a function, found {type(function).__name__}")
        if (names := tuple(inspect.signature(function).parameters)) != PARAMETERS:
            raise Refused(
                f"step function {self.path!r} takes ({', '.join(names)}): expected (prompt, steps, reference)"
            )

    async def score(self, group: Group, tools: Toolbox) -> Sequence[Score]:
        """One score per rollout: its steps, and for people their mean; abstains where there is no step."""
        prompt = "\n".join(message.content for message in group.task.messages)
        ends = [self.split.ends(rollout.text) for rollout in group.rollouts]
        steps = [self.split.texts(rollout.text) for rollout in group.rollouts]
        answers = await tools.call(_call, ByName(self.path), prompt, steps, group.task.reference, limit_s=self.limit_s)
        return [self._score(answer, places) for answer, places in zip(answers, ends, strict=True)]

    def _score(self, answer: Any, ends: Any) -> Score:
        if not isinstance(answer, list):
            return malformed(f"expected a list of numbers, one per step, not {answer!r}")
        if None in answer:
            return abstained("the function returned None for a step")
        if not all(isinstance(value, int | float) for value in answer):
            return malformed(f"expected a list of numbers, one per step, not {answer!r}")
        return step_score(answer, ends)

    def case(self, task: Task) -> Case | None:
        """The answers given in the config, where both are."""
        return None if self.gold is None or self.foil is None else Case(task, self.gold, self.foil)


def _call(function: Callable[..., Any], prompt: str, steps: list[list[str]], reference: str | None) -> list[Any]:
    """Runs in the helper; answers without a step are not shown to the function."""
    answers: list[Any] = [function(prompt, one, reference) if one else [] for one in steps]
    return [answer.tolist() if hasattr(answer, "tolist") else answer for answer in answers]
