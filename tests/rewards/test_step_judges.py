"""Judges of steps: a process reward model's numbers, a chat model's verdicts; one for each step the splitter finds."""

from __future__ import annotations

import asyncio
import re

import numpy as np
import pytest
from endpoint import endpoint

from rewards.declared import ChatModel, ScalarModel
from rewards.sources.process import Process, StepJudge
from rewards.steps import Steps
from workers.judging.live import LiveToolbox


class Reads:
    """At each mark: its place, and the number of digits before it; can't read more than 40 characters."""

    def __init__(self, labels):
        self.labels = labels

    async def scalar(self, model, passages):
        return [self._one(p.messages[-1].content, p.marks) for p in passages]

    def _one(self, text, marks):
        rows = [[mark, sum(map(str.isdigit, text[:mark]))][: self.labels] for mark in marks]
        return None if len(text) > 40 else np.array(rows, np.float32)


def told(scores):
    return [s.failure.kind if s.failure else s.steps.tolist() for s in scores]


def test_a_number_for_each_step(make_group):
    group = make_group(["1+2=3,3+4=7,7", "no step" * 0, "7", ",".join("1" * 30)])
    source = Process(ScalarModel("prm"), Steps("regex", ","), read="number")
    scores = asyncio.run(source.score(group, Reads(1)))
    assert told(scores) == [[6, 12, 13], "abstained", [1], "abstained"]
    assert scores[0].ends.tolist() == source.steps.ends(group.rollouts[0].text).tolist()
    assert scores[0].value == pytest.approx((6 + 12 + 13) / 3)
    assert "no step" in scores[1].failure.detail
    assert "context of prm" in scores[3].failure.detail


def test_numbers_as_probabilities(make_group):
    def sigmoid(x):
        return 1 / (1 + np.exp(-np.asarray(x, np.float64)))

    group = make_group(["1\n22\n"])
    [one] = asyncio.run(Process(ScalarModel("prm")).score(group, Reads(1)))
    np.testing.assert_allclose(one.steps, sigmoid([2, 5]), rtol=1e-6)
    [two] = asyncio.run(Process(ScalarModel("prm", labels=2)).score(group, Reads(2)))
    np.testing.assert_allclose(two.steps, sigmoid([1 - 2, 3 - 5]), rtol=1e-6)
    with pytest.raises(ValueError, match=r"model.labels: 3"):
        Process(ScalarModel("prm", labels=3))


def test_a_verdict_on_each_step(make_group):
    def answer(request):
        prompt = request["messages"][-1]["content"]
        steps = re.findall(r"^\d+\. (.*)$", prompt.partition("[Start of the steps]")[2], re.MULTILINE)
        return "\n".join(f"{i}. [[{'right' if '=' in step else 'wrong'}]]" for i, step in enumerate(steps, 1))

    async def go(url, group):
        tools = LiveToolbox(1)
        try:
            return await StepJudge(ChatModel(url, model="m"), steps=Steps("line")).score(group, tools)
        finally:
            await tools.aclose()

    group = make_group(["1+2=3\nso\n[[3]]", "\n", "all at once = x"])
    with endpoint(answer) as seen:
        scores = asyncio.run(go(seen.url, group))
    assert told(scores) == [[1, 0, 0], "abstained", [1]]
    assert scores[0].tokens > 100
    with endpoint(lambda _: "1. [[right]]") as seen:
        assert told(asyncio.run(go(seen.url, group))) == ["abstained", "abstained", [1]]
