"""Helper processes: killed when they hang, missed when they die, never blamed for waiting."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import faulty
import pytest

from rewards.errors import Refused
from rewards.imports import ByName
from workers.judging.toolbox import ProcessToolbox


def run(scenario, processes=1):
    async def go():
        tools = ProcessToolbox(processes)
        try:
            return await scenario(tools)
        finally:
            tools.close()

    return asyncio.run(go())


def test_runs_in_another_process_with_one_thread():
    pid, threads = run(lambda tools: tools.call(faulty.pid_and_threads, limit_s=5))
    assert pid != os.getpid() and threads == "1"


def test_what_the_function_raises_comes_out():
    with pytest.raises(ZeroDivisionError):
        run(lambda tools: tools.call(divmod, 1, 0, limit_s=5))


@pytest.mark.parametrize("function", [faulty.endless_c_loop, ByName("faulty:hangs")])
def test_a_stuck_function_is_killed_at_its_limit(function):
    async def scenario(tools):
        await tools.call(os.getpid, limit_s=5)
        start = time.perf_counter()
        with pytest.raises(TimeoutError, match=r"no answer in 0\.3 s"):
            await tools.call(function, *([[]] if isinstance(function, ByName) else []), limit_s=0.3)
        assert time.perf_counter() - start < 2
        assert await tools.call(os.getpid, limit_s=5) != os.getpid()

    run(scenario)


def test_a_helper_that_exits_is_named_and_replaced():
    async def scenario(tools):
        with pytest.raises(ChildProcessError, match="ended with status 7"):
            await tools.call(os._exit, 7, limit_s=5)
        return await tools.call(faulty.nap, 0.0, limit_s=5)

    assert run(scenario) == 0.0


def test_waiting_and_cold_start_do_not_count():
    async def scenario(tools):
        return await asyncio.gather(*(tools.call(faulty.nap, 0.2, limit_s=0.6) for _ in range(6)))

    assert run(scenario) == [0.2] * 6  # 1.2 s of work for one helper, in calls that may take 0.6 s each


def test_importing_does_not_count(tmp_path, monkeypatch):
    (tmp_path / "slow_to_import.py").write_text("import time\ntime.sleep(1)\ndef f(): return 5\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert run(lambda tools: tools.call(ByName("slow_to_import:f"), limit_s=0.3)) == 5


def test_a_module_that_does_not_import_fails_its_call_only(tmp_path, monkeypatch):
    (tmp_path / "exits_at_import.py").write_text("import os\nos._exit(3)\n")
    monkeypatch.syspath_prepend(tmp_path)

    async def scenario(tools):
        with pytest.raises(Refused, match="no module 'nonsuch'"):
            await tools.call(ByName("nonsuch:f"), limit_s=5)
        with pytest.raises(ChildProcessError, match="the helper pool broke"):
            await tools.call(ByName("exits_at_import:f"), limit_s=5)
        return await tools.call(faulty.nap, 0.0, limit_s=5)

    assert run(scenario) == 0.0


def test_a_cancelled_call_kills_its_helper(tmp_path):
    note = tmp_path / "pid"

    async def scenario(tools):
        asked = asyncio.create_task(tools.call(faulty.write_pid_and_hang, str(note), limit_s=1e3))
        while not (note.exists() and note.read_text()):
            await asyncio.sleep(0.02)
        asked.cancel()
        await wait_gone(int(note.read_text()))

    run(scenario)


def test_helpers_die_with_a_killed_parent(tmp_path):
    note = tmp_path / "pid"
    program = f"""
import asyncio, sys
sys.path.insert(0, {str(Path(faulty.__file__).parent)!r})
import faulty
from workers.judging.toolbox import ProcessToolbox
if __name__ == "__main__":
    asyncio.run(ProcessToolbox(1).call(faulty.write_pid_and_hang, {str(note)!r}, limit_s=1e3))
"""
    script = tmp_path / "parent.py"
    script.write_text(program)
    parent = subprocess.Popen([sys.executable, str(script)])
    while not (note.exists() and note.read_text()):
        assert parent.poll() is None
        time.sleep(0.02)
    parent.kill()
    parent.wait()
    asyncio.run(wait_gone(int(note.read_text())))


async def wait_gone(pid: int) -> None:
    for _ in range(200):
        if not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2]:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"helper {pid} is still alive")
