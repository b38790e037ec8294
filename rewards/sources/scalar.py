"""A reward model's number: any sequence classifier, read in its own chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Gt

from rewards.declared import Passage, ScalarModel
from rewards.errors import nearest
from rewards.failures import abstained
from rewards.gating import decorrelated, gates
from rewards.ports import Toolbox
from rewards.types import Group, Message, Rollout, Score, Task


@dataclass(frozen=True)
class Scalar:
    """The number that a reward model gives to the conversation with the answer; of several, see `rewards.gating`.

    model        the reward model
    attributes   of a head with several labels: names and weights, in the labels' order; the value is their weighted
                 sum, and each is a part of the score
    reference    show it the task's reference as well, as POLAR's reward models (arXiv 2507.05197) are: prompt and
                 reference, `split`, prompt and answer, `end`, all as plain text
    split, end   the special tokens between and after the two
    gate         a classifier of prompts with a label for each attribute, whose softmax weighs them as well
    temperature  of that softmax
    verbosity    the attribute that the others are decorrelated from
    decorrelate  its share in each of them
    """

    model: ScalarModel
    attributes: Mapping[str, float] = field(default_factory=dict)
    reference: bool = False
    split: str = "<|split_token|>"
    end: str = "<|reward_token|>"
    gate: ScalarModel | None = None
    temperature: Annotated[float, Gt(0)] = 10.0
    verbosity: str | None = None
    decorrelate: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises `ValueError` where names and labels do not agree in number."""
        if self.attributes and len(self.attributes) != self.model.labels:
            raise ValueError(f"attributes: {len(self.attributes)} named, model.labels is {self.model.labels}")
        if self.model.labels > 1 and not self.attributes:
            raise ValueError(f"model.labels: {self.model.labels}, expected `attributes` that name and weigh them")
        if self.gate is not None and self.gate.labels != len(self.attributes):
            raise ValueError(
                f"gate.labels: {self.gate.labels}, expected one for each of {len(self.attributes)} attributes"
            )
        for key, names in (
            ("verbosity", [self.verbosity] if self.verbosity else []),
            ("decorrelate", self.decorrelate),
        ):
            for name in names:
                if name not in self.attributes:
                    raise ValueError(f"{key}: no attribute {name!r}; {nearest(name, self.attributes)}")

    async def score(self, group: Group, tools: Toolbox) -> Sequence[Score]:
        """One score per rollout; abstains where conversation and answer are longer than the model's context."""
        if self.reference and group.task.reference is None:
            return [abstained(f"task {group.task.id!r} has no reference")] * len(group.rollouts)
        passages = [self._passage(group.task, rollout) for rollout in group.rollouts]
        weights = await self._weights(group.task, tools)
        if weights is None:
            return [abstained(f"the prompt is longer than the context of {self.gate}")] * len(group.rollouts)
        return [self._score(numbers, weights) for numbers in await tools.scalar(self.model, passages)]

    async def _weights(self, task: Task, tools: Toolbox) -> Mapping[str, float] | None:
        """Of the attributes, gated; None where the gate can't read the prompt."""
        if self.gate is None:
            return self.attributes
        [logits] = await tools.scalar(self.gate, [Passage(task.messages)])
        if logits is None:
            return None
        shares = gates(logits[0].tolist(), self.temperature)
        return {name: weight * g for (name, weight), g in zip(self.attributes.items(), shares.tolist(), strict=True)}

    def _passage(self, task: Task, rollout: Rollout) -> Passage:
        if not self.reference:
            return Passage((*task.messages, Message("assistant", rollout.text)))
        prompt = "\n".join(message.content for message in task.messages)
        text = f"{prompt}\n{task.reference}{self.split}{prompt}\n{rollout.text}{self.end}"
        return Passage(text=text)

    def _score(self, numbers: Any, weights: Mapping[str, float]) -> Score:
        if numbers is None:
            return abstained(f"longer than the context of {self.model.path}")
        if not self.attributes:
            return Score(float(numbers[0, 0]))
        parts = dict(zip(self.attributes, numbers[0].tolist(), strict=True))
        if self.verbosity is not None:
            parts = decorrelated(parts, self.verbosity, self.decorrelate)
        return Score(sum(weight * parts[name] for name, weight in weights.items()), parts=parts)
