"""The pool over real Ray actors: same verdicts as in this process, and nothing a judge does stops the driver."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest
from faulty import ReportsPid, Scripted

from rewards.errors import RunFailed
from rewards.panel import Panel, Seat
from rewards.sources.exact import Exact
from rewards.sources.function import Function
from rewards.sources.math import Math
from rewards.types import Failure
from workers.judging.pool import JudgePool
from workers.judging.toolbox import ProcessToolbox

pytestmark = pytest.mark.usefixtures("ray_cluster")


def run(panel, scenario, workers=2, timeout_s=30.0):
    async def go():
        pool = JudgePool(panel, workers, cpus=0.5, timeout_s=timeout_s)
        await pool.start()
        try:
            return await scenario(pool)
        finally:
            await pool.close()

    return asyncio.run(go())


def told(scored):
    """What a group's verdicts say, times aside."""
    return [
        (v.reward, v.failure, {name: (s.value, s.explanation, s.failure) for name, s in v.scores.items()})
        for v in scored.verdicts
    ]


def test_the_same_verdicts_as_the_panel_alone(make_group):
    seats = (
        Seat("exact", Exact(after="#")),
        Seat("math", Math(after="#"), 2.0, retries=1),
        Seat("letters", Function("faulty:letters"), 0.5),
        Seat("script", Scripted(), 0.0),
    )
    groups = [make_group(["#1/2", f"#{i}/4", "#0.5", None, "2"], reference="0.5", id=i) for i in range(6)]

    async def alone():
        tools = ProcessToolbox(2, Math.helper_imports)
        try:
            return [await Panel(seats).judge(group, tools) for group in groups]
        finally:
            tools.close()

    pooled = run(Panel(seats), lambda pool: pool.judge(groups)).groups
    here = asyncio.run(alone())
    assert [told(s) for s in pooled] == [told(s) for s in here]
    assert [s.group.id for s in pooled] == [0, 1, 2, 3, 4, 5]
    assert here[2].verdicts[1].reward == 0 + 2 * 1 + 0.5 * 0  # "#2/4" is 0.5 for math, but has none of its letters


def test_groups_are_spread_over_the_judges(make_group):
    scored = run(Panel((Seat("pid", ReportsPid()),)), lambda pool: pool.judge([make_group(["1"])] * 8)).groups
    pids = {s.verdicts[0].reward for s in scored}
    assert len(pids) == 2 and os.getpid() not in pids


def test_a_killed_judge_is_replaced_and_its_group_judged_all_the_same(make_group):
    async def scenario(pool):
        [scored] = (await pool.judge([make_group(["1"])])).groups
        first = int(scored.verdicts[0].reward)
        os.kill(first, signal.SIGKILL)
        again = (await pool.judge([make_group(["1"])] * 6)).groups
        assert all(s.verdicts[0].reward not in (None, first) for s in again)
        return pool.restarts

    assert run(Panel((Seat("pid", ReportsPid()),)), scenario) == 1


def test_a_group_that_kills_every_judge_fails_alone(make_group):
    groups = [make_group([text], id=i) for i, text in enumerate(["1", "die", "2", "3", "4", "5"])]

    async def scenario(pool):
        scored = (await pool.judge(groups)).groups
        return [s.verdicts[0].reward for s in scored], scored[1].verdicts[0].failure, pool.restarts

    rewards, failure, restarts = run(Panel((Seat("script", Scripted()),)), scenario)
    assert rewards == [1, None, 2, 3, 4, 5]
    assert (failure.border, failure.kind, restarts) == ("judge", "died", 2)
    assert failure.detail.startswith("judge-")


def test_a_stuck_judge_is_replaced_and_its_group_fails(make_group):
    groups = [make_group([text], id=i) for i, text in enumerate(["1", "block", "2", "3"])]

    async def scenario(pool):
        start = time.perf_counter()
        scored = (await pool.judge(groups)).groups
        return [s.verdicts[0].reward for s in scored], scored[1].verdicts[0].failure, time.perf_counter() - start

    rewards, failure, seconds = run(Panel((Seat("script", Scripted()),)), scenario, timeout_s=1.5)
    assert rewards == [1, None, 2, 3]
    assert isinstance(failure, Failure) and (failure.border, failure.kind) == ("judge", "timeout")
    assert failure.detail.endswith(".judge gave no answer in 1.5 s")
    assert seconds < 20


def test_abort_reaches_the_driver_in_one_line(make_group):
    panel = Panel((Seat("script", Scripted(), on_failure="abort"),))
    with pytest.raises(RunFailed) as failed:
        run(panel, lambda pool: pool.judge([make_group(["1"]), make_group(["abstain"])]), workers=1)
    assert type(failed.value) is RunFailed
    assert str(failed.value) == (
        "reward source 'script' failed and its policy is abort: source:script abstained: don't know"
    )


def test_a_module_in_the_current_directory_judges(make_group, tmp_path, monkeypatch):
    (tmp_path / "my_own_reward.py").write_text(
        "def f(completions, **columns): return [float(c) * 2 for c in completions]"
    )
    monkeypatch.chdir(tmp_path)
    panel = Panel((Seat("mine", Function("my_own_reward:f")),))
    [scored] = run(panel, lambda pool: pool.judge([make_group(["1", "x"])]), workers=1).groups
    assert str(scored.verdicts[0].failure) == "source:mine error: ValueError: could not convert string to float: 'x'"
    [scored] = run(panel, lambda pool: pool.judge([make_group(["1", "4"])]), workers=1).groups
    assert [v.reward for v in scored.verdicts] == [2, 8]
