"""Models and their tokenizers: made from scratch, loaded, saved. What a config says about them stands here, light."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Gt


@dataclass(frozen=True)
class TokenizerInit:
    """A tokenizer made from the run's own texts.

    kind        chars: one token per character; bpe: byte-level pairs, which can write any text
    vocab_size  tokens of a bpe vocabulary, the 256 bytes and the special ones included
    """

    kind: Literal["chars", "bpe"] = "chars"
    vocab_size: Annotated[int, Gt(0)] = 1024


@dataclass(frozen=True)
class ModelInit:
    """A model made from scratch.

    architecture  a decoder's `model_type` in transformers
    config        its config where it differs from the architecture's defaults (hidden_size, num_hidden_layers ...);
                  vocabulary size and special tokens come from the tokenizer
    tokenizer     what the texts are cut into
    """

    architecture: str = "qwen3"
    config: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: TokenizerInit = field(default_factory=TokenizerInit)


@dataclass(frozen=True)
class Lora:
    """Adapters that learn in the policy's place.

    rank     of each: numbers per row and column of its matrix
    alpha    its weight is alpha / rank
    targets  names of the layers that get one (q_proj ...); default: every linear one but the vocabulary's
    """

    rank: Annotated[int, Gt(0)] = 16
    alpha: Annotated[float, Gt(0)] = 32.0
    targets: tuple[str, ...] = ()
