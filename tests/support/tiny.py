"""Small models with sharp distributions, what transformers makes of them, and fresh random inputs."""

from __future__ import annotations

import secrets
from pathlib import Path

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from workers.learner.engine_torch import TorchLearner
from workers.learner.sharding import named_tensors
from workers.models import ModelInit, TokenizerInit
from workers.models.create import create
from workers.weights.arrays import arrays_of

torch.set_num_threads(1)

ALPHABET = "0123456789+-=,. abcdefgh"
# Wide initial weights: with the usual ones every distribution is nearly uniform, and mistakes hide.
SIZES = {
    "qwen3": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "tie_word_embeddings": True,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
    },
    "llama": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
    },
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512, "initializer_range": 0.2},
}


def fresh() -> np.random.Generator:
    """New random inputs for every run of a test; pytest shows the seed where it fails."""
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    return np.random.default_rng(seed)


def make(directory, architecture="qwen3", seed=0, tokenizer="chars", **config):
    """A model directory; its path as a string."""
    texts = [ALPHABET, "the answer is a bad cab — é\n" * 9]
    create(ModelInit(architecture, SIZES[architecture] | config, TokenizerInit(tokenizer, 300)), texts, directory, seed)
    return str(directory)


def reference(path, dtype=torch.float64):
    """The same model as transformers runs it, with its own attention."""
    model = AutoModelForCausalLM.from_pretrained(path, attn_implementation="sdpa", dtype=dtype)
    return model.eval()


def logprobs_alone(model, ids, temperature=1.0):
    """f[len(ids) - 1, V]: what the model says of every next token, the sequence on its own in a batch of one."""
    ids = torch.as_tensor(np.asarray(ids, np.int64))
    logits = model(ids[None], use_cache=False).logits[0, :-1]
    return (logits / temperature).log_softmax(-1)


def prompts(rng, count, low=1, high=30, vocabulary=20):
    """Ragged token ids, i32[low to high] each."""
    return [rng.integers(3, vocabulary, int(rng.integers(low, high + 1))).astype(np.int32) for _ in range(count)]


def make_scalar(directory, kind="sequence", labels=1, architecture="qwen3", template=None, **config):
    """A classifier as the hub has them, with a random head; `kind` is sequence or token. Its path as a string."""
    base = make(Path(directory) / "base", architecture, **config)
    cls = {"sequence": AutoModelForSequenceClassification, "token": AutoModelForTokenClassification}[kind]
    model = cls.from_pretrained(base, num_labels=labels)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = template
    torch.manual_seed(labels)
    torch.nn.init.normal_(model.score.weight)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(Path(directory) / "scalar")
    tokenizer.save_pretrained(Path(directory) / "scalar")
    return str(Path(directory) / "scalar")


def to_arrays(model, dtype):
    """A model's weights as the learner publishes them."""
    return arrays_of(((name, tensor.detach()) for name, tensor in named_tensors(model)), dtype)


def published(path, version):
    """A model's weights as `Published`, and the learner's `Proof` of them."""
    learner = TorchLearner(path)
    learner.version = version
    return learner.export(), learner.proof()
