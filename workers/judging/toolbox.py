"""Helper processes for judges: pure Python that may hang, crash or eat a core is run here, and killed.

The clock of a call starts when a helper has taken it up, imports done (pebble acknowledges a task after it is
unpickled): neither a cold start nor waiting for a free helper is counted as the item's time.

Helpers come from a fork server: it imports what sources name in `helper_imports` once (sympy: 1.7 s), and a killed
helper is replaced in 0.1 s.
"""

from __future__ import annotations

import asyncio
import fcntl
import multiprocessing
import os
import pickle
import signal
import sys
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any

from pebble import ProcessExpired, ProcessPool

from rewards.failures import one_line

THREAD_SETTINGS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class ProcessToolbox:
    """`rewards.ports.Toolbox` over a pool of helper processes, started at the first call.

    processes  how many calls run at the same time; the others wait
    imports    modules the fork server imports ahead
    """

    def __init__(self, processes: int, imports: tuple[str, ...] = ()) -> None:
        self._processes = processes
        self._imports = imports
        self._pool: ProcessPool | None = None

    async def call(self, function: Callable[..., Any], /, *args: Any, limit_s: float) -> Any:
        """Run `function(*args)` in a helper; a cancelled call's helper is killed as well.

        Raises `TimeoutError` after `limit_s` seconds, `ChildProcessError` when the helper died, and whatever the
        function raised.
        """
        payload = pickle.dumps((function, args))
        pool = self._pool or self._start()
        try:
            answer = await asyncio.wrap_future(pool.schedule(_Job(payload), timeout=limit_s))
        except TimeoutError:
            raise TimeoutError(f"no answer in {limit_s:g} s") from None
        except ProcessExpired as error:
            raise ChildProcessError(f"the helper process ended with status {error.exitcode}") from None
        except (BrokenProcessPool, RuntimeError) as error:
            self._discard(pool)
            raise ChildProcessError(f"the helper pool broke: {one_line(error) or 'a helper died idle'}") from None
        succeeded, result = pickle.loads(answer)
        if succeeded:
            return result
        raise result

    def close(self) -> None:
        """Kill the helpers; a later call would start new ones."""
        if self._pool:
            self._discard(self._pool)

    def _start(self) -> ProcessPool:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["__main__", *self._imports])
        self._pool = ProcessPool(self._processes, initializer=_prepare_helper, context=context)
        return self._pool

    def _discard(self, pool: ProcessPool) -> None:
        if self._pool is pool:
            self._pool = None
            pool.stop()
            pool.join()


class _Job:
    """A call as bytes. What can't be unpickled on either side fails this call, not the pool under it."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload

    def __reduce__(self) -> tuple[Any, tuple[bytes]]:
        return _taken_up, (self._payload,)

    def __call__(self) -> bytes:
        return _taken_up(self._payload)()


def _taken_up(payload: bytes) -> Callable[[], bytes]:
    """In the helper, before the clock starts: the call, its imports done; or the error in its place."""
    try:
        function, args = pickle.loads(payload)
    except BaseException as error:  # noqa: BLE001 - the border: sys.exit at import included
        return partial(_failed, error)
    return partial(_run, function, args)


def _run(function: Callable[..., Any], args: tuple[Any, ...]) -> bytes:
    try:
        return pickle.dumps((True, function(*args)))
    except BaseException as error:  # noqa: BLE001 - the border: whatever it raised goes to the one who asked
        return _failed(error)


def _failed(error: BaseException) -> bytes:
    """The error as bytes, as itself where it is an ordinary exception that survives the journey."""
    if isinstance(error, Exception):
        try:
            pickle.loads(pickled := pickle.dumps((False, error)))
            return pickled
        except Exception:  # noqa: BLE001 - an exception class may do anything when it is unpickled
            pass
    return pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {error}")))


def _prepare_helper() -> None:
    """In a new helper: one thread, dies at once when told to, and dies with its parent."""
    for name in THREAD_SETTINGS:
        os.environ[name] = "1"
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    if parent and sys.platform == "linux":  # the kernel sends SIGKILL when the parent's end of the pipe closes
        sentinel = parent.sentinel
        fcntl.fcntl(sentinel, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(sentinel, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(sentinel, fcntl.F_SETFL, fcntl.fcntl(sentinel, fcntl.F_GETFL) | os.O_ASYNC)
