"""A chat model that looks things up before it scores."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, NamedTuple

from annotated_types import Gt

from rewards.asking import UNREAD, Bill, Writer
from rewards.declared import Corpus, Reply, Unanswered
from rewards.failures import one_line
from rewards.imports import ByName
from rewards.ports import Case, Toolbox
from rewards.programs import Limits, Ran
from rewards.selfcheck import written_case
from rewards.sources.code import program_of, why
from rewards.types import Group, Message, Score, Task
from rewards.verdicts import defused, number

Tool = Literal["calculator", "calendar", "python", "search"]
_ABOUT: dict[Tool, str] = {
    "calculator": "the value of an arithmetic expression, as in 17 * (3 + 4)",
    "calendar": "YYYY-MM-DD for its weekday, DATE to DATE for the days between, DATE + DAYS for another date",
    "python": "a Python program, on as many lines as it needs; what it prints comes back",
    "search": "the passages of a collection that fit some words best",
}
_CALL = re.compile(r"^Action:[ \t]*(.*?)[ \t]*\nAction Input:[ \t]*(.*)", re.MULTILINE | re.DOTALL)
OBSERVED = "Observation:"
PASSAGES = 3
OBSERVED_CHARS = 2000
_TOOLS = {"calculator": ByName("rewards.tools:calculate"), "calendar": ByName("rewards.tools:calendar")}
LAST = "That was the last use of a tool. Say why, and end with your score."


class _Trace(NamedTuple):
    """All replies, the tools' names in the order of their use, and what was said: actions, observations, the end."""

    replies: list[Reply]
    used: list[str]
    told: list[str]


@dataclass(frozen=True)
class Tooled(Writer):
    """A chat model that reasons, calls tools, reads what they say, and then scores (Themis, arXiv 2310.01045). Values
    are in [0, 1]. The score is read in the judge's own last message alone. Each tool's uses are a part of the score.

    tools    what it may use; python runs in the sandbox that the source `code` runs in
    corpus   what `search` looks in
    calls    uses at most; an unknown tool's is one as well
    limit_s  seconds one use may take; of python CPU seconds
    low      the worst score
    high     the best score
    """

    tools: tuple[Tool, ...] = ("calculator",)
    corpus: Corpus | None = None
    calls: Annotated[int, Gt(0)] = 4
    limit_s: Annotated[float, Gt(0)] = 5.0
    low: float = 1.0
    high: float = 10.0

    helper_imports: ClassVar[tuple[str, ...]] = ("rewards.tools",)
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def __post_init__(self) -> None:
        """Raises `ValueError` where tools and what they need do not agree, or the scale is none."""
        Writer.__post_init__(self)
        if not self.tools:
            raise ValueError(f"tools: none, expected some of {', '.join(_ABOUT)}")
        if ("search" in self.tools) != (self.corpus is not None):
            raise ValueError("tools: search and `corpus` go together")
        if self.low >= self.high:
            raise ValueError(f"low: {self.low:g}, expected less than high ({self.high:g})")

    @property
    def uses_sandbox(self) -> bool:
        """See `Toolbox.execute`."""
        return "python" in self.tools

    async def score(self, group: Group, tools: Toolbox) -> Sequence[Score]:
        """One score per rollout; abstains where the last message holds none."""
        return await asyncio.gather(*(self._one(group.task, rollout.text, tools) for rollout in group.rollouts))

    async def _one(self, task: Task, text: str, tools: Toolbox) -> Score:
        if why := self.hollow(text):
            return Score(0.0, explanation=f"not asked: {why}")
        about = [{"name": name, "about": _ABOUT[name]} for name in self.tools]
        scale = {"low": f"{self.low:g}", "high": f"{self.high:g}"}
        question = self.question("tooled", task, answer=defused(text), tools=about, calls=self.calls, **scale)
        traces = await asyncio.gather(*(self._trace(question, k, tools) for k in range(self.samples)))
        bill = Bill.of([reply for trace in traces for reply in trace.replies])
        read = [number(trace.replies[-1].text, self.low, self.high) for trace in traces]
        values = [value for value in read if value is not None]
        told = one_line(" | ".join(traces[0].told))
        if 2 * len(values) <= self.samples:
            return bill.score(None, {}, f"{UNREAD} after {told!r}")
        mean = sum(values) / len(values)
        uses = {f"used_{name}": float(traces[0].used.count(name)) for name in dict.fromkeys(traces[0].used)}
        scored = bill.score((mean - self.low) / (self.high - self.low), {"score": mean, **uses})
        return scored if scored.value is None else replace(scored, explanation=told)

    async def _trace(self, question: Message, sample: int, tools: Toolbox) -> _Trace:
        """The judge's messages and the tools' answers in turn, until it asks for no tool, or may not any more."""
        messages, trace = [question], _Trace([], [], [])
        for use in range(self.calls + 1):
            reply = await tools.chat(
                self.judge,
                messages,
                max_tokens=self.max_tokens,
                temperature=self.temperature,
                sample=sample,
                stop=(f"\n{OBSERVED}",),
            )
            own = reply.text.partition(OBSERVED)[0]  # an endpoint that does not heed `stop` lets it invent the result
            asked = _CALL.search(own)
            if asked is None or use == self.calls:
                trace.replies.append(reply)
                trace.told.append(own[-200:])
                break
            trace.replies.append(reply)
            name, given = asked[1].strip().lower(), asked[2].strip()
            found = await self._use(name, given, tools)
            trace.used.append(name if name in self.tools else "unknown")
            trace.told.extend([f"{name}({given[:80]})", f"= {found[:80]}"])
            rest = LAST if use + 1 == self.calls else ""
            messages = [
                *messages,
                Message("assistant", own[: asked.end()].rstrip()),
                Message("user", f"{OBSERVED} {found}\n{rest}".rstrip()),
            ]
        return trace

    async def _use(self, name: str, given: str, tools: Toolbox) -> str:
        """What the tool says, as data: nothing in it can pass for a score, an action or an observation."""
        if name not in self.tools:
            return f"error: there is no tool of that name; there are {', '.join(self.tools)}"
        try:
            match name:
                case "search":
                    assert self.corpus is not None
                    found = "\n".join(await tools.search(self.corpus, given, PASSAGES)) or "nothing found"
                case "python":
                    found = _told(await tools.execute(program_of(given), "", Limits(cpu_s=self.limit_s)))
                case _:
                    found = await tools.call(_TOOLS[name], given, limit_s=self.limit_s)
        except (TimeoutError, ChildProcessError, Unanswered) as error:
            return f"error: {one_line(error)}"
        return defused(found[:OBSERVED_CHARS])

    def case(self, task: Task) -> Case | None:
        """See `written_case`."""
        return written_case(task)


def _told(ran: Ran) -> str:
    """How a program ended, where it ended badly, and what it printed."""
    bad = f"error: {why(ran)}\n" if ran.status or ran.stopped else ""
    return (bad + ran.stdout.strip()).strip() or "nothing was printed"
