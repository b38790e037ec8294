"""The judges as a web service, for trainers that are not Assay's.

    POST /v1/score    {"task": {...}, "answers": [text, ...]}  ->  {"scores": [{"value", "explanation", ...}, ...]}
    GET  /metrics     for Prometheus          GET /health, /docs, /openapi.json     the three that need no token

    request -> Gate: token, rate, size -> Desk: whatever waits goes to the judges as one lot -> scores

The schema is the one that `rewards/sources/remote.py` speaks: one Assay can be another's judge. What could not be
judged has no value but an "abstained" that says why; it is never 0.0. This is the one address of FastAPI.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from pydantic import BaseModel, ConfigDict, Field

from rewards.errors import RunFailed
from rewards.types import Group, Message, ScoredGroup, Task, Verdict
from workers.ports import Judges

OPEN_PATHS = ("/health", "/docs", "/openapi.json")
LOTS_AT_ONCE, GROUPS_PER_LOT = 4, 64


@dataclass(frozen=True)
class Limits:
    """What one request, and all of them together, may ask for.

    answers         of one request
    request_bytes   of its body
    requests_per_s  on average; as many may come at once
    waiting         requests that wait for a judge; the next is told to come again
    """

    answers: int
    request_bytes: int
    requests_per_s: float
    waiting: int


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class AskedMessage(_Strict):
    """One message of the conversation so far."""

    role: str
    content: str


class AskedTask(_Strict):
    """What was asked: the conversation, and what the panel's sources compare with."""

    messages: Annotated[list[AskedMessage], Field(min_length=1)]
    id: str | None = None
    reference: str | None = None
    rubric: str | None = None
    meta: dict[str, Any] = {}


class Question(_Strict):
    """A task and the answers to it, which are judged as one group."""

    task: AskedTask
    answers: Annotated[list[str], Field(min_length=1)]


class Judgement(BaseModel):
    """One answer's reward (`value`), or why there is none (`abstained`). `parts`: each source's own value."""

    value: float | None = None
    abstained: str | None = None
    explanation: str = ""
    parts: dict[str, float] = {}
    cost: float = 0.0


class Judgements(BaseModel):
    """One per answer, in their order."""

    scores: list[Judgement]


class Desk:
    """Hands the groups that wait to the judges, as many as there are at once; `LOTS_AT_ONCE` lots are under way."""

    def __init__(self, judges: Judges, waiting: int) -> None:
        self._judges = judges
        self._queue: asyncio.Queue[tuple[Group, asyncio.Future[ScoredGroup]]] = asyncio.Queue(waiting)
        self._clerks: list[asyncio.Task[None]] = []

    def open(self) -> None:
        """Begin to work; needs a running event loop."""
        self._clerks = [asyncio.create_task(self._work()) for _ in range(LOTS_AT_ONCE)]

    def close(self) -> None:
        """Stop; whoever still waits is told."""
        for clerk in self._clerks:
            clerk.cancel()
        while not self._queue.empty():
            self._queue.get_nowait()[1].cancel()

    async def judge(self, group: Group) -> ScoredGroup:
        """The group's verdicts. Raises `asyncio.QueueFull` where too many wait, and what the judges raise."""
        answer: asyncio.Future[ScoredGroup] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((group, answer))
        return await answer

    async def _work(self) -> None:
        while True:
            lot = [await self._queue.get()]
            while len(lot) < GROUPS_PER_LOT and not self._queue.empty():
                lot.append(self._queue.get_nowait())
            await self._answer(lot)

    async def _answer(self, lot: list[tuple[Group, asyncio.Future[ScoredGroup]]]) -> None:
        """An error is the error of one group: each of a lot that fails is asked about alone."""
        try:
            judged = await self._judges.judge([group for group, _ in lot])
        except RunFailed as error:
            if len(lot) > 1:
                await asyncio.gather(*(self._answer([one]) for one in lot))
            elif not lot[0][1].done():
                lot[0][1].set_exception(error)
            return
        for (_, answer), scored in zip(lot, judged.groups, strict=True):
            if not answer.done():  # whoever asked may have gone
                answer.set_result(scored)


