"""What a stranger's program can and can't do. Real bubblewrap; skipped, saying so, where it does not work."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
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
        ("import os; os.setuid(0)", ("PermissionError", "OSError: [Errno 22]")),  # the other one in a user namespace
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


NOBODY = 65534


def as_another(*command, userns=True):
    """Run a command as a user without any rights, to whom this interpreter is shown; one who may make no user
    namespaces, where `userns` is false."""
    if os.getuid():
        pytest.skip("only root can be someone else; the other tests here are that user's")
    prefix, shown = Path(sys.base_prefix), []
    if prefix.is_relative_to("/root"):  # which is closed to others
        shown = ["--perms", "0755", "--tmpfs", "/root"]
        shown += [part for at in reversed(prefix.parents[:-2]) for part in ("--perms", "0755", "--dir", str(at))]
        shown += ["--ro-bind", str(prefix), str(prefix)]
    user = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
    where = ["bwrap", "--dev-bind", "/", "/", *shown, "--", *user]
    if not userns:
        where = ["bwrap", "--unshare-user", "--uid", str(NOBODY), "--disable-userns", "--dev-bind", "/", "/", "--"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"}
    line = [*where, sys.executable, *command]
    return subprocess.run(line, env=env, capture_output=True, text=True, check=False, timeout=240)


@pytest.mark.slow
def test_all_of_this_holds_where_the_judge_is_not_root():
    quiet = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", __file__]
    done = as_another("-c", f"import os; assert os.getuid() == {NOBODY}")
    if done.returncode:
        pytest.skip(f"{sys.executable} can't be shown to another user: {done.stderr[-200:]}")
    done = as_another(*quiet)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert re.search(r"\b1\d passed", done.stdout) and "skipped" not in done.stdout.replace("1 skipped", "")


def test_a_user_who_may_have_no_sandbox_is_told_so_in_one_line():
    done = as_another("-c", "from workers.judging.sandbox import check; check()", userns=False)
    told = done.stderr.splitlines()[-1]
    assert told.startswith("rewards.errors.Refused: programs run under bubblewrap, which does not work here: bwrap: ")


def test_a_sandbox_that_can_not_be_made_is_no_answer_about_the_program(monkeypatch):
    assert run("import sys; sys.exit('bwrap: no')").status == 1, "a program may say so as well"
    monkeypatch.setattr(sandbox, "PROGRAM", "/usr/program.py")
    with pytest.raises(Unanswered, match="the sandbox could not be made: bwrap: "):
        run("print(1)")
