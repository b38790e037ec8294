"""The whole toolbox: helper processes, and the live things that the panel's sources declare."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

import numpy as np

from rewards.declared import ChatModel, Corpus, Passage, Reply, ScalarModel, Service, Unanswered, declared
from rewards.errors import Refused
from rewards.panel import Panel
from rewards.programs import Limits, Ran
from rewards.types import Message
from workers.judging.chat import ChatClient
from workers.judging.hosts import HostedReader, Spec, address_of
from workers.judging.http import Http
from workers.judging.sandbox import Sandbox
from workers.judging.sandbox import check as check_sandbox
from workers.judging.search import Index
from workers.judging.toolbox import ProcessToolbox
from workers.ray_actors import Actor

T = TypeVar("T")


class Reader(Protocol):
    """Reads passages with a scalar model: here, or in the model's own process."""

    async def open(self) -> Any: ...
    async def read(self, passages: Sequence[Passage]) -> list[np.ndarray | None]: ...


class LiveToolbox(ProcessToolbox):
    """`rewards.ports.Toolbox`. Each declared thing is made when it is first used, or by `warm`.

    hosts  the processes of those that have one of their own
    """

    def __init__(
        self, processes: int, imports: tuple[str, ...] = (), hosts: Mapping[Spec, Actor] = MappingProxyType({})
    ) -> None:
        super().__init__(processes, imports)
        self._hosts = hosts
        self._things: dict[Any, Any] = {}

    async def chat(
        self,
        model: ChatModel,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        sample: int = 0,
        stop: Sequence[str] = (),
        top: int = 0,
    ) -> Reply:
        """See `Toolbox.chat`."""
        return await self.client(model).ask(messages, max_tokens, temperature, sample, stop, top)

    async def scalar(self, model: ScalarModel, passages: Sequence[Passage]) -> list[np.ndarray | None]:
        """See `Toolbox.scalar`."""
        return await self._thing(model, self._reader).read(passages)

    async def search(self, corpus: Corpus, query: str, k: int) -> list[str]:
        """See `Toolbox.search`."""
        return self._thing(corpus, Index).search(query, k)

    async def execute(self, program: str, stdin: str, limits: Limits) -> Ran:
        """See `Toolbox.execute`."""
        return await self._thing(Sandbox, lambda _: Sandbox(self._processes)).run(program, stdin, limits)

    async def post(self, service: Service, payload: Any) -> Any:
        """See `Toolbox.post`."""
        return await self._thing(service, Http).ask("", payload)

    def client(self, model: ChatModel) -> ChatClient:
        """What asks this model."""
        return self._thing(model, self._asker)

    async def warm(self, panel: Panel) -> None:
        """Load what takes long to load, so that no group waits for it. Raises `Refused`, with the source's name."""
        for seat in (*panel.seats, *([panel.gold.seat] if panel.gold else [])):
            try:
                if getattr(seat.source, "uses_sandbox", False):
                    check_sandbox()
                for spec in declared(seat.source):
                    if isinstance(spec, ScalarModel):
                        await self._thing(spec, self._reader).open()
                    elif isinstance(spec, Corpus):
                        self._thing(spec, Index)
            except Refused as error:
                raise Refused(f"reward source {seat.name!r}: {error}") from error

    async def aclose(self) -> None:
        """Close everything; a later use would make it anew."""
        things, self._things = self._things, {}
        for thing in things.values():
            if isinstance(thing, ChatClient | Http):
                await thing.close()
        self.close()

    def _asker(self, spec: ChatModel) -> ChatClient:
        if spec.host and spec not in self._hosts:
            raise Unanswered(f"model {spec.host!r} is served while a run runs, and none does")
        return ChatClient(spec, address_of(self._hosts[spec]) if spec.host else None)

    def _reader(self, spec: ScalarModel) -> Reader:
        if spec in self._hosts:
            return HostedReader(self._hosts[spec])
        from workers.judging.scalar_model import ScalarReader  # imports torch: seconds, where no source needs it

        return ScalarReader(spec)

    def _thing(self, spec: Any, make: Callable[[Any], T]) -> T:
        if spec not in self._things:
            self._things[spec] = make(spec)
        return self._things[spec]
