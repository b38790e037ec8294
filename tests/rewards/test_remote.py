"""Rewards from services over real HTTP, and functions written for OpenRLHF."""

from __future__ import annotations

import asyncio

import pytest
from endpoint import Wrong, endpoint

from rewards.declared import Service
from rewards.panel import Panel, Seat
from rewards.sources.function import Function
from rewards.sources.remote import Remote
from workers.judging.live import LiveToolbox
from workers.judging.toolbox import ProcessToolbox


def judge(group, answer, **more):
    async def go(source):
        tools = LiveToolbox(1)
        try:
            scored = await Panel((Seat("remote", source),)).judge(group, tools)
            return [verdict.scores["remote"] for verdict in scored.verdicts]
        finally:
            await tools.aclose()

    with endpoint(answer) as seen:
        return asyncio.run(go(Remote(Service(seen.url, retries=0, request_s=5.0), **more))), seen.requests


def told(scores):
    return [s.value if s.failure is None else s.failure.kind for s in scores]


def test_every_way_to_answer(make_group):
    answers = [
        0.5,
        2,
        None,
        {"value": 1.0, "explanation": "fine", "parts": {"style": 2}, "cost": 0.25},
        {"abstained": "not in my language"},
        "high",
        float("1e999"),
        True,
        {"value": 1.0, "parts": {"style": "good"}},
    ]
    group = make_group([str(i) for i in range(len(answers))], reference="7", meta={"level": 3, "when": object})
    scores, [asked] = judge(group, lambda _: {"scores": [a if a != float("inf") else "inf" for a in answers]})
    assert told(scores) == [0.5, 2.0, "abstained", 1.0, "abstained", *["malformed"] * 4]
    assert (scores[3].explanation, scores[3].parts, scores[3].cost) == ("fine", {"style": 2.0}, 0.25)
    assert "not in my language" in scores[4].failure.detail
    assert asked["answers"] == [str(i) for i in range(len(answers))]
    task = asked["task"]
    assert (task["messages"], task["reference"]) == ([{"role": "user", "content": "How much?"}], "7")
    assert task["meta"]["level"] == 3


@pytest.mark.parametrize("answer", [{"scores": [1.0]}, {"score": 1.0}, [1.0, 2.0], "text", Wrong(500, "oops")])
def test_an_answer_of_another_form_fails_for_all(make_group, answer):
    given = answer if isinstance(answer, Wrong | dict) else Wrong(body='"text"' if answer == "text" else "[1, 2]")
    scores, _ = judge(make_group(["a", "b"]), lambda _: given)
    assert told(scores) == ["error" if isinstance(answer, Wrong) else "malformed"] * 2


def test_openrlhfs_reward_servers(make_group):
    def answer(request):
        assert request["query"] == ["How much?a", "How much?bb"]
        assert (request["prompts"], request["labels"]) == (["How much?"] * 2, ["7"] * 2)
        return {"rewards": [float(len(query)) for query in request["query"]]}

    scores, _ = judge(make_group(["a", "bb"], reference="7"), answer, form="openrlhf")
    assert told(scores) == [10.0, 11.0]


@pytest.mark.parametrize("name", ["openrlhf_list", "openrlhf_dict"])
def test_functions_written_for_openrlhf(make_group, name):
    async def go():
        tools = ProcessToolbox(1)
        try:
            group = make_group(["seven", "7"], reference="7")
            return await Function(f"faulty:{name}", limit_s=60.0).score(group, tools)
        finally:
            tools.close()

    scores = asyncio.run(go())
    assert told(scores) == [0.0, 1.0]
    assert scores[1].parts == ({"length": 10.0} if name == "openrlhf_dict" else {})
