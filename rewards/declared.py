"""What a source may declare that it uses: frozen plain values, from which the process that hosts the panel makes the
live things (`rewards.ports.Toolbox`). Equal declarations share one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt

from rewards.types import Message


class Unanswered(RuntimeError):
    """Something a source used gave no answer, and why. `kind` is the kind of the `Failure` that it becomes."""

    def __init__(self, detail: str, kind: str = "error"):
        super().__init__(detail)
        self.kind = kind

    def __reduce__(self) -> tuple[Any, ...]:
        return Unanswered, (str(self), self.kind)


@dataclass(frozen=True)
class Service:
    """An HTTP service.

    url          its address
    key_env      environment variable that holds its token; without one none is sent
    ca_file      certificates to trust in place of the system's
    concurrency  requests of one judge process in flight
    retries      how often a request is repeated that was turned away for load, or not answered
    request_s    seconds one request may take
    """

    url: str = ""
    key_env: str = ""
    ca_file: str = ""
    concurrency: Annotated[int, Gt(0)] = 16
    retries: Annotated[int, Ge(0)] = 4
    request_s: Annotated[float, Gt(0)] = 30.0


@dataclass(frozen=True)
class ChatModel(Service):
    """A model behind an OpenAI-compatible endpoint: one that runs already (`url`, as in http://host:8000/v1), or one
    that Assay serves for the length of the run (`host`).

    model       its name there; default: the only one that the endpoint lists
    host        directory or hub name of a model to be served by vLLM
    serve_args  further arguments of `vllm serve`
    cpus, gpus  of the process that serves it
    cache       file that keeps answers, so that an equal question is not paid for twice
    price_in    money for a million tokens read
    price_out   money for a million tokens written
    """

    model: str = ""
    host: str = ""
    serve_args: tuple[str, ...] = ()
    cpus: Annotated[float, Gt(0)] = 1.0
    gpus: Annotated[int, Ge(0)] = 0
    cache: str = ""
    price_in: Annotated[float, Ge(0)] = 0.0
    price_out: Annotated[float, Ge(0)] = 0.0

    def __post_init__(self) -> None:
        """Raises `ValueError` where it names no endpoint, or two."""
        if bool(self.url) == bool(self.host):
            raise ValueError(f"{'both' if self.url else 'neither'} of `url` and `host` given, expected one")


@dataclass(frozen=True)
class ScalarModel:
    """A model with a head of numbers: transformers' sequence or token classification, with its own tokenizer and chat
    template.

    path          directory or hub name
    labels        how many numbers its head must give
    dtype         number format of its weights
    batch_tokens  tokens computed at once
    cpus, gpus    of its own process; 0 CPUs: it lives in each judge process
    """

    path: str
    labels: Annotated[int, Gt(0)] = 1
    dtype: Literal["float32", "bfloat16"] = "float32"
    batch_tokens: Annotated[int, Gt(0)] = 16384
    cpus: Annotated[float, Ge(0)] = 0.0
    gpus: Annotated[int, Ge(0)] = 0


@dataclass(frozen=True)
class Corpus:
    """Passages to search, by Okapi BM25.

    path  a text file of one passage a line, or JSONL with `text` (and, if it has one, `title`)
    """

    path: str


@dataclass(frozen=True, slots=True)
class Passage:
    """What a scalar model reads.

    messages  a conversation; its last message is what is judged
    text      in place of a conversation: text as it stands
    marks     places in the last message (or the text) after whose characters numbers are wanted; none: at the end of
              all
    """

    messages: tuple[Message, ...] = ()
    text: str = ""
    marks: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    """A chat model's answer.

    top   for each token written, the likeliest ones there with their log-probs, where they were asked for
    cut   the token limit ended it
    cost  money; 0 where it came from the cache
    """

    text: str
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    top: tuple[tuple[tuple[str, float], ...], ...] = ()
    cut: bool = False

    @property
    def tokens(self) -> int:
        """Read and written."""
        return self.tokens_in + self.tokens_out


def declared(source: Any) -> Iterator[Any]:
    """Everything that a source declares to use, at whatever depth of its fields."""
    if isinstance(source, Service | ScalarModel | Corpus):
        yield source
    elif is_dataclass(source):
        for field in fields(source):
            yield from declared(getattr(source, field.name))
    elif isinstance(source, Sequence) and not isinstance(source, str):
        for item in source:
            yield from declared(item)
