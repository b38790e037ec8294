"""The lean decoders against transformers on every sequence alone."""

from __future__ import annotations

import pytest
import torch
from tiny import fresh, prompts, to_arrays
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from workers.models import decoder as room
from workers.models.attention import Packed, Slots, adopt
from workers.models.decoder import LEAN, Lean, decoder
from workers.weights.arrays import load_arrays, take_arrays

SMALL = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 30,
    "num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.2, "sliding_window": None,
    "pad_token_id": None, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
# What the four kinds differ in: biases, norms of queries and keys, tied weights, scaled rotary angles.
EXTRA = {
    "qwen3": {"tie_word_embeddings": True},
    "llama": {
        "attention_bias": True,
        "mlp_bias": True,
        "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    },
}  # fmt: skip


@pytest.fixture(params=LEAN)
def pair(request):
    """The model as transformers runs it, and a lean decoder of a copy."""
    cls = CONFIG_MAPPING[request.param]
    known = set(cls.__dataclass_fields__) | set(cls.attribute_map)
    sizes = {key: value for key, value in (SMALL | EXTRA.get(request.param, {})).items() if key in known}
    truth = AutoModelForCausalLM.from_config(cls(**sizes)).eval()
    with torch.no_grad():
        for name, parameter in truth.named_parameters():
            if name.endswith("bias"):  # transformers starts them at 0
                parameter.normal_(0, 0.2)
    model = AutoModelForCausalLM.from_config(cls(**sizes)).eval()
    model.load_state_dict(truth.state_dict())
    return truth, adopt(model)


@torch.no_grad()
def check(truth, decode):
    rng = fresh()
    sequences = [torch.from_numpy(row).long() for row in prompts(rng, 5, 1, 25)]
    more = torch.from_numpy(rng.integers(3, 24, (5, 6)))
    lengths = torch.tensor([len(row) for row in sequences])
    attend = Packed(lengths, keep=True)
    position = torch.cat([torch.arange(n) for n in lengths.tolist()])
    logits = decode(torch.cat(sequences)[None], position[None], attend, torch.arange(len(position)))
    whole = [truth(torch.cat(row)[None]).logits[0] for row in zip(sequences, more, strict=True)]
    first = [table[:n] for table, n in zip(whole, lengths.tolist(), strict=True)]
    torch.testing.assert_close(logits, torch.cat(first), atol=2e-5, rtol=1e-5)
    slots = Slots.from_prefill([attend], lengths, int(lengths.max()) + 6, torch.arange(5))
    for i in range(6):
        slots.begin()
        logits = decode(more[:, i, None], slots.lengths[:, None], slots, None)
        slots.advance(torch.ones(5, dtype=torch.bool))
        expected = torch.stack([table[n + i] for table, n in zip(whole, lengths.tolist(), strict=True)])
        torch.testing.assert_close(logits, expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("small", [0, 10**6])
def test_a_lean_decoder_says_what_transformers_says(pair, small, monkeypatch):
    monkeypatch.setattr(room, "SMALL", small)
    truth, model = pair
    decode = decoder(model)
    assert isinstance(decode, Lean) and decode.joined == bool(small)
    check(truth, decode)


@pytest.mark.parametrize(("small", "load"), [(0, take_arrays), (10**6, load_arrays)])
@torch.no_grad()
def test_weights_loaded_into_the_model_are_the_decoders(pair, small, load, monkeypatch):
    monkeypatch.setattr(room, "SMALL", small)
    truth, model = pair
    decode = decoder(model)
    for parameter in truth.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.1)
    load(model, to_arrays(truth, torch.float32))
    check(truth, decode)
