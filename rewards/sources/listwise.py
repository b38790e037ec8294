"""A chat model judges all answers of a group in one go."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from rewards.asking import Bill, Writer
from rewards.declared import Passage, Reply, ScalarModel
from rewards.ports import Case, Toolbox
from rewards.selfcheck import written_case
from rewards.types import Group, Message, Rollout, Score, Task
from rewards.verdicts import defused, numbers, ranking


@dataclass(frozen=True)
class Listwise(Writer):
    """A chat model judges all answers of a group in one go, in an order and under names that tell nothing. Values are
    in [0, 1]: the mean over the samples; the score as it was said is a part.

    form       ranking: scores and a ranking by a standard, as JSON (RewardAnything, arXiv 2506.03637); principles: its
               own principles, a critique, a score for each (DeepSeek-GRM, arXiv 2504.02495)
    principle  the standard to judge by
    low, high  the worst and the best score; default: 1 to 5 for a ranking, 1 to 10 for principles
    meta       a scalar model that rates judgements: only the better half of the samples counts (DeepSeek-GRM)
    """

    form: Literal["ranking", "principles"] = "ranking"
    principle: str = ""
    low: float = 1.0
    high: float | None = None
    meta: ScalarModel | None = None

    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    whole_groups: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Raises `ValueError` where the scale is none."""
        Writer.__post_init__(self)
        if self.low >= self._high:
            raise ValueError(f"low: {self.low:g}, expected less than high ({self._high:g})")

    async def score(self, group: Group, tools: Toolbox) -> Sequence[Score]:
        """One score per rollout; abstains for all it was asked about where it judges too few samples in full."""
        told = {r.index: why for r in group.rollouts if (why := self.hollow(r.text))}
        judged = [rollout for rollout in group.rollouts if rollout.index not in told]
        out = {index: Score(0.0, explanation=f"not asked: {why}") for index, why in told.items()}
        if judged:
            out |= dict(zip((r.index for r in judged), await self._judge(group.task, judged, tools), strict=True))
        return [out[rollout.index] for rollout in group.rollouts]

    async def _judge(self, task: Task, rollouts: Sequence[Rollout], tools: Toolbox) -> list[Score]:
        texts = [rollout.text for rollout in rollouts]
        asked = await asyncio.gather(*(self._sample(task, texts, k, tools) for k in range(self.samples)))
        bill = Bill.of([reply for _, reply, _ in asked], 1 / len(texts))
        kept = [(values, reply, question) for question, reply, values in asked if values is not None]
        if 2 * len(kept) <= self.samples:
            return [bill.score(None, {})] * len(texts)
        if self.meta is not None and len(kept) > 1:
            kept = await self._better_half(self.meta, kept, tools)
        means = np.mean([values for values, _, _ in kept], axis=0)
        span = self._high - self.low
        return [bill.score((mean - self.low) / span, {"score": mean}) for mean in means.tolist()]

    async def _sample(
        self, task: Task, texts: Sequence[str], k: int, tools: Toolbox
    ) -> tuple[Message, Reply, list[float] | None]:
        """The k-th question (the answers in an order of its own), its reply, and the scores in the answers' order."""
        seed = zlib.crc32("\0".join([task.id, *texts]).encode())
        order = np.random.default_rng([seed, k]).permutation(len(texts)).tolist()
        names = [f"model-{place + 1}" for place in range(len(texts))]
        shown = [(name, defused(texts[i])) for name, i in zip(names, map(int, order), strict=True)]
        scale = {"low": f"{self.low:g}", "high": f"{self._high:g}", "form": self.form}
        question = self.question("listwise", task, answers=shown, principle=self.principle, **scale)
        reply = await tools.chat(
            self.judge, [question], max_tokens=self.max_tokens, temperature=self.temperature, sample=k
        )
        if self.form == "ranking":
            values = ranking(reply.text, names, self.low, self._high)
        else:
            values = numbers(reply.text, len(texts), self.low, self._high)
        if values is None:
            return question, reply, None
        return question, reply, [value for _, value in sorted(zip(order, values, strict=True))]

    async def _better_half(
        self, meta: ScalarModel, kept: list[tuple[list[float], Reply, Message]], tools: Toolbox
    ) -> list[tuple[list[float], Reply, Message]]:
        """Those judgements that the meta model rates highest, half of them; one that it can't read counts as lowest."""
        passages = [Passage((question, Message("assistant", reply.text))) for _, reply, question in kept]
        rated = await tools.scalar(meta, passages)
        worth = [-np.inf if one is None else float(one[0, 0]) for one in rated]
        best = sorted(range(len(kept)), key=lambda i: -worth[i])[: (len(kept) + 1) // 2]
        return [kept[i] for i in sorted(best)]

    @property
    def _high(self) -> float:
        return self.high if self.high is not None else 5.0 if self.form == "ranking" else 10.0

    def case(self, task: Task) -> Case | None:
        """See `written_case`."""
        return written_case(task)
