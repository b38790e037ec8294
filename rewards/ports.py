"""What the judges ask of others, and what others ask of a judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from rewards.declared import ChatModel, Corpus, Passage, Reply, ScalarModel, Service
from rewards.programs import Limits, Ran
from rewards.types import Group, Message, Score, ScoredGroup, Task, Verdict


class Toolbox(Protocol):
    """The live things a source may use, made from what it declares (`rewards.declared`) in the process that hosts the
    panel, and never pickled. Whatever does not answer raises `Unanswered`, or `TimeoutError`."""

    async def call(self, function: Callable[..., Any], /, *args: Any, limit_s: float) -> Any:
        """Run `function(*args)` in a helper process that is killed when the limit is over.

        The function and its arguments must be picklable. Raises `TimeoutError` after `limit_s` seconds,
        `ChildProcessError` when the helper died, and whatever the function raised.
        """
        ...

    async def chat(
        self,
        model: ChatModel,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        sample: int = 0,
        stop: Sequence[str] = (),
        top: int = 0,
    ) -> Reply:
        """The model's next message.

        `sample` tells the k-th answer to the same question from the others; `top` asks for so many of the likeliest
        tokens at every place. An equal question to an equal model is answered from the cache, where it has one.
        """
        ...

    async def scalar(self, model: ScalarModel, passages: Sequence[Passage]) -> list[np.ndarray | None]:
        """For each passage f32[K, labels]: the model's numbers at each of its K marks, or at its end (K = 1).

        None where it is longer than the model's context.
        """
        ...

    async def search(self, corpus: Corpus, query: str, k: int) -> list[str]:
        """The k passages that fit best (Okapi BM25), the best first; those without a word in common are left out."""
        ...

    async def execute(self, program: str, stdin: str, limits: Limits) -> Ran:
        """Run a Python program that a stranger wrote, in a sandbox, with that input.

        What a program does, ending badly included, is no error. A source that uses it says so by an attribute
        `uses_sandbox` that is true.
        """
        ...

    async def post(self, service: Service, payload: Any) -> Any:
        """The JSON that the service answers to this JSON."""
        ...


class RewardSource(Protocol):
    """A judge: a frozen, picklable value. Live things arrive as `tools`."""

    async def score(self, group: Group, tools: Toolbox) -> Sequence[Score]:
        """One score per rollout, in order. An exception counts as a failure of every rollout asked about."""
        ...


@dataclass(frozen=True, slots=True)
class Case:
    """A known answer and a known mistake for one task: a source must score `gold` above `foil`."""

    task: Task
    gold: str
    foil: str


@runtime_checkable
class SelfChecking(Protocol):
    """A source that can be tried on a task's own reference before a run starts."""

    def case(self, task: Task) -> Case | None:
        """Gold and foil for the task, or None where the task gives nothing to try."""
        ...


# One rollout's scores by source: those of the sources that count, none of them missing, their weights in them.
Row = Mapping[str, Score]


class Combiner(Protocol):
    """Makes one reward of the sources' values: a frozen, picklable value."""

    def check(self, weights: Mapping[str, float]) -> None:
        """Raises `ValueError` where it can't work with the sources of these names and weights."""
        ...

    def combine(self, group: Group, rows: Sequence[Row]) -> Sequence[float]:
        """One reward per rollout. The group holds those alone whose row is whole."""
        ...


class Shaper(Protocol):
    """Changes rewards or step rewards, seeing one group: a frozen, picklable value."""

    def shape(self, group: Group, verdicts: Sequence[Verdict]) -> Sequence[Verdict]:
        """The verdicts with other rewards or steps. The group holds those rollouts alone that have a reward."""
        ...


@dataclass(frozen=True, slots=True)
class StepOf:
    """Which of the stage's steps it is, from 0, and how many there are."""

    step: int
    steps: int


@runtime_checkable
class OverSteps(Protocol):
    """A shaper, or the second half of a combiner, that sees whole steps and remembers: it works in the driver.

    `memory` holds its numbers, by names of its own; a stage's checkpoints keep them.
    """

    def over_steps(
        self, groups: Sequence[ScoredGroup], memory: dict[str, float], at: StepOf
    ) -> tuple[list[ScoredGroup], dict[str, float]]:
        """The step's groups with other rewards, and what there is to log."""
        ...
