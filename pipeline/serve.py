"""`assay serve`: the reward panel of a config as a web service, without a policy or a learner."""

from __future__ import annotations

import asyncio
import math
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rich.console import Console

from pipeline.check import check_rewards
from pipeline.config import Config, EvaluateStage, RlStage
from pipeline.panels import panel_of
from rewards.errors import Refused, nearest
from workers.judging.pool import JudgePool
from workers.ray_actors import start_ray, stop_ray

SHORTEST_TOKEN = 16


def serve(config: Config, stage: str | None, console: Console) -> None:
    """Serve the rewards of that stage (default: the first that is judged) until stopped.

    Raises `Refused` where there is no such stage, no token, no free port, or a source fails its self-check.
    """
    name, token = _stage(config, stage), _token(config.serve.token_env)
    with console.status("checking the reward sources"):
        check_rewards(config)
    with _bound(config.serve.host, config.serve.port) as listening:
        asyncio.run(_serve(config, name, token, listening, console))


async def _serve(config: Config, name: str, token: str, listening: socket.socket, console: Console) -> None:
    import uvicorn

    from workers.judging.service import Limits, service

    knobs = config.serve
    limits = Limits(knobs.answers, knobs.request_bytes, knobs.requests_per_s, knobs.waiting)
    async with _judges(config, name) as judges:
        web = uvicorn.Config(service(judges, token, limits), log_level="warning", timeout_graceful_shutdown=10)
        host, port = listening.getsockname()[:2]
        console.print(f"serving the rewards of stage {name} on http://{host}:{port}  (/docs, /metrics)", soft_wrap=True)
        await uvicorn.Server(web).serve(sockets=[listening])


@asynccontextmanager
async def _judges(config: Config, name: str) -> AsyncIterator[JudgePool]:
    """The judges of the stage of that name, started, and nothing else of a run."""
    stage = config.stages[name]
    assert isinstance(stage, RlStage | EvaluateStage)
    rewards = stage.rewards
    cpus = max(config.cluster.cpus or os.cpu_count() or 1, math.ceil(rewards.workers * rewards.cpus))
    await asyncio.to_thread(start_ray, cpus, config.cluster.address)
    judges = JudgePool(panel_of(rewards), rewards.workers, rewards.cpus, config.cluster.timeout_s)
    try:
        await judges.start()
        yield judges
    finally:
        await judges.close()
        stop_ray()


def _stage(config: Config, wanted: str | None) -> str:
    judged = [name for name, stage in config.stages.items() if isinstance(stage, RlStage | EvaluateStage)]
    if not judged:
        raise Refused("no stage of the config is judged, expected one of kind rl or evaluate")
    if wanted is not None and wanted not in judged:
        raise Refused(f"--stage {wanted!r}: is no stage with rewards; {nearest(wanted, judged)}")
    return wanted or judged[0]


def _token(variable: str) -> str:
    token = os.environ.get(variable, "")
    if len(token) < SHORTEST_TOKEN:
        found = f"has {len(token)} characters" if token else "is not set"
        raise Refused(
            f"serve.token_env: environment variable {variable} {found}, expected a token of at least {SHORTEST_TOKEN} "
            f"characters (as from `openssl rand -hex 16`)"
        )
    return token


def _bound(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port))
    except OSError as error:
        raise Refused(f"serve.host {host!r}, serve.port {port}: can't listen there: {error.strerror}") from None
