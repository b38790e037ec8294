"""`python -m workers.judging.keep COMMAND ...`: runs a command for as long as the one who asked lives.

The command gets a process group of its own. When standard input closes (its other end was in the process that asked,
which may have been killed) the group is told to end, and killed where it does not. Where this process is killed itself,
the kernel tells the command to end.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time

GRACE_S = 5.0
PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>


def main(command: list[str]) -> int:
    """The command's exit status."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_end_with_parent)
    threading.Thread(target=_watch, args=(child,), daemon=True).start()
    status = child.wait()
    _signal(child, signal.SIGKILL)  # what it may have left
    return status


def _end_with_parent() -> None:
    """In the command's process, before it is the command."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _watch(child: subprocess.Popen[bytes]) -> None:
    while os.read(0, 1024):  # not sys.stdin: Python can't end while a thread holds its lock
        pass
    _signal(child, signal.SIGTERM)
    time.sleep(GRACE_S)
    _signal(child, signal.SIGKILL)


def _signal(child: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
