"""Programs that strangers wrote, run under bubblewrap: no network, no files but the interpreter's, nothing that stays.

    bwrap (namespaces, an empty /tmp in memory) -> a user of its own -> prlimit (CPU, memory, processes) -> python

As root the program runs under a user id that nothing else has, so that the limit on processes is its own, and root's
own files are closed to it; any other user's program stays in a user namespace. When bwrap ends, or the judge does,
everything inside is killed. Needs the Debian packages bubblewrap and util-linux.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import os
import shutil
import subprocess
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

from rewards.declared import Unanswered
from rewards.errors import Refused
from rewards.failures import one_line
from rewards.programs import Limits, Ran

TOOLS = {"bwrap": "bubblewrap", "prlimit": "util-linux", "setpriv": "util-linux"}
SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/sbin", "/etc/alternatives")
PROGRAM = "/program.py"
OWN_WORDS = ("bwrap: ", "setpriv: ", "prlimit: ")
SIGXCPU = 128 + 24
SIGKILL = 128 + 9
# User ids far above any that is given out; one for each program, in turn.
FIRST_USER, USERS = 1_500_000_000, 100_000_000
_users = itertools.count(os.getpid() * 1000)


def check() -> None:
    """Raises `Refused` where programs can't be run in a sandbox here."""
    missing = next((name for name in TOOLS if shutil.which(name) is None), None)
    if missing is not None:
        raise Refused(f"programs run under bubblewrap, and {missing} is not here; apt-get install {TOOLS[missing]}")
    tried = subprocess.run(
        [*command(Limits(), None), "-c", "pass"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if tried.returncode:
        raise Refused(f"programs run under bubblewrap, which does not work here: {one_line(tried.stderr)}")


def command(limits: Limits, program_fd: int | None) -> list[str]:
    """The command line up to python's own arguments; `program_fd` holds what stands at `PROGRAM`."""
    prefix, user, memory = Path(sys.base_prefix), str(FIRST_USER + next(_users) % USERS), limits.memory_mb << 20
    root = os.getuid() == 0
    out = ["bwrap", "--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL"]
    if root:
        out += ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
        out += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--cap-add", "CAP_SETPCAP"]
    else:
        out += ["--unshare-all"]
    for folder in SYSTEM:
        if Path(folder).is_symlink():
            out += ["--symlink", str(Path(folder).readlink()), folder]
        elif Path(folder).exists():
            out += ["--ro-bind", folder, folder]
    if not prefix.is_relative_to("/usr"):
        for parent in reversed(prefix.parents[:-1]):  # bubblewrap would make them for their owner alone
            out += ["--perms", "0755", "--dir", str(parent)]
        out += ["--ro-bind", str(prefix), str(prefix)]
    out += ["--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--size", str(memory), "--tmpfs", "/tmp"]
    for name, value in (("PATH", "/usr/bin:/bin"), ("HOME", "/tmp"), ("LANG", "C.UTF-8"), ("PYTHONHASHSEED", "0")):
        out += ["--setenv", name, value]
    if program_fd is not None:
        out += ["--perms", "0444", "--ro-bind-data", str(program_fd), PROGRAM]
    out += ["--chdir", "/tmp", "--"]
    if root:
        out += ["setpriv", "--reuid", user, "--regid", user, "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]
    cpu = math.ceil(limits.cpu_s)
    out += ["prlimit", f"--cpu={cpu}:{cpu + 1}", f"--as={memory}", f"--nproc={limits.processes}", "--core=0"]
    return [*out, f"--fsize={memory}", sys._base_executable, "-I", "-S"]  # pyright: ignore[reportAttributeAccessIssue]


class Sandbox:
    """Runs Python programs, so many at once; the others wait."""

    def __init__(self, places: int) -> None:
        self._places = asyncio.Semaphore(places)

    async def run(self, program: str, stdin: str, limits: Limits) -> Ran:
        """The program with that input. Raises `Unanswered` where the sandbox itself could not be made."""
        async with self._places:
            ran = await self._once(program, stdin, limits)
            # Anyone can print these words; only where nothing runs any more are they taken for the sandbox's own.
            if ran.status and ran.stderr.startswith(OWN_WORDS) and (await self._once("", "", Limits())).status:
                raise Unanswered(f"the sandbox could not be made: {one_line(ran.stderr)}")
            return ran

    async def _once(self, program: str, stdin: str, limits: Limits) -> Ran:
        held = os.memfd_create("program")
        try:
            os.write(held, program.encode("utf-8", "surrogatepass"))
            os.lseek(held, 0, os.SEEK_SET)
            line, began = [*command(limits, held), PROGRAM], time.perf_counter()
            process = await asyncio.create_subprocess_exec(
                *line, stdin=PIPE, stdout=PIPE, stderr=PIPE, pass_fds=(held,)
            )
            return await self._finish(process, stdin, limits, began)
        finally:
            os.close(held)

    async def _finish(self, process: Process, stdin: str, limits: Limits, began: float) -> Ran:
        stopped: list[Literal["time", "output"]] = []

        def stop(why: Literal["time", "output"]) -> None:
            stopped.append(why)
            _kill(process)

        clock = asyncio.get_running_loop().call_later(3 * limits.cpu_s + 10, stop, "time")
        too_much = partial(stop, "output")
        try:
            # Read to the end whatever happens: a process whose pipes are full is never seen to end.
            out, err, _ = await asyncio.gather(
                _read(process.stdout, limits.output_kb << 10, too_much),
                _read(process.stderr, limits.output_kb << 10, too_much),
                _feed(process, stdin),
            )
            await process.wait()
        finally:
            clock.cancel()
            _kill(process)  # where it was cancelled
        status = process.returncode or 0
        status = 128 - status if status < 0 else status
        why = stopped[0] if stopped else "time" if status in (SIGXCPU, SIGKILL) else None
        seconds = time.perf_counter() - began
        return Ran(status, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"), seconds, why)


async def _read(stream: asyncio.StreamReader | None, limit: int, too_much: Callable[[], None]) -> bytes:
    """What the stream holds, up to the limit; what comes after it is thrown away."""
    data = b""
    while stream is not None and (part := await stream.read(1 << 16)):
        if len(data) + len(part) > limit >= len(data):
            too_much()
        if len(data) <= limit:
            data += part
    return data[:limit]


async def _feed(process: Process, text: str) -> None:
    if process.stdin is not None:
        try:
            process.stdin.write(text.encode("utf-8", "surrogatepass"))
            await process.stdin.drain()
            process.stdin.close()
        except (BrokenPipeError, ConnectionResetError):
            pass  # it never read it


def _kill(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
