"""Models of judges in processes of their own: a chat model that vLLM serves, a scalar model with its own devices.

    judge-0 --\\                 +- hosted-0: vllm serve, as an OpenAI-compatible endpoint --+
    judge-1 ---+-- the port ---> |                                                          |
    ...     --/                  +- hosted-1: a scalar model, batching what all judges ask --+

A served model is asked over HTTP like any other endpoint: what a judge says does not hang on who started it. Ray starts
a process that died again, and the process starts a server that died again; whoever was waiting asks again.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rewards.declared import ChatModel, Passage, ScalarModel, declared
from rewards.errors import Refused, RunFailed
from rewards.failures import one_line
from rewards.panel import Panel
from workers.judging.http import Address, Again, answers
from workers.ray_actors import Actor, Away, Died, Stalled, call, kill, ready

RESTARTS = 3  # by Ray, of a process that died
START_S = 600.0  # a large model may take minutes to load
TRIES = 3
# Messages joined by line breaks, as a model without a chat template of its own is prompted.
_PLAIN = "{% for message in messages %}{{ message.content }}{% if not loop.last %}{{ '\\n' }}{% endif %}{% endfor %}"
_ENV = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}

Spec = ChatModel | ScalarModel


def hosted(sources: Iterable[Any]) -> list[Spec]:
    """What these sources declare that needs a process of its own, each once, in their order."""
    specs = dict.fromkeys(spec for source in sources for spec in declared(source))
    return [s for s in specs if (isinstance(s, ChatModel) and s.host) or (isinstance(s, ScalarModel) and s.cpus)]


async def start_hosts(panel: Panel, start: Callable[..., Actor]) -> dict[Spec, Actor]:
    """Start what the panel needs and wait until it answers. Raises `RunFailed` or `Refused` where it can't."""
    specs = hosted(panel.sources)
    hosts = {
        spec: start(
            ServedChat if isinstance(spec, ChatModel) else HostedScalar,
            spec,
            name=f"hosted-{i}",
            cpus=spec.cpus,
            restarts=RESTARTS,
        )
        for i, spec in enumerate(specs)
    }
    opened = False
    try:
        await asyncio.gather(*(_open(actor) for actor in hosts.values()))
        opened = True
    finally:
        if not opened:
            stop_hosts(hosts)
    return hosts


async def _open(actor: Actor) -> None:
    await ready(actor, START_S)
    await call(actor, "open", timeout_s=START_S)


def stop_hosts(hosts: Mapping[Spec, Actor]) -> None:
    """End them; a server ends with the process that keeps it."""
    for actor in hosts.values():
        kill(actor)


class ServedChat:
    """Keeps one `vllm serve` alive."""

    def __init__(self, spec: ChatModel) -> None:
        self._spec = spec
        self._server: subprocess.Popen[bytes] | None = None
        self._starting = asyncio.Lock()
        self._token = secrets.token_hex(16)
        self._folder = Path(tempfile.mkdtemp(prefix="assay-judge-"))
        self._url = ""

    async def open(self) -> None:
        """Start the server, where none runs. Raises `RunFailed` with its last words where it does not come up."""
        async with self._starting:
            if self._server is None or self._server.poll() is not None:
                self._server = self._start()
                await self._up(self._server)

    async def address(self) -> Address:
        """Where it answers; a server that died is started again first."""
        await self.open()
        return f"{self._url}/v1", self._token

    def pid(self) -> int:
        """Of the process that keeps the server."""
        return self._server.pid if self._server else 0

    def _start(self) -> subprocess.Popen[bytes]:
        host = _own_address()
        with socket.socket() as free:
            free.bind((host, 0))
            port = free.getsockname()[1]
        self._url = f"http://{host}:{port}"
        command = [sys.executable, "-m", "workers.judging.keep", sys.executable, "-m"]
        command += [
            "vllm.entrypoints.openai.api_server",
            "--model",
            self._spec.host,
            "--host",
            host,
            "--port",
            str(port),
        ]
        command += ["--served-model-name", "judge", "--generation-config", "vllm"]
        if not has_template(self._spec.host):
            (self._folder / "plain.jinja").write_text(_PLAIN)
            command += ["--chat-template", str(self._folder / "plain.jinja")]
        env = {**_ENV, **os.environ, "VLLM_API_KEY": self._token}
        with self._log.open("wb") as log:
            return subprocess.Popen(
                [*command, *self._spec.serve_args], stdin=subprocess.PIPE, stdout=log, stderr=log, env=env
            )

    async def _up(self, server: subprocess.Popen[bytes]) -> None:
        while server.poll() is None:
            if await answers(f"{self._url}/health"):
                return
            await asyncio.sleep(0.2)
        lines = [line for line in self._log.read_text("utf-8", "replace").splitlines() if line.strip()]
        said = next((line for line in reversed(lines) if "rror" in line), lines[-1] if lines else "nothing")
        raise RunFailed(f"the judge {self._spec.host!r} could not be served: {one_line(said)}")

    @property
    def _log(self) -> Path:
        return self._folder / "server.log"


