"""A judge that is small enough for a test: a model that knows by rote what to say to which question."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer

from workers.models import ModelInit, TokenizerInit
from workers.models.create import create

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,  # the least that vLLM's attention takes on a CPU
    "tie_word_embeddings": True,
    "max_position_embeddings": 4096,
}
UNASKED = -100


def make_judge(directory, lessons: Mapping[str, str], steps: int = 60) -> str:
    """A model directory, its path as a string: after each of the questions it writes that reply and ends."""
    texts = [*lessons, *lessons.values(), *(f" {reply}" for reply in lessons.values())]
    create(ModelInit("qwen3", SIZES, TokenizerInit("bpe", 600)), texts * 4, directory, 0)
    model = AutoModelForCausalLM.from_pretrained(directory).train()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    rows, labels = [], []
    for question, reply in lessons.items():
        asked, said = (tokenizer.encode(text, add_special_tokens=False) for text in (question, reply))
        said = [*said, tokenizer.eos_token_id]
        rows.append(torch.tensor(asked + said))
        labels.append(torch.tensor([UNASKED] * len(asked) + said))
    ids = pad_sequence(rows, batch_first=True)
    wanted = pad_sequence(labels, batch_first=True, padding_value=UNASKED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(steps):
        loss = model(input_ids=ids, labels=wanted, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 0.01:
            break
    assert loss.item() < 0.05, f"it has not learned its replies: {loss.item():.3f}"
    model.eval().save_pretrained(directory)
    return str(directory)
