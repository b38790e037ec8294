"""Chat models behind OpenAI-compatible endpoints, their answers kept on disk."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from rewards.declared import ChatModel, Reply, Unanswered
from rewards.types import Message
from workers.judging.http import Address, Http


class ChatClient:
    """Asks one `ChatModel`.

    address   where it is, for one that Assay serves
    tokens    read and written so far, cached answers aside; `cost` is their price, `hits` counts cached answers
    """

    def __init__(self, spec: ChatModel, address: Callable[[], Awaitable[Address]] | None = None) -> None:
        self._spec = spec
        self._http = Http(spec, address)
        self._cache = AnswerCache(spec.cache) if spec.cache else None
        self._name = spec.model
        self.tokens, self.cost, self.hits = 0, 0.0, 0

    async def ask(
        self,
        messages: Sequence[Message],
        max_tokens: int,
        temperature: float,
        sample: int,
        stop: Sequence[str],
        top: int,
    ) -> Reply:
        """See `Toolbox.chat`. The draw depends on the question and `sample` alone, where the endpoint heeds seeds."""
        question = {
            "model": self._name or await self._only_model(),
            "messages": [{"role": m.role, "content": m.content} for m in messages],
            "max_tokens": max_tokens,
            "temperature": temperature,
            **({"stop": list(stop)} if stop else {}),
            **({"logprobs": True, "top_logprobs": top} if top else {}),
        }
        digest = hashlib.sha256(json.dumps([question, sample], sort_keys=True).encode()).digest()
        where = self._spec.host or self._spec.url
        key = hashlib.sha256(where.encode() + b"\0" + digest).hexdigest()
        if self._cache and (kept := self._cache.get(key)) is not None:
            self.hits += 1
            return _reply(where, kept, 0.0, 0.0)
        if temperature:
            question["seed"] = int.from_bytes(digest[:4], "big") >> 1
        answer = await self._http.ask("/chat/completions", question)
        reply = _reply(where, answer, self._spec.price_in, self._spec.price_out)
        self.tokens, self.cost = self.tokens + reply.tokens, self.cost + reply.cost
        if self._cache:
            self._cache.put(key, answer)
        return reply

    async def close(self) -> None:
        """Close its connections and its cache."""
        await self._http.close()
        if self._cache:
            self._cache.close()

    async def _only_model(self) -> str:
        """The one model that the endpoint lists. Raises `Unanswered` where it lists several, or none."""
        listed = await self._http.ask("/models")
        names = [model.get("id") for model in listed.get("data", [])] if isinstance(listed, dict) else []
        if len(names) != 1:
            where = self._spec.host or self._spec.url
            found = ", ".join(map(str, names)) or "no model"
            raise Unanswered(f"{where}: serves {found}; say which with `model`")
        self._name = names[0]
        return self._name


class AnswerCache:
    """Answers by the digest of their question, in an SQLite file that several processes may share."""

    def __init__(self, path: str) -> None:
        """Raises `Unanswered` where the file can't be opened."""
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(path, timeout=30.0, isolation_level=None, check_same_thread=False)
            self._file.execute("PRAGMA journal_mode=WAL")
            self._file.execute("PRAGMA synchronous=OFF")  # losing an answer costs asking again
            self._file.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT)")
        except (OSError, sqlite3.Error) as error:
            raise Unanswered(f"cache {path!r} can't be opened: {error}") from None

    def get(self, key: str) -> Any:
        """The answer, or None."""
        row = self._file.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    def put(self, key: str, answer: Any) -> None:
        self._file.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (key, json.dumps(answer)))

    def close(self) -> None:
        self._file.close()


def _reply(where: str, answer: Any, price_in: float, price_out: float) -> Reply:
    """Of OpenAI's JSON. Raises `Unanswered` ("malformed") where it has no message."""
    try:
        choice = answer["choices"][0]
        text = choice["message"]["content"] or ""
        usage = answer.get("usage") or {}
        read, written = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
        tokens = (choice.get("logprobs") or {}).get("content") or []
        top = tuple(tuple((t["token"], float(t["logprob"])) for t in token["top_logprobs"]) for token in tokens)
        if not isinstance(text, str):
            raise TypeError("content is no text")
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        detail = f"{where}: no chat completion ({type(error).__name__}: {error}): {str(answer)[:80]}"
        raise Unanswered(detail, "malformed") from None
    cost = (read * price_in + written * price_out) / 1e6
    return Reply(text, read, written, cost, top, choice.get("finish_reason") == "length")
