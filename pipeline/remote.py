"""A run on a cluster: seen to be possible before anything starts, or sent there as a job and followed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.assemble import placement_of
from pipeline.config import Config
from rewards.errors import Refused, RunFailed
from workers.cluster import lacking

PROBE_S = 60.0
REFUSED = 2


def join(config: Config, run_dir: Path) -> None:
    """Join the cluster that the config names, and see that the run can start there; without one, nothing.

    Raises `Refused`, before anything is started: nothing answers, other versions do, there is no room for a role, a
    node lacks Assay or does not see the run directory.
    """
    if config.cluster.address is None:
        return
    from workers.ray_cluster import check_nodes
    from workers.ray_cluster import join as join_ray

    nodes = join_ray(config.cluster.address)
    if lack := lacking(placement_of(config), nodes):
        raise Refused(f"cluster {config.cluster.address}: {lack}")
    check_nodes(run_dir, PROBE_S)


def send(address: str, config: Path, overrides: Sequence[str], run_dir: Path, env: dict[str, str]) -> str:
    """Send the run to the cluster, with the current directory; the job's id. `config` has been loaded before."""
    here = Path.cwd()
    if not config.resolve().is_relative_to(here):
        raise Refused(f"config {config}: lies outside of {here}, which is what is sent; submit from above it")
    if not run_dir.is_absolute():
        raise Refused(
            f"--run-dir: {run_dir} would lie in the job's own copy of this directory, which goes when it ends; "
            "expected an absolute path on storage that all nodes share"
        )
    from workers.ray_jobs import Jobs

    relative = str(config.resolve().relative_to(here))
    command = ["assay", "run", relative, *overrides, "cluster.address=auto", "--run-dir", str(run_dir)]
    name = f"{config.stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    return Jobs(address).submit(name, command, str(here), env)


def follow(address: str, job: str, write: Callable[[str], None]) -> None:
    """Write the job's log until it ends. Raises as the run itself would have here."""
    from workers.ray_jobs import Jobs

    jobs, last = Jobs(address), ""

    async def all_of_it() -> None:
        nonlocal last
        async for text in jobs.logs(job):
            write(text)
            last = (last + text)[-4000:]

    asyncio.run(all_of_it())
    ended = jobs.state(job)
    if ended.status == "SUCCEEDED":
        return
    said = [line.removeprefix("assay: ") for line in last.splitlines() if line.startswith("assay: ")]
    line = said[-1] if said and ended.status == "FAILED" else f"job {job} {ended.status.lower()}: {ended.message}"
    raise (Refused if ended.exit_code == REFUSED else RunFailed)(line)
