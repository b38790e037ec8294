"""The one address of Ray: start it, start an actor from a plain class, ask it, stream from it, kill it.

Every wait has a time-out that names the culprit. `Stalled`: it did not answer in time. `Died`: its process is gone.
An exception raised inside the actor comes out as itself, with the remote traceback as its cause.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when ray is imported
os.environ.setdefault("RAY_worker_niceness", "0")  # 15 by default: workers would yield to all else on the machine
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # else `uv run` builds every worker a second venv
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # silences a warning about zero-GPU actors

import ray
import ray.exceptions
from ray.util import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rewards.errors import RunFailed
from rewards.failures import one_line

# glibc would give freed memory back to the kernel, and take it again page by page: thousands of faults in every step.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**32)}


class Stalled(RunFailed):
    """A worker gave no answer in time. It may still be at work: kill it before it is replaced."""


class Died(RunFailed):
    """A worker's process is gone."""


class Away(Died):
    """Ray starts it again; until then it can't be asked."""


@dataclass(frozen=True)
class Bundle:
    """CPUs and GPUs of one node, reserved: bundle `index` of a placement group."""

    group: Any
    index: int


@dataclass(frozen=True)
class Actor:
    """A worker process and what to call it in messages."""

    name: str
    handle: Any
    cpus: float
    gpus: float


def start_ray(cpus: int, address: str | None = None) -> None:
    """Join the cluster at `address`, or at RAY_ADDRESS (Ray's own variable: a sweep's runs find it set); without one,
    start a quiet one here with that many logical CPUs. Nothing is done where this process has joined one."""
    if ray.is_initialized():
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    address = address or os.environ.get("RAY_ADDRESS")
    if address:
        ray.init(address=address, **quiet)
    else:
        ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)


def ray_address() -> str:
    """Where other processes join the cluster. They need this one's environment too: it holds Ray's token."""
    return ray.get_runtime_context().gcs_address


def cluster_cpus() -> float:
    """The CPUs of the whole cluster, as Ray counts them."""
    return float(ray.cluster_resources().get("CPU", 0))


def stop_ray() -> None:
    """Leave the cluster; one that `start_ray` started ends with it."""
    ray.shutdown()


def node_address() -> str:
    """Where the other nodes of the cluster reach this one."""
    return ray.util.get_node_ip_address()


def shared(value: Any) -> Any:
    """A reference to the value in shared memory, to hand to many workers as an argument."""
    return ray.put(value)


async def reserve(
    role: str, bundles: Sequence[Mapping[str, float]], spread: bool, timeout_s: float | None
) -> list[Bundle]:
    """Reserve all of them at once, spread over the nodes or packed onto few; `timeout_s` None doesn't wait for them.

    Raises `Stalled`, with what the cluster has, where they are not to be had in time.
    """
    asked = [{kind: amount for kind, amount in bundle.items() if amount} for bundle in bundles]
    group = placement_group(asked, strategy="SPREAD" if spread else "PACK")
    if timeout_s is not None and not await asyncio.to_thread(group.wait, timeout_s):
        wanted = ", ".join(" + ".join(f"{amount:g} {kind}" for kind, amount in bundle.items()) for bundle in asked)
        all_, free = ray.cluster_resources(), ray.available_resources()
        has = " and ".join(f"{all_.get(kind, 0):g} {kind} ({free.get(kind, 0):g} free)" for kind in ("CPU", "GPU"))
        remove_placement_group(group)
        raise Stalled(f"the cluster had no room for {role} in {timeout_s:g} s: it asks for {wanted}; there are {has}")
    return [Bundle(group, i) for i in range(len(asked))]


def release(bundles: Sequence[Bundle]) -> None:
    """Give the bundles back; what still runs in them ends."""
    for group in {bundle.group.id: bundle.group for bundle in bundles}.values():
        remove_placement_group(group)


