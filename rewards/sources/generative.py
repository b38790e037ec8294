"""A chat model's opinion of every answer by itself."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from rewards.asking import Asked, Bill, Writer
from rewards.declared import Reply
from rewards.ports import Case, Toolbox
from rewards.selfcheck import written_case
from rewards.types import Group, Score, Task
from rewards.verdicts import defused, number

TOP = 20  # likeliest tokens that endpoints tell at most


@dataclass(frozen=True)
class Generative(Writer):
    """A chat model scores every answer by itself. Values are in [0, 1]; the score as it was said is a part.

    form  score: it says a number; critique: a critique, then the number; yes: the probability of its yes against its
          no to the question whether the answer is good, or (`show_reference`) better than the reference (RewardDance,
          arXiv 2509.08826)
    low   the worst score
    high  the best score
    """

    form: Literal["score", "critique", "yes"] = "score"
    low: float = 1.0
    high: float = 10.0

    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def __post_init__(self) -> None:
        """Raises `ValueError` where the scale is none."""
        Writer.__post_init__(self)
        if self.low >= self.high:
            raise ValueError(f"low: {self.low:g}, expected less than high ({self.high:g})")

    async def score(self, group: Group, tools: Toolbox) -> Sequence[Score]:
        """One score per rollout; abstains where no verdict can be read."""
        return await asyncio.gather(*(self._one(group.task, rollout.text, tools) for rollout in group.rollouts))

    async def _one(self, task: Task, text: str, tools: Toolbox) -> Score:
        if why := self.hollow(text):
            return Score(0.0, explanation=f"not asked: {why}")
        scale = {"form": self.form, "low": f"{self.low:g}", "high": f"{self.high:g}"}
        question = self.question("pointwise", task, answer=defused(text), **scale)
        if self.form == "yes":
            asked = await self.ask(tools, question, lambda _: None, top=TOP)
            asked = Asked(asked.replies, tuple(yes_share(reply) for reply in asked.replies))
            span, low = 1.0, 0.0
        else:
            asked = await self.ask(tools, question, lambda said: number(said, self.low, self.high))
            span, low = self.high - self.low, self.low
        bill = Bill.of(asked.replies)
        if not asked.enough:
            return bill.score(None, {})
        mean = sum(asked.verdicts) / len(asked.verdicts)
        return bill.score((mean - low) / span, {"score": mean})

    def case(self, task: Task) -> Case | None:
        """See `written_case`."""
        return written_case(task)


def yes_share(reply: Reply) -> float | None:
    """P(yes) / (P(yes) + P(no)) at the last word, where the judge ended with one of the two; None where it did not, or
    the endpoint tells no log-probs."""
    words = ((_word(place[0][0]), place) for place in reversed(reply.top) if place)
    last, place = next(((word, place) for word, place in words if word and not word.startswith("<")), ("", ()))
    if last not in ("yes", "no"):
        return None
    yes, no = (sum(math.exp(p) for token, p in set(place) if _word(token) == word) for word in ("yes", "no"))
    return yes / (yes + no)


def _word(token: str) -> str:
    return token.strip(" \n\tĠ▁.,!").lower()
