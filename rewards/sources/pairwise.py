"""A chat model compares answers two by two, in both orders."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar, Literal, NamedTuple

from rewards.asking import Bill, Writer
from rewards.failures import abstained
from rewards.ports import Case, Toolbox
from rewards.selfcheck import written_case
from rewards.types import Group, Rollout, Score, Task
from rewards.verdicts import choice, defused

_WORTH = {"A": 1.0, "B": -1.0, "tie": 0.0}


class _Duel(NamedTuple):
    """By how much the first was preferred, -1 to 1 (None: could not be judged); whether the orders disagreed."""

    ahead: float | None
    turned: bool
    bill: Bill


@dataclass(frozen=True)
class PairwiseJudge(Writer):
    """A chat model compares answers two by two, each pair in both orders. The value is the share of comparisons won in
    the group, a tie being half of one; "over_J" among the parts says by how much it was preferred to rollout J.

    form     verdict: A or B alone; critique: a critique of both first; reasoning: its own solution or criteria first
             (RM-R1, arXiv 2505.02387)
    against  group: every other answer of the group; reference: the task's reference alone
    """

    form: Literal["verdict", "critique", "reasoning"] = "verdict"
    against: Literal["group", "reference"] = "group"

    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    whole_groups: ClassVar[bool] = True

    async def score(self, group: Group, tools: Toolbox) -> Sequence[Score]:
        """One score per rollout; abstains for those of whose comparisons one could not be judged."""
        if self.against == "reference":
            reference = group.task.reference
            if reference is None:
                return [abstained(f"task {group.task.id!r} has no reference")] * len(group.rollouts)
            duels = [self._duel(group.task, rollout.text, reference, tools) for rollout in group.rollouts]
            return [_won({"reference": duel}, []) for duel in await asyncio.gather(*duels)]
        pairs = list(combinations(group.rollouts, 2))
        fought = await asyncio.gather(*(self._duel(group.task, a.text, b.text, tools) for a, b in pairs))
        won: dict[int, dict[str, _Duel]] = {rollout.index: {} for rollout in group.rollouts}
        for (a, b), duel in zip(pairs, fought, strict=True):
            share = Bill(duel.bill.cost / 2, duel.bill.tokens / 2, duel.bill.texts)
            won[a.index][str(b.index)] = duel._replace(bill=share)
            won[b.index][str(a.index)] = _Duel(duel.ahead and -duel.ahead, duel.turned, share)
        return [_won(won[rollout.index], group.rollouts) for rollout in group.rollouts]

    async def _duel(self, task: Task, one: str, other: str, tools: Toolbox) -> _Duel:
        if one == other:
            return _Duel(0.0, False, Bill())
        empty = bool(self.hollow(one)), bool(self.hollow(other))
        if any(empty):
            return _Duel(float(empty[1]) - float(empty[0]), False, Bill())
        asked = await asyncio.gather(self._ask(task, one, other, tools), self._ask(task, other, one, tools))
        bill = Bill.of([reply for order in asked for reply in order.replies])
        if not all(order.enough for order in asked):
            return _Duel(None, False, bill)
        there, back = (sum(_WORTH[v] for v in order.verdicts) / len(order.verdicts) for order in asked)
        return _Duel((there - back) / 2, there * back > 0, bill)

    async def _ask(self, task: Task, first: str, second: str, tools: Toolbox):
        shown = {"first": defused(first), "second": defused(second), "form": self.form}
        question = self.question("pairwise", task, **shown)
        return await self.ask(tools, question, lambda said: choice(said, tuple(_WORTH)))

    def case(self, task: Task) -> Case | None:
        """See `written_case`."""
        return written_case(task) if self.against == "group" else None


def _won(duels: Mapping[str, _Duel], rollouts: Sequence[Rollout]) -> Score:
    bill = sum((duel.bill for duel in duels.values()), Bill())
    ahead = {name: duel.ahead for name, duel in duels.items()}
    known = {name: value for name, value in ahead.items() if value is not None}
    if not duels:
        return abstained("nothing to compare it with: the group has one answer")
    if len(known) < len(ahead):
        missing = ", ".join(name for name, value in ahead.items() if value is None)
        return bill.score(None, {}, f"no verdict against {missing} could be read in both orders")
    parts = {f"over_{name}": value for name, value in known.items()} if rollouts else {}
    turned = sum(duel.turned for duel in duels.values()) / len(duels)
    return bill.score(sum((1 + value) / 2 for value in known.values()) / len(known), {**parts, "turned": turned})