def start_actor(
    cls: type,
    *args: Any,
    name: str,
    cpus: float,
    gpus: float = 0.0,
    bundle: Bundle | None = None,
    share: float = 1.0,
    env: Mapping[str, str] | None = None,
    restarts: int = 0,
    **kwargs: Any,
) -> Actor:
    """A worker process that holds `cls(*args, **kwargs)`, with as many threads as it has CPUs (one at least).

    `bundle` is where it starts; `share` the part of its CPUs and GPUs that Ray is told of, where it takes turns;
    `restarts` how often Ray starts it again by itself where its process dies: its constructor runs anew.

    Returns at once; `ready` waits for it. What can be refused belongs into a method, not into the constructor:
    an error there comes out as `Died`. The driver's import paths and current directory are the worker's too.
    """
    threads = str(max(1, int(cpus)))
    variables = {
        "PYTHONPATH": os.pathsep.join(import_paths()),
        **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), threads),
        **KEEP_MEMORY,
        **(env or {}),
    }
    where = PlacementGroupSchedulingStrategy(bundle.group, bundle.index) if bundle else "DEFAULT"
    remote = ray.remote(cls).options(
        num_cpus=cpus * share,
        num_gpus=gpus * share,
        max_restarts=restarts,
        scheduling_strategy=where,
        runtime_env={"env_vars": variables},
    )
    return Actor(name, remote.remote(*args, **kwargs), cpus, gpus)


async def ready(actor: Actor, timeout_s: float) -> None:
    """Wait until the worker's constructor is through. Raises `Stalled`, with what the cluster has free, or `Died`."""
    try:
        await call(actor, "__ray_ready__", timeout_s=timeout_s)
    except Stalled:
        free = ray.available_resources()
        raise Stalled(
            f"{actor.name} did not start in {timeout_s:g} s: it asks for {actor.cpus:g} CPUs and {actor.gpus:g} GPUs, "
            f"the cluster has {free.get('CPU', 0):g} and {free.get('GPU', 0):g} free"
        ) from None


async def call(actor: Actor, method: str, *args: Any, timeout_s: float, **kwargs: Any) -> Any:
    """Ask the worker and wait for its answer. Raises `Stalled`, `Died`, or what the method raised."""
    clock = asyncio.timeout(timeout_s)
    with _named(actor, method, clock, timeout_s):
        async with clock:
            return await getattr(actor.handle, method).remote(*args, **kwargs)


def submit(actor: Actor, method: str, *args: Any) -> Any:
    """Ask the worker and return at once, with a reference that other workers can be handed in place of the answer."""
    return getattr(actor.handle, method).remote(*args)


async def stream(actor: Actor, method: str, *args: Any, timeout_s: float, **kwargs: Any) -> AsyncIterator[Any]:
    """What the worker's async generator yields, as it comes; the time-out is for each item.

    Leaving the loop early cancels the generator. Raises as `call` does.
    """
    references = getattr(actor.handle, method).options(num_returns="streaming").remote(*args, **kwargs)
    ended = False
    try:
        while True:
            clock = asyncio.timeout(timeout_s)
            with _named(actor, method, clock, timeout_s):
                async with clock:
                    try:
                        item = await (await anext(references))
                    except StopAsyncIteration:
                        ended = True
                        return
            yield item
    finally:
        if not ended:
            ray.cancel(references)


def kill(actor: Actor) -> None:
    """End the worker's process, now; what it was asked is answered with `Died`."""
    ray.kill(actor.handle, no_restart=True)


@contextmanager
def _named(actor: Actor, method: str, clock: asyncio.Timeout, timeout_s: float) -> Iterator[None]:
    """Ray's errors with a name on them, and the worker's own errors as they were raised."""
    try:
        yield
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.ActorUnavailableError as error:
        raise Away(f"{actor.name} is away: {_reason(error)}") from error
    except ray.exceptions.RayError as error:
        raise Died(f"{actor.name} died: {_reason(error)}") from error
    except TimeoutError:
        if clock.expired():
            raise Stalled(f"{actor.name}.{method} gave no answer in {timeout_s:g} s") from None
        raise


def _reason(error: BaseException) -> str:
    """The one line of Ray's page that says why."""
    text = str(error).strip()
    detail = re.search(r"(?:Worker exit detail:|The actor is dead because)\s*(.+)", text)
    if "creation task" in text:
        return one_line(text.splitlines()[-1])
    return one_line(detail[1] if detail else text)


def import_paths() -> list[str]:
    """Where the driver imports from, its interpreter's own folders aside."""
    own = [path for path in sys.path if path and not path.startswith((sys.prefix, sys.base_prefix))]
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return list(dict.fromkeys([*own, *filter(None, inherited), str(Path.cwd())]))
