"""The web service around judges: who is let in, what is answered, what comes together as one lot."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from fakes import FakeJudges
from starlette.testclient import TestClient

from rewards.errors import RunFailed
from workers.judging.service import GROUPS_PER_LOT, Limits, service

TOKEN = "0123456789abcdef-of-a-token"
LIMITS = Limits(answers=8, request_bytes=2000, requests_per_s=1e6, waiting=100)
HEADERS = {"Authorization": f"Bearer {TOKEN}"}


def asked(n=2, **task):
    return {"task": {"messages": [{"role": "user", "content": "1+1="}], **task}, "answers": ["2"] * n}


def client(judges=None, limits=LIMITS):
    return TestClient(service(judges or FakeJudges(), TOKEN, limits))


def test_scores_and_what_could_not_be_judged():
    with client(FakeJudges(fails=frozenset({1}))) as web:
        first = web.post("/v1/score", json=asked(3), headers=HEADERS).json()["scores"]
        second = web.post("/v1/score", json=asked(2), headers=HEADERS).json()["scores"]
    assert [one["value"] for one in first] == [0.0, 1.0, 2.0]
    assert first[2]["parts"] == {"s": 2.0} and "abstained" not in first[2]
    assert all("value" not in one and one["abstained"] == "source:s error: no idea" for one in second)


def test_the_task_reaches_the_judges_whole():
    seen = []

    @dataclass
    class Watching(FakeJudges):
        async def judge(self, groups):
            seen.extend(groups)
            return await super().judge(groups)

    with client(Watching()) as web:
        body = asked(1, id="row 7", reference="2", rubric="be brief", meta={"level": 3})
        assert web.post("/v1/score", json=body, headers=HEADERS).status_code == 200
    (group,) = seen
    assert (group.task.id, group.task.reference, group.task.rubric) == ("row 7", "2", "be brief")
    assert group.task.meta == {"level": 3} and group.task.messages[0].content == "1+1="
    assert [rollout.text for rollout in group.rollouts] == ["2"]


@pytest.mark.parametrize(
    ("header", "path"),
    [(None, "/v1/score"), ("Bearer wrong", "/v1/score"), (f"Basic {TOKEN}", "/v1/score"), (None, "/metrics")],
)
def test_nobody_gets_in_without_the_token(header, path):
    with client() as web:
        headers = {"Authorization": header} if header else {}
        found = web.request("POST" if path == "/v1/score" else "GET", path, json=asked(), headers=headers)
        assert found.status_code == 401 and "Authorization: Bearer TOKEN" in found.json()["detail"]
        assert web.get("/health").json() == {"status": "up"}
        assert "/v1/score" in web.get("/openapi.json").json()["paths"]


@pytest.mark.parametrize(
    ("body", "status", "part"),
    [
        (asked(9), 422, "9 answers, expected at most 8"),
        (asked(10_000), 413, "2,000 bytes"),
        (asked(0), 422, "at least 1 item"),
        (asked(surplus=1), 422, "Extra inputs"),
        ({"task": {"messages": []}, "answers": ["a"]}, 422, "at least 1 item"),
        ({"answers": "2"}, 422, "Field required"),
        ("no object", 422, "valid dictionary"),
    ],
)
def test_what_is_asked_wrongly_is_told_so_and_the_service_stays_up(body, status, part):
    with client() as web:
        found = web.post("/v1/score", json=body, headers=HEADERS)
        assert found.status_code == status and part in found.text
        assert web.post("/v1/score", json=asked(), headers=HEADERS).status_code == 200


def test_a_body_that_does_not_say_how_long_it_is_is_cut_off():
    sent = []

    def endless():
        for _ in range(1000):
            sent.append(1)
            yield b"x" * 500

    with client() as web:
        found = web.post("/v1/score", content=endless(), headers=HEADERS)
    assert found.status_code == 413 and "2,000 bytes" in found.text


def test_broken_json():
    with client() as web:
        assert web.post("/v1/score", content=b'{"task": ', headers=HEADERS).status_code == 422


def test_too_many_requests_a_second():
    with client(limits=Limits(8, 2000, requests_per_s=3, waiting=100)) as web:
        found = [web.post("/v1/score", json=asked(), headers=HEADERS) for _ in range(8)]
    statuses = [one.status_code for one in found]
    assert statuses[:3] == [200] * 3 and 429 in statuses
    late = next(one for one in found if one.status_code == 429)
    assert late.headers["Retry-After"] == "1" and "3 requests a second" in late.json()["detail"]


def test_requests_that_wait_become_lots_and_too_many_are_sent_away():
    lots = []

    @dataclass
    class Slow(FakeJudges):
        async def judge(self, groups):
            lots.append(len(groups))
            await asyncio.sleep(0.3)
            return await super().judge(groups)

    def ask(web):
        return web.post("/v1/score", json=asked(), headers=HEADERS).status_code

    with client(Slow(), Limits(8, 2000, 1e6, waiting=20)) as web, ThreadPoolExecutor(32) as threads:
        statuses = list(threads.map(lambda _: ask(web), range(32)))
    assert sum(lots) == statuses.count(200) and max(lots) > 1 and max(lots) <= GROUPS_PER_LOT
    assert set(statuses) <= {200, 503} and statuses.count(200) >= 20


def test_a_source_that_aborts_fails_its_own_request_alone():
    @dataclass
    class Aborting(FakeJudges):
        async def judge(self, groups):
            await asyncio.sleep(0.1)
            if any(group.task.reference == "bad" for group in groups):
                raise RunFailed("reward source 's' failed and its policy is abort: no idea")
            return await super().judge(groups)

    def ask(web, i):
        body = asked(reference="bad" if i == 7 else "good")
        return web.post("/v1/score", json=body, headers=HEADERS)

    with client(Aborting()) as web, ThreadPoolExecutor(16) as threads:
        found = list(threads.map(lambda i: ask(web, i), range(16)))
    assert [one.status_code for one in found] == [502 if i == 7 else 200 for i in range(16)]
    assert "policy is abort" in found[7].json()["detail"]


def test_prometheus_reads_what_happened():
    with client(FakeJudges(fails=frozenset({1}))) as web:
        for body in (asked(3), asked(2), asked(9)):
            web.post("/v1/score", json=body, headers=HEADERS)
        text = web.get("/metrics", headers=HEADERS).text
    assert 'assay_requests_total{status="200"} 2.0' in text and 'assay_requests_total{status="422"} 1.0' in text
    assert 'assay_answers_total{judged="yes"} 3.0' in text and 'assay_answers_total{judged="no"} 2.0' in text
    assert 'assay_source_failures_total{source="s"} 2.0' in text
