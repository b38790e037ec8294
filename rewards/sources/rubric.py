"""Weighted criteria: hard rules checked by code, principles by a judge that writes."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import ClassVar

from rewards.asking import Bill, Writer
from rewards.failures import abstained
from rewards.imports import ByName
from rewards.ports import Case, Toolbox
from rewards.rubrics import Criterion, parse_rubric, total
from rewards.selfcheck import written_case
from rewards.types import Group, Score, Task
from rewards.verdicts import answers, defused, said

_OBEYS = ByName("rewards.rubrics:obeys")
RULE_S = 5.0
CONSISTENT = 0.5  # of the pairs, at least, must a written rubric predict


@dataclass(frozen=True)
class Rubric(Writer):
    """Weighted criteria, each met or not: the value is the signed sum of the met ones' weights, over the sum of the
    positive weights. A verdict that leaves one out is an abstention. Each criterion is a part of the score.

    criteria    task: the task's rubric; contrast: written by the judge from the task's rated answers, and kept only if
                by it the judge tells at least half of the pairs right (OpenRubrics, arXiv 2510.07743), or, where the
                task has none, from what distinguishes the group's answers (PC2); else a file
    normalise   false: the plain signed sum (ORBIT, arXiv 2510.15859)
    most        criteria that `contrast` may write
    """

    criteria: str = "task"
    normalise: bool = True
    most: int = 8

    helper_imports: ClassVar[tuple[str, ...]] = ("rewards.rubrics",)

    def __post_init__(self) -> None:
        """Raises `ValueError` for a file that is no rubric, with what it says."""
        Writer.__post_init__(self)
        if self.criteria not in ("task", "contrast"):
            _from_file(self.criteria)

    async def score(self, group: Group, tools: Toolbox) -> Sequence[Score]:
        """One score per rollout; abstains for a task without a (sound) rubric, and where a verdict is not whole."""
        try:
            criteria, bill = await self._criteria(group, tools)
        except ValueError as error:
            return [abstained(f"task {group.task.id!r}: {error}")] * len(group.rollouts)
        share = Bill(bill.cost / len(group.rollouts), bill.tokens / len(group.rollouts))
        scores = (self._one(group.task, rollout.text, criteria, share, tools) for rollout in group.rollouts)
        return await asyncio.gather(*scores)

    async def _criteria(self, group: Group, tools: Toolbox) -> tuple[Sequence[Criterion], Bill]:
        """Raises `ValueError` where there are none."""
        if self.criteria == "task":
            if not (group.task.rubric or "").strip():
                raise ValueError("it has no rubric")
            return parse_rubric(group.task.rubric or ""), Bill()
        if self.criteria == "contrast":
            return await self._contrast(group, tools)
        return _from_file(self.criteria), Bill()

    async def _contrast(self, group: Group, tools: Toolbox) -> tuple[Sequence[Criterion], Bill]:
        task = group.task
        ranked = [answer.text for answer in task.answers]
        shown = ranked or sorted({rollout.text for rollout in group.rollouts})
        question = self.question(
            "write_rubric", task, answers=[defused(text) for text in shown], ranked=bool(ranked), most=self.most
        )
        reply = await tools.chat(self.judge, [question], max_tokens=self.max_tokens)
        bill = Bill.of([reply])
        try:
            criteria = parse_rubric(said(reply.text) or "")[: self.most]
        except ValueError as error:
            raise ValueError(f"the judge wrote no rubric: {error}") from None
        if len(ranked) > 1:
            right, checked = await self._consistency(task, ranked, criteria, tools)
            bill += checked
            if right < CONSISTENT:
                raise ValueError(f"the rubric that the judge wrote predicts {right:.0%} of the pairs, expected half")
        return criteria, bill

    async def _consistency(
        self, task: Task, ranked: Sequence[str], criteria: Sequence[Criterion], tools: Toolbox
    ) -> tuple[float, Bill]:
        """The share of pairs, better one first, that the judge tells right by the criteria."""
        scored = await asyncio.gather(*(self._one(task, text, criteria, Bill(), tools) for text in ranked))
        values = [score.value for score in scored]
        right = [a is not None and b is not None and a > b for a, b in combinations(values, 2)]
        return sum(right) / len(right), Bill(sum(s.cost for s in scored), sum(s.tokens for s in scored))

    async def _one(self, task: Task, text: str, criteria: Sequence[Criterion], share: Bill, tools: Toolbox) -> Score:
        if why := self.hollow(text):
            met = [criterion.weight < 0 for criterion in criteria]  # the worst there is
            return Score(total(criteria, met, self.normalise), explanation=f"not asked: {why}")
        hard = [criterion for criterion in criteria if criterion.rule]
        soft = [criterion for criterion in criteria if not criterion.rule]
        kept = iter(await tools.call(_OBEYS, [c.rule for c in hard], text, limit_s=RULE_S) if hard else [])
        bill, judged = share, iter(())
        if soft:
            question = self.question("rubric", task, answer=defused(text), criteria=[c.text for c in soft])
            asked = await self.ask(tools, question, lambda reply: answers(reply, len(soft)))
            bill += Bill.of(asked.replies)
            if not asked.enough:
                return bill.score(None, {}, "no verdict on every criterion could be read")
            judged = iter([2 * sum(one) > len(one) for one in zip(*asked.verdicts, strict=True)])
        met = [next(kept) if criterion.rule else next(judged) for criterion in criteria]
        parts = {criterion.text[:60]: float(fulfilled) for criterion, fulfilled in zip(criteria, met, strict=True)}
        return bill.score(total(criteria, met, self.normalise), parts)

    def case(self, task: Task) -> Case | None:
        """See `written_case`."""
        return written_case(task) if task.rubric or self.criteria != "task" else None


@functools.cache
def _from_file(path: str) -> tuple[Criterion, ...]:
    try:
        return parse_rubric(Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"criteria: {path!r} is neither task, nor contrast, nor a file ({error})") from None
    except ValueError as error:
        raise ValueError(f"criteria: file {path!r}: {error}") from None
