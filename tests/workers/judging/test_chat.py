"""Chat models over real HTTP: good, malformed, slow, busy, broken and untrusted endpoints."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace

import pytest
from endpoint import Wrong, certificate, completion, endpoint

from rewards.declared import ChatModel, Service, Unanswered
from rewards.failures import as_failure
from rewards.types import Message
from workers.judging.live import LiveToolbox

QUICK = {"retries": 2, "request_s": 5.0}


def ask(model, n=1, **given):
    """n different questions at once; their replies, or the error that each came to."""
    given = {"max_tokens": 8, **given}

    async def go():
        tools = LiveToolbox(1)
        try:
            calls = (tools.chat(model, [Message("user", f"{i}?")], **given) for i in range(n))
            replies = await asyncio.gather(*calls, return_exceptions=True)
            client = tools.client(model)
            return replies, (client.tokens, client.cost, client.hits)
        finally:
            await tools.aclose()

    return asyncio.run(go())


def failure(answer, tls=None, **more):
    """What becomes of one question to an endpoint that answers so."""
    with endpoint(answer, tls) as seen:
        [error], _ = ask(ChatModel(seen.url, **(QUICK | more)))
    return as_failure(error), len(seen.requests)


def test_a_question_and_its_answer(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "secret")
    with endpoint(lambda request: completion("yes of course", [[("yes", -0.1), ("no", -2.5)]])) as seen:
        model = ChatModel(seen.url, key_env="JUDGE_KEY", price_in=2.0, price_out=10.0)
        [reply], used = ask(model, temperature=0.7, stop=("\n",), top=2)
    assert (reply.text, reply.tokens_in, reply.tokens_out, reply.cut) == ("yes of course", 100, 3, False)
    assert reply.top == ((("yes", -0.1), ("no", -2.5)),)
    assert reply.cost == pytest.approx((100 * 2 + 3 * 10) / 1e6)
    assert used == (103, reply.cost, 0)
    assert seen.headers[0]["Authorization"] == "Bearer secret"
    asked = seen.requests[0]
    assert asked["model"] == "tiny-judge"  # the only one that the endpoint lists
    assert (asked["stop"], asked["logprobs"], asked["top_logprobs"], asked["temperature"]) == (["\n"], True, 2, 0.7)


def test_equal_questions_are_asked_once_and_draws_differ_by_their_number(tmp_path):
    with endpoint(lambda request: str(request["seed"])) as seen:
        model = ChatModel(seen.url, cache=str(tmp_path / "cache" / "answers.sqlite"), price_in=1.0)
        first = [ask(model, temperature=1.0, sample=k)[0][0] for k in (0, 1, 0)]
        [again], used = ask(model, temperature=1.0)
    assert len(seen.requests) == 2
    assert first[0].text == first[2].text == again.text != first[1].text
    assert (first[0].cost > 0, again.cost, used) == (True, 0.0, (0, 0.0, 1))


def test_no_more_requests_in_flight_than_allowed():
    with endpoint(lambda request: "ok", delay_s=0.03) as seen:
        replies, _ = ask(ChatModel(seen.url, model="m", concurrency=3), n=12)
    assert [reply.text for reply in replies] == ["ok"] * 12
    assert seen.most == 3


def test_busy_endpoints_are_asked_again_and_when_they_say_so():
    answers = [Wrong(429, "slow down", {"Retry-After": "0.4"}), Wrong(500, "oops"), "at last"]
    with endpoint(lambda request: answers.pop(0)) as seen:
        start = time.perf_counter()
        [reply], _ = ask(ChatModel(seen.url, model="m", **QUICK))
    assert reply.text == "at last"
    assert len(seen.requests) == 3
    assert time.perf_counter() - start >= 0.4


def test_what_never_gets_better_is_a_failure_that_speaks():
    busy, tries = failure(lambda request: Wrong(429, '{"error": {"message": "quota"}}', {"Retry-After": "0"}))
    assert (busy.kind, tries) == ("error", 3)
    assert "status 429: quota" in busy.detail
    denied, tries = failure(lambda request: Wrong(401, '{"detail": "who are you?"}'))
    assert (denied.kind, tries) == ("error", 1)
    assert "status 401: who are you?" in denied.detail
    slow, tries = failure(lambda request: Wrong(after_s=0.5), request_s=0.1, retries=1)
    assert (slow.kind, tries) == ("timeout", 2)
    assert "no answer in 0.1 s" in slow.detail


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("<html>hello</html>", "no JSON but '<html>hello</html>'"),
        ('{"choices": []}', "no chat completion"),
        ('{"choices": [{"message": {"content": 7}}]}', "no chat completion"),
        ('["text"]', "no chat completion"),
    ],
)
def test_what_is_no_completion_is_malformed(body, said):
    found, tries = failure(lambda request: Wrong(body=body))
    assert (found.kind, tries) == ("malformed", 1)
    assert said in found.detail


def test_an_endpoint_that_is_down():
    with endpoint(lambda request: "ok") as seen:
        pass
    [error], _ = ask(ChatModel(seen.url, model="m", retries=1))
    assert "can't be reached" in as_failure(error).detail


def test_a_certificate_that_nobody_trusts(tmp_path):
    folder = certificate(tmp_path)
    found, tries = failure(lambda request: "ok", folder, model="m")
    assert (found.kind, tries) == ("error", 0)
    assert "its certificate is not trusted" in found.detail
    with endpoint(lambda request: "ok", folder) as seen:
        [reply], _ = ask(ChatModel(seen.url, model="m", ca_file=str(folder / "certificate.pem")))
        assert reply.text == "ok"
        [error], _ = ask(ChatModel(seen.url, model="m", ca_file=str(folder / "nothing.pem")))
        assert "ca_file" in str(error)


def test_a_token_that_is_not_there_and_a_choice_of_models(monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    [error], _ = ask(ChatModel("http://127.0.0.1:1/v1", model="m", key_env="NO_SUCH_KEY"))
    assert isinstance(error, Unanswered)
    assert "NO_SUCH_KEY holds no token" in str(error)


def test_any_json_over_http():
    async def go(url):
        tools = LiveToolbox(1)
        try:
            return await tools.post(Service(url + "/score", retries=0), {"x": [1, 2]})
        finally:
            await tools.aclose()

    with endpoint(lambda request: {"sum": sum(request["x"])}) as seen:
        assert asyncio.run(go(seen.url)) == {"sum": 3}


def test_one_of_url_and_host():
    for given in ({}, {"url": "http://a", "host": "b"}):
        with pytest.raises(ValueError, match="of `url` and `host` given"):
            ChatModel(**given)
    assert replace(ChatModel("http://a"), model="m") == ChatModel("http://a", model="m")
    assert json.dumps(Unanswered("x", "malformed").__reduce__()[1]) == '["x", "malformed"]'
