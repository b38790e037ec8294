"""A reward model's number: any sequence classifier, read in its own chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rewards.declared import Passage, ScalarModel
from rewards.failures import abstained
from rewards.ports import Toolbox
from rewards.types import Group, Message, Rollout, Score, Task


@dataclass(frozen=True)
class Scalar:
    """The number that a reward model gives to the conversation with the answer.

    model       the reward model
    attributes  of a head with several labels: names and weights, in the labels' order; the value is their weighted
                sum, and each is a part of the score
    reference   show it the task's reference as well, as POLAR's reward models (arXiv 2507.05197) are: prompt and
                reference, `split`, prompt and answer, `end`, all as plain text
    split, end  the special tokens between and after the two
    """

    model: ScalarModel
    attributes: Mapping[str, float] = field(default_factory=dict)
    reference: bool = False
    split: str = "<|split_token|>"
    end: str = "<|reward_token|>"

    def __post_init__(self) -> None:
        """Raises `ValueError` where names and labels do not agree in number."""
        if self.attributes and len(self.attributes) != self.model.labels:
            raise ValueError(f"attributes: {len(self.attributes)} named, model.labels is {self.model.labels}")
        if self.model.labels > 1 and not self.attributes:
            raise ValueError(f"model.labels: {self.model.labels}, expected `attributes` that name and weigh them")

    async def score(self, group: Group, tools: Toolbox) -> Sequence[Score]:
        """One score per rollout; abstains where conversation and answer are longer than the model's context."""
        if self.reference and group.task.reference is None:
            return [abstained(f"task {group.task.id!r} has no reference")] * len(group.rollouts)
        passages = [self._passage(group.task, rollout) for rollout in group.rollouts]
        return [self._score(numbers) for numbers in await tools.scalar(self.model, passages)]

    def _passage(self, task: Task, rollout: Rollout) -> Passage:
        if not self.reference:
            return Passage((*task.messages, Message("assistant", rollout.text)))
        prompt = "\n".join(message.content for message in task.messages)
        text = f"{prompt}\n{task.reference}{self.split}{prompt}\n{rollout.text}{self.end}"
        return Passage(text=text)

    def _score(self, numbers: Any) -> Score:
        if numbers is None:
            return abstained(f"longer than the context of {self.model.path}")
        if not self.attributes:
            return Score(float(numbers[0, 0]))
        parts = dict(zip(self.attributes, numbers[0].tolist(), strict=True))
        return Score(sum(weight * parts[name] for name, weight in self.attributes.items()), parts=parts)
