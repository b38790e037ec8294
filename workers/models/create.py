"""Make a model from scratch: a Hugging Face directory that any tool of that world can load."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, GenerationConfig, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from rewards.errors import Refused, nearest
from workers.models import ModelInit
from workers.models.load import load_config, quiet, save_model
from workers.models.tokenizers import make_tokenizer, vocabulary_size

_FROM_TOKENIZER = {"vocab_size", "bos_token_id", "eos_token_id", "pad_token_id"}
# What a config class, a model's constructor and its first forward pass raise about sizes that don't fit.
_UNFIT = (StrictDataclassError, ValueError, TypeError, RuntimeError, ArithmeticError, LookupError, AttributeError)


def create(init: ModelInit, texts: Iterable[str], directory: Path, seed: int) -> None:
    """Write config, float32 weights, tokenizer and generation config; the same bytes for the same seed and texts.

    Raises `Refused`, before anything is written, where the config can't make a model or the texts a tokenizer.
    """
    config = _config(init)
    tokenizer = make_tokenizer(init.tokenizer, texts)
    config.vocab_size = len(tokenizer)
    config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    entropy = np.random.SeedSequence([seed, zlib.crc32(b"models.create")])
    with _fitting(config), torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(entropy.generate_state(1, np.uint64)[0] >> 1))
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        with torch.no_grad():  # some sizes that don't fit show only here
            first = model(input_ids=torch.tensor([[0, 1], [0, 2]]), use_cache=False).logits[:, 0]
    if not torch.allclose(first[0], first[1]):
        raise Refused(f"model.init.architecture: {init.architecture!r} sees later tokens, expected a causal decoder")
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    save_model(model, tokenizer, directory)


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """What memory is counted from.

    parameters  weights, tied ones once
    kv_width    numbers that one token's keys (or values) take in one layer; query_width, its queries
    positions   the longest sequence it was made for; None where it doesn't say
    """

    parameters: int
    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    kv_width: int
    positions: int | None
    query_width: int


def model_sizes(source: str | Path | ModelInit, texts: Iterable[str] = ()) -> ModelSizes:
    """How large a model is; no weight is read or made.

    `texts` are the run's own, for an init whose vocabulary is made of them. Raises `Refused` like `create`.
    """
    if isinstance(source, ModelInit):
        config = _config(source)
        config.vocab_size = vocabulary_size(source.tokenizer, texts)
    else:
        config = load_config(source)
    with _fitting(config), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    text: Any = config.get_text_config()
    heads = getattr(text, "num_attention_heads", 1)
    each = getattr(text, "head_dim", None) or text.hidden_size // heads
    return ModelSizes(
        sum(parameter.numel() for parameter in model.parameters()),
        text.vocab_size,
        text.hidden_size,
        getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        text.num_hidden_layers,
        (getattr(text, "num_key_value_heads", None) or heads) * each,
        getattr(text, "max_position_embeddings", None),
        heads * each,
    )


def _config(init: ModelInit) -> PreTrainedConfig:
    """The architecture's config with the overrides; its vocabulary is not set yet."""
    if init.architecture not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        close = get_close_matches(init.architecture, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, n=1)  # of 178 names
        hint = f"did you mean {close[0]!r}?" if close else "expected one such as qwen3, llama or gpt2"
        raise Refused(f"model.init.architecture: {init.architecture!r} is no decoder of transformers, {hint}")
    cls: Any = CONFIG_MAPPING[init.architecture]
    own = {name for name in cls.__dataclass_fields__ if name not in PreTrainedConfig.__dataclass_fields__}
    for key in init.config:
        if key in _FROM_TOKENIZER:
            raise Refused(f"model.init.config.{key}: comes from the tokenizer, expected no such key")
        if key not in own | set(cls.attribute_map):
            known = (own | set(cls.attribute_map)) - _FROM_TOKENIZER
            raise Refused(f"model.init.config.{key}: unknown for {init.architecture}, {nearest(key, known)}")
    try:
        return cls(**init.config, bos_token_id=None, eos_token_id=None, pad_token_id=None)
    except _UNFIT as error:
        raise Refused(f"model.init.config: {_one_line(error)}") from error


@contextmanager
def _fitting(config: PreTrainedConfig) -> Iterator[None]:
    try:
        with quiet():
            yield
    except _UNFIT as error:
        raise Refused(f"model.init.config: {config.model_type} can't be built with it ({_one_line(error)})") from error


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
