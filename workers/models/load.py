"""Models and tokenizers from and to Hugging Face directories: quietly, safetensors only, no code from the hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from logging import CRITICAL
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from rewards.errors import Refused, nearest

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(path: str | Path, dtype: str = "float32", device: str | torch.device = "cpu") -> PreTrainedModel:
    """The decoder of a directory or hub name, in evaluation mode; `dtype` is float32, bfloat16 or float16.

    Raises `Refused` where there is none, it has no safetensors, or its weights are not the ones its config needs.
    """
    if dtype not in DTYPES:
        raise Refused(f"model dtype {dtype!r}: {nearest(dtype, DTYPES)}")
    with quiet(), refusing(path):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=DTYPES[dtype],
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    model, report = loaded
    # transformers would draw what is missing at random and only warn.
    wrong = sorted({*report["missing_keys"], *(str(key[0]) for key in report["mismatched_keys"])})
    if wrong:
        raise Refused(f"model {str(path)!r}: {len(wrong)} weights missing or of another shape, {wrong[0]} for one")
    return model.to(device).eval()


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """Raises `Refused` where there is none, or it has no end-of-sequence token."""
    with quiet(), refusing(path):
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    if tokenizer.eos_token_id is None:
        raise Refused(f"tokenizer {str(path)!r}: has no end-of-sequence token, expected one")
    return tokenizer


def load_config(path: str | Path) -> PreTrainedConfig:
    """The config alone. Raises `Refused` where there is none."""
    with quiet(), refusing(path):
        return AutoConfig.from_pretrained(path, trust_remote_code=False)


def load_stop_ids(path: str | Path) -> tuple[int, ...]:
    """The end-of-sequence ids of the model's generation config; none where it has no such file."""
    try:
        with quiet():
            ids = GenerationConfig.from_pretrained(path).eos_token_id
    except OSError:
        return ()
    return () if ids is None else tuple(ids) if isinstance(ids, list) else (ids,)


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: str | Path) -> None:
    """Write config, safetensors (tied weights once), generation config and tokenizer; makes the directory."""
    with quiet():
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)


def save_beside(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: str | Path) -> None:
    """All of `save_model` but the weights."""
    with quiet():
        model.config.save_pretrained(directory)
        if model.generation_config is not None:
            model.generation_config.save_pretrained(directory)
        tokenizer.save_pretrained(directory)


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings and no progress bars from transformers and the hub's client inside."""
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    hub = huggingface_hub.logging.get_verbosity()
    logging.set_verbosity(CRITICAL)
    logging.disable_progress_bar()
    huggingface_hub.logging.set_verbosity(CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(before)
        huggingface_hub.logging.set_verbosity(hub)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def refusing(path: str | Path) -> Iterator[None]:
    """Turn what transformers says about a directory it can't load into one line."""
    if _is_local(path) and not Path(path).is_dir():
        parent = Path(path).parent
        names = [entry.name for entry in parent.iterdir() if entry.is_dir()] if parent.is_dir() else []
        close = get_close_matches(Path(path).name, names, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "expected a directory or a hub name (owner/name)"
        raise Refused(f"model {str(path)!r}: no such directory, {hint}")
    try:
        yield
    except (OSError, ValueError, ImportError, LookupError, RuntimeError, SafetensorError) as error:
        detail = _first_line(error)
        raise Refused(f"model {str(path)!r}: can't be loaded ({detail})") from error


def _is_local(path: str | Path) -> bool:
    """A hub name is owner/name; everything else, and what exists here, is a directory."""
    text = str(path)
    return isinstance(path, Path) or Path(text).exists() or text.count("/") != 1 or text.startswith((".", "~", "/"))


def _first_line(error: BaseException) -> str:
    lines: Any = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:240] if lines else ''}"