def has_template(path: str) -> bool:
    """Whether the model brings a chat template; of a hub name it is taken for granted."""
    folder = Path(path)
    if not folder.is_dir() or any(folder.glob("chat_template*")):
        return True
    try:
        return bool(json.loads((folder / "tokenizer_config.json").read_text()).get("chat_template"))
    except (OSError, ValueError):
        return False


def _own_address() -> str:
    """Of this node, as the others see it."""
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError:
        return "127.0.0.1"


class HostedScalar:
    """A scalar model that all judges ask."""

    def __init__(self, spec: ScalarModel) -> None:
        from workers.judging.scalar_model import ScalarReader

        self._reader = ScalarReader(spec)

    async def open(self) -> None:
        """Load the model. Raises `Refused`."""
        await self._reader.open()

    def pid(self) -> int:
        """Of this process."""
        return os.getpid()

    async def read(self, passages: Sequence[Passage]) -> list[np.ndarray | None]:
        """See `Toolbox.scalar`."""
        return await self._reader.read(passages)


class HostedReader:
    """Asks a `HostedScalar`, again where it died meanwhile."""

    def __init__(self, actor: Actor) -> None:
        self._actor = actor

    async def open(self) -> None:
        """It is open."""

    async def read(self, passages: Sequence[Passage]) -> list[np.ndarray | None]:
        """See `Toolbox.scalar`. Raises `ChildProcessError` where it keeps dying."""
        try:
            return await _asked(self._actor, "read", passages)
        except Died as error:
            raise ChildProcessError(str(error)) from error


async def _asked(actor: Actor, method: str, *args: Any) -> Any:
    """The actor's answer; where its process died it is asked again, once Ray has started it anew. Raises `Died` where
    it keeps dying, or does not come back."""
    deaths, deadline = 0, time.monotonic() + START_S
    while True:
        try:
            return await call(actor, method, *args, timeout_s=START_S)
        except Died as error:
            deaths += not isinstance(error, Away)
            if deaths == TRIES or time.monotonic() > deadline:
                raise
            await asyncio.sleep(1.0)


def address_of(actor: Actor) -> Callable[[], Awaitable[Address]]:
    """What asks a `ServedChat` where it is."""

    async def ask() -> Address:
        try:
            return await _asked(actor, "address")
        except (Died, Stalled) as error:
            raise Again(str(error)) from error

    return ask


def check_host(spec: ChatModel) -> None:
    """Raises `Refused` where the directory holds no model that writes."""
    from workers.models.load import load_config

    config = load_config(spec.host)
    if not any("CausalLM" in name or "ConditionalGeneration" in name for name in config.architectures or ()):
        found = ", ".join(config.architectures or ()) or "no architecture"
        raise Refused(f"model {spec.host!r}: is a {found}, expected one that writes (for a reward model: kind: scalar)")