class Gate:
    """ASGI middleware: who has no token, asks too often or sends too much gets no further.

    It stands before FastAPI, which would read a whole body before it looks at a header.
    """

    def __init__(self, app: Any, token: str, limits: Limits) -> None:
        self._app, self._token, self._limits = app, token.encode(), limits
        self._credit, self._since = limits.requests_per_s, time.monotonic()

    async def __call__(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Any) -> None:
        """See ASGI."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            return await self._app(scope, receive, send)
        headers = dict(scope["headers"])
        if refused := self._refused(headers):
            return await refused(scope, receive, send)
        taken = 0

        async def counted() -> Any:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._limits.request_bytes:
                raise HTTPException(413, self._too_large)
            return message

        return await self._app(scope, counted, send)

    @property
    def _too_large(self) -> str:
        return f"the request has more than {self._limits.request_bytes:,} bytes"

    def _refused(self, headers: Mapping[bytes, bytes]) -> JSONResponse | None:
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        if kind.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self._token):
            detail = "no token, or a wrong one: send `Authorization: Bearer TOKEN`"
            return JSONResponse({"detail": detail}, 401, {"WWW-Authenticate": "Bearer"})
        if int(headers.get(b"content-length", b"0")) > self._limits.request_bytes:
            return JSONResponse({"detail": self._too_large}, 413)
        now, rate = time.monotonic(), self._limits.requests_per_s
        self._credit = min(max(1.0, rate), self._credit + (now - self._since) * rate)
        self._since = now
        if self._credit < 1:
            wait = (1 - self._credit) / rate
            detail = f"more than {rate:g} requests a second"
            return JSONResponse({"detail": detail}, 429, {"Retry-After": str(max(1, round(wait)))})
        self._credit -= 1
        return None


class Meters:
    """What Prometheus may read."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("assay_requests", "Requests to score.", ["status"], registry=self.registry)
        self.answers = Counter("assay_answers", "Answers, judged or not.", ["judged"], registry=self.registry)
        self.failures = Counter("assay_source_failures", "Missing scores.", ["source"], registry=self.registry)
        self.seconds = Histogram("assay_request_seconds", "From request to scores.", registry=self.registry)

    def count(self, verdicts: tuple[Verdict, ...]) -> None:
        """Count a group's verdicts."""
        for verdict in verdicts:
            self.answers.labels("no" if verdict.reward is None else "yes").inc()
            for name, score in verdict.scores.items():
                if score.failure:
                    self.failures.labels(name).inc()


def service(judges: Judges, token: str, limits: Limits) -> FastAPI:
    """The web application around started judges."""
    desk, meters, number = Desk(judges, limits.waiting), Meters(), count()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        desk.open()
        yield
        desk.close()

    app = FastAPI(title="Assay", description="A reward panel over HTTP.", lifespan=lifespan)

    @app.post("/v1/score", response_model_exclude_none=True)
    async def score(question: Question) -> Judgements:
        """Judge all answers to one task as a group."""
        began = time.perf_counter()
        status = "500"
        try:
            if len(question.answers) > limits.answers:
                raise HTTPException(422, f"{len(question.answers):,} answers, expected at most {limits.answers:,}")
            scored = await _judged(desk, _group(next(number), question))
            status = "200"
        except HTTPException as error:
            status = str(error.status_code)
            raise
        finally:
            meters.requests.labels(status).inc()
            meters.seconds.observe(time.perf_counter() - began)
        meters.count(scored.verdicts)
        return Judgements(scores=[_judgement(verdict) for verdict in scored.verdicts])

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the service is up."""
        return {"status": "up"}

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Requests, answers, failures by source and seconds, in Prometheus' text format."""
        return Response(generate_latest(meters.registry), media_type=CONTENT_TYPE_LATEST)

    app.add_middleware(Gate, token=token, limits=limits)
    return app


async def _judged(desk: Desk, group: Group) -> ScoredGroup:
    try:
        return await desk.judge(group)
    except asyncio.QueueFull:
        raise HTTPException(503, "too many requests wait for a judge", {"Retry-After": "1"}) from None
    except RunFailed as error:
        raise HTTPException(502, str(error)) from None


def _group(number: int, question: Question) -> Group:
    asked = question.task
    messages = tuple(Message(message.role, message.content) for message in asked.messages)
    task = Task(asked.id or f"request-{number}", messages, asked.reference, rubric=asked.rubric, meta=asked.meta)
    return Group.written(number, task, question.answers)


def _judgement(verdict: Verdict) -> Judgement:
    told = {name: score.explanation for name, score in verdict.scores.items() if score.explanation}
    return Judgement(
        value=verdict.total,
        abstained=str(verdict.failure) if verdict.failure else None,
        explanation="; ".join(f"{name}: {text}" for name, text in told.items())
        if len(told) > 1
        else "".join(told.values()),
        parts={name: score.value for name, score in verdict.scores.items() if score.value is not None},
        cost=sum(score.cost for score in verdict.scores.values()),
    )
