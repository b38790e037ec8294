"""Judges' models in processes of their own: real Ray actors and real scalar models."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import tiny

from rewards.declared import ChatModel, Passage, ScalarModel, Service
from rewards.errors import Refused
from rewards.panel import Panel, Seat
from rewards.sources.exact import Exact
from rewards.sources.generative import Generative
from rewards.sources.scalar import Scalar
from rewards.types import Message
from workers.judging.hosts import check_host, has_template, hosted
from workers.judging.pool import JudgePool
from workers.judging.scalar_model import ScalarReader
from workers.judging.worker import groups_at_once
from workers.ray_actors import call


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
            first = await pool.judge(groups)
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
    kept = [sys.executable, "-c", "import time; time.sleep(600)"]
    keeper = subprocess.Popen([sys.executable, "-m", "workers.judging.keep", *kept], stdin=subprocess.PIPE)
    deadline = time.monotonic() + 30
    children: list[psutil.Process] = []
    while not any("sleep" in str(child.cmdline()) for child in children):  # it is itself until it is the command
        assert time.monotonic() < deadline
        time.sleep(0.05)
        children = psutil.Process(keeper.pid).children()
    if how == "asker gone":
        keeper.stdin.close()  # what happens when the process that holds it is killed
    else:
        keeper.kill()
    assert keeper.wait(30) != 0
    while children[0].is_running() and children[0].status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline + 30
        time.sleep(0.05)


def test_a_command_that_ends_by_itself_says_how():
    short = [sys.executable, "-m", "workers.judging.keep", sys.executable, "-c", "exit(3)"]
    assert subprocess.Popen(short, stdin=subprocess.PIPE).wait(30) == 3
