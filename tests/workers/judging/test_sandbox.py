"""What a stranger's program can and can't do. Real bubblewrap; skipped, saying so, where it does not work."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from rewards.declared import Unanswered
from rewards.errors import Refused
from rewards.programs import Limits
from workers.judging import sandbox
from workers.judging.sandbox import Sandbox, check

SMALL = Limits(cpu_s=5, memory_mb=256, processes=8, output_kb=4)


@pytest.fixture(scope="module", autouse=True)
def _works():
    try:
        check()
    except Refused as error:
        pytest.skip(str(error))


def run(program, stdin="", limits=SMALL):
    return asyncio.run(Sandbox(1).run(program, stdin, limits))


def test_it_reads_its_input_and_says_how_it_ended():
    ran = run("import sys; print(input()[::-1]); print('oh', file=sys.stderr); sys.exit(3)", "abc\n")
    assert (ran.status, ran.stdout, ran.stderr, ran.stopped, ran.last_line) == (3, "cba\n", "oh\n", None, "oh")
    assert run("import os; os.kill(os.getpid(), 11)").status == 128 + 11
    assert run("print('é 三')", "never read").stdout == "é 三\n"


@pytest.mark.parametrize(
    ("program", "error"),
    [
        ("x = bytearray(10**9)", "MemoryError"),
        ("f = open('/tmp/big', 'wb')\nwhile True: f.write(b'0' * 10**6)", "OSError"),
        ("import socket; socket.create_connection(('1.1.1.1', 80), 2)", "OSError: [Errno 101]"),
        ("open('/usr/x', 'w')", "OSError: [Errno 30] Read-only file system"),
        (f"open({str(Path(__file__).resolve())!r})", "FileNotFoundError"),
        ("import os; os.setuid(0)", "PermissionError"),
    ],
)
def test_what_it_may_not_do_is_refused_to_it(program, error):
    ran = run(program)
    assert ran.status == 1 and ran.last_line.startswith(error), ran


def test_a_fork_bomb_stops_at_its_limit():
    program = """
import os, time
made = 0
try:
    for _ in range(100):
        if os.fork() == 0:
            time.sleep(60)
        made += 1
except BlockingIOError:
    print(made, flush=True)
    os._exit(0)
"""
    ran = run(program)
    assert 0 < int(ran.stdout) < SMALL.processes and ran.seconds < 30, "what it left behind is killed with it"


def test_it_sees_no_process_and_no_secret_of_its_hosts():
    program = "import os; print(len([p for p in os.listdir('/proc') if p.isdigit()]), sorted(os.environ), os.getuid())"
    os.environ["ASSAY_SECRET"] = "key"
    try:
        ran = run(program)
    finally:
        del os.environ["ASSAY_SECRET"]
    processes, *_ = ran.stdout.split()
    assert int(processes) <= 2 and "ASSAY_SECRET" not in ran.stdout
    assert not ran.stdout.rstrip().endswith(" 0")


def test_what_prints_too_much_is_ended_at_once():
    ran = run("while True: print('x' * 1000)")
    assert (ran.stopped, len(ran.stdout)) == ("output", SMALL.output_kb << 10)


def test_what_takes_too_long_is_ended():
    ran = run("while True: pass", limits=Limits(cpu_s=0.5))
    assert ran.stopped == "time" and ran.status > 128


@pytest.mark.slow
def test_what_sleeps_too_long_is_ended_by_the_clock():
    ran = run("import time; time.sleep(1000)", limits=Limits(cpu_s=0.1))
    assert ran.stopped == "time" and 10 < ran.seconds < 60


def test_many_at_once_have_limits_of_their_own():
    async def go():
        box = Sandbox(4)
        program = "import threading, time\nfor _ in range(4): threading.Thread(target=time.sleep, args=(0.3,)).start()"
        return await asyncio.gather(*(box.run(program, "", SMALL) for _ in range(8)))

    assert [ran.status for ran in asyncio.run(go())] == [0] * 8


def test_without_bubblewrap_it_is_refused_with_what_to_install(monkeypatch):
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: None if name == "bwrap" else name)
    with pytest.raises(Refused, match="bwrap is not here; apt-get install bubblewrap"):
        check()


def test_a_sandbox_that_can_not_be_made_is_no_answer_about_the_program(monkeypatch):
    assert run("import sys; sys.exit('bwrap: no')").status == 1, "a program may say so as well"
    monkeypatch.setattr(sandbox, "PROGRAM", "/usr/program.py")
    with pytest.raises(Unanswered, match="the sandbox could not be made: bwrap: "):
        run("print(1)")
