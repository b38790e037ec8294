"""A Ray cluster that others started: joining it, its nodes, and whether each of them can take part in a run."""

from __future__ import annotations

import os
import platform
import socket
import sys
import uuid
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray
import ray.exceptions
from ray import cloudpickle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rewards.errors import Refused
from rewards.failures import one_line
from workers.cluster import Node
from workers.ray_actors import import_paths, start_ray

ANSWER_S = 5.0


@dataclass(frozen=True, slots=True)
class Look:
    """What a node says of itself: versions, and whether it sees a file. `assay` None: it is not installed there."""

    python: str
    ray: str
    assay: str | None
    sees: bool


def join(address: str) -> list[Node]:
    """Join the cluster; its nodes. Raises `Refused` where nothing answers, or other versions do."""
    if address.startswith("ray://"):
        raise Refused(f"cluster.address: {address} is Ray Client's; expected HOST:PORT of the head, or `assay submit`")
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), ANSWER_S).close()
        except OSError as error:
            raise Refused(f"cluster.address: nothing answers at {address} ({error})") from error
    try:
        start_ray(0, address)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise Refused(f"cluster.address: {address} can't be joined: {_why(error)}") from error
    return alive()


def alive() -> list[Node]:
    """The nodes that are up, by the names that people know them by."""
    return [Node(_name(node), node["Resources"]) for node in ray.nodes() if node["Alive"]]


def check_nodes(run_dir: Path, timeout_s: float) -> None:
    """Every node must hold Assay, in this version, and see the run directory. Raises `Refused` with the first's name.

    A file is made beside the run directory for that, and taken away again.
    """
    absolute = run_dir.absolute()
    parent = next(path for path in (absolute, *absolute.parents) if path.is_dir())
    token = parent / f".assay-{uuid.uuid4().hex}"
    token.touch()
    try:
        looks = _looks(token, timeout_s)
    finally:
        token.unlink()
    here = Look(platform.python_version(), ray.__version__, version("assay"), True)
    for name, look in looks.items():
        for what in ("python", "ray"):
            there, mine = getattr(look, what), getattr(here, what)
            if there != mine:
                raise Refused(f"cluster: node {name} has {what.capitalize()} {there}, expected {mine} as here")
        if look.assay != here.assay:
            found = f"has Assay {look.assay}" if look.assay else "does not have Assay"
            raise Refused(f"cluster: node {name} {found}, expected {here.assay} as here; install it, or use its image")
        if not look.sees:
            raise Refused(
                f"run directory {run_dir}: node {name} does not see {parent}; "
                "name one on storage that all nodes share with --run-dir"
            )


def _looks(token: Path, timeout_s: float) -> dict[str, Look]:
    """Asks all nodes at once, by a function that needs nothing of ours there."""
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    try:
        remote: Any = ray.remote(_look)
        asked = {
            _name(node): remote.options(
                num_cpus=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
                runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(import_paths())}},
            ).remote(str(token))
            for node in ray.nodes()
            if node["Alive"]
        }
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    out = {}
    for name, reference in asked.items():
        try:
            out[name] = Look(*ray.get(reference, timeout=timeout_s))
        except ray.exceptions.RayError as error:
            raise Refused(f"cluster: node {name} can't take part: {_why(error)}") from error
    return out


def _look(token: str) -> tuple[str, str, str | None, bool]:
    """Runs on a node that may not have Assay: it knows the standard library and Ray only."""
    import importlib.metadata
    import importlib.util
    import os
    import platform

    import ray

    try:
        found = importlib.metadata.version("assay") if importlib.util.find_spec("workers") else None
    except importlib.metadata.PackageNotFoundError:
        found = None
    return platform.python_version(), ray.__version__, found, os.path.exists(token)  # noqa: PTH110


def _name(node: dict) -> str:
    return node["NodeManagerHostname"] + f" ({node['NodeManagerAddress']})"


def _why(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    mismatch = [line.strip() for line in lines if line.strip().startswith(("Ray:", "Python:"))]
    if "ersion mismatch" in str(error) and mismatch:
        return "versions differ; the cluster's and this process's: " + ", ".join(mismatch)
    if "oken" in str(error) and "AUTH" in str(error):
        return "it wants a token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
    return one_line(lines[0]) if lines else type(error).__name__
