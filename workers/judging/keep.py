"""`python -m workers.judging.keep COMMAND ...`: runs a command for as long as the one who asked lives.

The command gets a process group of its own, and a guard beside it. When standard input closes (its other end was in the
process that asked, which may have been killed), or when this process is killed itself (Ray kills a worker's children
with it), the guard tells the group to end, and kills it where it does not: a server that is starting heeds nothing.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time

GRACE_S = 3.0


def main(command: list[str]) -> int:
    """The command's exit status."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    alive, held = os.pipe()
    if os.fork() == 0:
        os.close(held)
        _guard(child.pid, alive)
    os.close(alive)
    status = child.wait()
    _told(child.pid, signal.SIGKILL)  # what it may have left
    return status


def _guard(group: int, alive: int) -> None:
    """In the guard: until standard input or the pipe to its maker closes."""
    os.setsid()
    watched = [0, alive]
    while all(os.read(descriptor, 1024) for descriptor in select.select(watched, [], [])[0]):
        pass
    if _told(group, signal.SIGTERM):
        time.sleep(GRACE_S)
        _told(group, signal.SIGKILL)
    os._exit(0)


def _told(group: int, number: int) -> bool:
    """Whether there was anyone left to be told."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)
        return True
    return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
