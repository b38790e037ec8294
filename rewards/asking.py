"""What all judges that write have in common: how they are asked, and how their answers become a score."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Generic, TypeVar

from annotated_types import Ge, Gt

from rewards.declared import ChatModel, Reply
from rewards.failures import abstained, one_line
from rewards.guards import hollow
from rewards.ports import Toolbox
from rewards.prompts import check_prompt, render
from rewards.types import Message, Score, Task
from rewards.verdicts import defused

T = TypeVar("T")
UNREAD = "no verdict could be read"


@dataclass(frozen=True)
class Writer:
    """A judge that writes.

    judge           the model that is asked
    prompt          a jinja2 file of your own in place of the built-in question
    show_reference  show it the task's reference
    max_tokens      tokens it may write
    temperature     0: its likeliest answer
    samples         answers to each question; more than half of them must hold a verdict
    guard           answers that are empty, or an opener and nothing more, get the lowest value without asking it
    """

    judge: ChatModel
    prompt: str = ""
    show_reference: bool = False
    max_tokens: Annotated[int, Gt(0)] = 1024
    temperature: Annotated[float, Ge(0)] = 0.0
    samples: Annotated[int, Gt(0)] = 1
    guard: bool = True

    fallible: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Raises `Refused` for a prompt that is no template, `ValueError` where samples would all be the same."""
        if self.prompt:
            check_prompt(self.prompt)
        if self.samples > 1 and not self.temperature:
            raise ValueError(f"samples: {self.samples} at temperature 0 are all the same; set `temperature`")

    def hollow(self, text: str) -> str | None:
        """Why the answer needs no judge, where the guard says so."""
        return hollow(text) if self.guard else None

    def question(self, builtin: str, task: Task, **shown: Any) -> Message:
        """The prompt, with the conversation and all texts of `shown` defused. Raises `Refused` for a bad template."""
        conversation = [Message(m.role, defused(m.content)) for m in task.messages]
        reference = defused(task.reference or "") if self.show_reference else ""
        values = {"conversation": conversation, "reference": reference, **shown}
        return Message("user", render(self.prompt or builtin, values))

    async def ask(
        self, tools: Toolbox, question: Message, read: Callable[[str], T | None], first: int = 0, **more: Any
    ) -> Asked[T]:
        """All samples' answers to one question, read; `first` is the number of the first."""
        calls = [
            tools.chat(
                self.judge,
                [question],
                max_tokens=self.max_tokens,
                temperature=self.temperature,
                sample=first + k,
                **more,
            )
            for k in range(self.samples)
        ]
        replies = await asyncio.gather(*calls)
        return Asked(tuple(replies), tuple(None if r.cut and _unclosed(r) else read(r.text) for r in replies))


def _unclosed(reply: Reply) -> bool:
    """Whether the token limit fell into the judge's thoughts."""
    return reply.text.rfind("<think>") > reply.text.rfind("</think>")


@dataclass(frozen=True)
class Asked(Generic[T]):
    """Replies, and what was read in each (None: nothing)."""

    replies: tuple[Reply, ...] = ()
    read: tuple[T | None, ...] = ()

    @property
    def verdicts(self) -> list[T]:
        return [one for one in self.read if one is not None]

    @property
    def enough(self) -> bool:
        """Whether more than half hold a verdict."""
        return 2 * len(self.verdicts) > len(self.read)

    def __add__(self, other: Asked[T]) -> Asked[T]:
        return Asked((*self.replies, *other.replies), (*self.read, *other.read))


@dataclass(frozen=True)
class Bill:
    """What answering cost: money and tokens, a share of a question that several rollouts were in."""

    cost: float = 0.0
    tokens: float = 0.0
    texts: tuple[str, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, replies: Sequence[Reply], share: float = 1.0) -> Bill:
        cost, tokens = sum(r.cost for r in replies), sum(r.tokens for r in replies)
        return cls(share * cost, share * tokens, tuple(r.text for r in replies))

    def __add__(self, other: Bill) -> Bill:
        return Bill(self.cost + other.cost, self.tokens + other.tokens, (*self.texts, *other.texts))

    def score(self, value: float | None, parts: dict[str, float], why: str = UNREAD) -> Score:
        """The score with its price; without a value an abstention that quotes the judge."""
        told = one_line(self.texts[0][-240:]) if self.texts else ""
        if value is None or not math.isfinite(value):
            missing = abstained(f"{why}: {told[-120:]!r}" if told else why)
            return Score(failure=missing.failure, cost=self.cost, tokens=math.ceil(self.tokens))
        return Score(value, explanation=told, parts=parts, cost=self.cost, tokens=math.ceil(self.tokens))

    def steps(self, score: Score) -> Score:
        """A score of steps with its price."""
        told = one_line(self.texts[0][-240:]) if self.texts else ""
        return replace(score, explanation=told, cost=self.cost, tokens=math.ceil(self.tokens))
