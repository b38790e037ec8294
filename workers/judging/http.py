"""Asking services over HTTP: a bounded number of requests at once, repeated with back-off, and errors that speak."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from rewards.declared import Service, Unanswered
from rewards.failures import one_line

BUSY = {408, 425, 429, 500, 502, 503, 504, 529}
MAX_WAIT_S = 60.0
_backoff = wait_random_exponential(multiplier=0.25, max=20.0)

# Where a service is: its address, and the token it wants ("" for none).
Address = tuple[str, str]


class Again(Unanswered):
    """Worth another try, `after` so many seconds where the service said so."""

    def __init__(self, detail: str, after: float | None = None, timeout: bool = False):
        super().__init__(detail)
        self.after, self.timeout = after, timeout


class Http:
    """One service's client.

    address  asked at first and whenever the service can't be reached: one that Assay serves may have moved
    """

    def __init__(self, spec: Service, address: Callable[[], Awaitable[Address]] | None = None) -> None:
        self._spec, self._address = spec, address or self._given
        self._places = asyncio.Semaphore(spec.concurrency)
        self._client: httpx.AsyncClient | None = None
        self._known: Address | None = None

    async def ask(self, path: str, payload: Any = None) -> Any:
        """The JSON answered to this JSON; without one, to a GET.

        Raises `TimeoutError` where no answer came in time, and `Unanswered` where the service can't be reached, its
        certificate is not trusted, it turns the request down, or what it answers is no JSON: after the retries that
        are worth it.
        """
        tries = AsyncRetrying(
            stop=stop_after_attempt(1 + self._spec.retries),
            wait=_wait,
            retry=retry_if_exception_type(Again),
            reraise=True,
        )
        try:
            async for attempt in tries:
                with attempt:
                    async with self._places:
                        return await self._once(path, payload)
        except Again as error:
            if error.timeout:
                raise TimeoutError(str(error)) from error
            raise Unanswered(str(error)) from error

    async def close(self) -> None:
        """Close its connections."""
        if self._client:
            await self._client.aclose()

    async def _given(self) -> Address:
        name = self._spec.key_env
        if name and not os.environ.get(name):
            raise Unanswered(f"{self._spec.url}: the environment variable {name} holds no token")
        return self._spec.url, os.environ[name] if name else ""

    async def _once(self, path: str, payload: Any) -> Any:
        url, token = self._known = self._known or await self._address()
        url = url.rstrip("/") + path
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            if self._client is None:
                self._client = _client(self._spec)
            request = self._client.build_request("GET" if payload is None else "POST", url, json=payload)
            request.headers.update(headers)
            response = await self._client.send(request)
        except httpx.TimeoutException:
            raise Again(f"{url}: no answer in {self._spec.request_s:g} s", timeout=True) from None
        except httpx.TransportError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise Unanswered(f"{url}: its certificate is not trusted: {_reason(error)}") from None
            self._known = None
            raise Again(f"{url}: can't be reached: {_reason(error)}") from None
        except httpx.InvalidURL as error:
            raise Unanswered(f"{url}: no address: {_reason(error)}") from None
        return _answer(url, response)


async def answers(url: str) -> bool:
    """Whether a GET is answered with status 200, within a second."""
    try:
        async with httpx.AsyncClient(timeout=1.0, trust_env=False) as client:
            return (await client.get(url)).status_code == 200
    except httpx.HTTPError:
        return False


def _client(spec: Service) -> httpx.AsyncClient:
    try:
        trusted: Any = ssl.create_default_context(cafile=spec.ca_file) if spec.ca_file else True
    except OSError as error:
        raise Unanswered(f"{spec.url}: ca_file {spec.ca_file!r} can't be read: {_reason(error)}") from None
    limits = httpx.Limits(max_connections=spec.concurrency, max_keepalive_connections=spec.concurrency)
    return httpx.AsyncClient(timeout=spec.request_s, limits=limits, verify=trusted, follow_redirects=False)


def _answer(url: str, response: httpx.Response) -> Any:
    if response.status_code in BUSY:
        raise Again(f"{url}: status {response.status_code}: {_told(response)}", _retry_after(response))
    if response.status_code != 200:
        raise Unanswered(f"{url}: status {response.status_code}: {_told(response)}")
    try:
        return response.json()
    except ValueError:
        raise Unanswered(f"{url}: answered no JSON but {one_line(response.text)[:80]!r}", "malformed") from None


def _told(response: httpx.Response) -> str:
    """What the service says went wrong: OpenAI's way, FastAPI's, or the text as it stands."""
    try:
        said = response.json()
    except ValueError:
        return one_line(response.text)
    if isinstance(said, dict):
        error = said.get("error", said)
        said = error.get("message", error.get("detail", error)) if isinstance(error, dict) else error
    return one_line(said)


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds, where the service says how long to wait (a date is not worth the trouble)."""
    try:
        return max(0.0, float(response.headers["Retry-After"]))
    except (KeyError, ValueError):
        return None


def _wait(state: RetryCallState) -> float:
    error = state.outcome and state.outcome.exception()
    if isinstance(error, Again) and error.after is not None:
        return min(error.after, MAX_WAIT_S)
    return _backoff(state)


def _reason(error: BaseException) -> str:
    return one_line(error) or type(error).__name__
