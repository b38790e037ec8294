"""Tokens per second of a scalar reward model behind a panel, against a bare batched forward: `.venv/bin/python -m
benchmarks.reward_model` (one thread, about a minute).

The panel's side is all there is to it: groups of 8 judged at once, each rendered and cut into tokens, batched, read and
scored. The bare side is transformers' sequence classifier on the same ids, cut ahead of time, in padded batches of as
many tokens, sorted by length. Both in turns, so that a noisy neighbour hits both; medians. Both in a process that keeps
its memory, as the processes that judge do (`workers.ray_actors`).
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification

from rewards.declared import Passage, ScalarModel
from rewards.panel import Panel, Seat
from rewards.sources.scalar import Scalar
from rewards.types import Group, Message, Task
from workers.judging.live import LiveToolbox
from workers.judging.scalar_model import ScalarJudge
from workers.models import ModelInit
from workers.models.create import create
from workers.models.load import load_model, load_tokenizer, save_model
from workers.models.scalar import on_trunk
from workers.ray_actors import KEEP_MEMORY

GROUPS, GROUP_SIZE, ROUNDS, BATCH_TOKENS = 24, 8, 5, 4096
ALPHABET = "?0123456789+-*/=., abcdefghijklmnopqrstuvwxyz"
SIZES = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "max_position_embeddings": 1024,
}


def made(folder: Path) -> str:
    """A reward model of 3 million weights."""
    create(ModelInit("qwen3", SIZES), [ALPHABET], folder / "base", 0)
    save_model(on_trunk(load_model(folder / "base")), load_tokenizer(folder / "base"), folder / "rm")
    return str(folder / "rm")


def groups(rng: np.random.Generator, low: int, high: int) -> list[Group]:
    """Of answers between so many letters."""
    out = []
    for i in range(GROUPS):
        lengths = rng.integers(low, high + 1, GROUP_SIZE)
        texts = ["".join(rng.choice(list(ALPHABET), int(n))) for n in lengths]
        out.append(Group.written(i, Task(str(i), (Message("user", "how much is it?"),)), texts))
    return out


async def paneled(panel: Panel, tools: LiveToolbox, asked: list[Group]) -> float:
    start = time.perf_counter()
    await asyncio.gather(*(panel.judge(group, tools) for group in asked))
    return time.perf_counter() - start


@torch.inference_mode()
def bare(model: Any, ids: list[np.ndarray]) -> float:
    start = time.perf_counter()
    rest = sorted(ids, key=len, reverse=True)
    while rest:
        take = max(1, BATCH_TOKENS // len(rest[0]))
        rows, rest = rest[:take], rest[take:]
        padded, mask = torch.zeros(len(rows), len(rows[0]), dtype=torch.long), torch.zeros(len(rows), len(rows[0]))
        for i, row in enumerate(rows):
            padded[i, : len(row)], mask[i, : len(row)] = torch.from_numpy(row), 1
        model(input_ids=padded, attention_mask=mask).logits.numpy()
    return time.perf_counter() - start


async def compared(path: str, low: int, high: int) -> None:
    spec = ScalarModel(path, batch_tokens=BATCH_TOKENS)
    panel, tools = Panel((Seat("rm", Scalar(spec), timeout_s=600.0),)), LiveToolbox(1)
    asked = groups(np.random.default_rng(0), low, high)
    judge: Any = ScalarJudge(spec)
    shown = [(*g.task.messages, Message("assistant", r.text)) for g in asked for r in g.rollouts]
    ids = [judge.encode(Passage(messages))[0] for messages in shown]
    model = AutoModelForSequenceClassification.from_pretrained(path, attn_implementation="sdpa").eval()
    model.config.pad_token_id = 0
    await tools.warm(panel)
    await paneled(panel, tools, asked[:8])
    bare(model, ids[:64])
    tokens = sum(map(len, ids))
    rounds = [(await paneled(panel, tools, asked), bare(model, ids)) for _ in range(ROUNDS)]
    ours, theirs = (tokens / statistics.median(side) for side in zip(*rounds, strict=True))
    ratio = statistics.median(other / own for own, other in rounds)
    print(f"{low} to {high} letters: {ours:,.0f} tokens/s through the panel, {theirs:,.0f} bare, ratio {ratio:.2f}")


def main() -> None:
    if not KEEP_MEMORY.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.reward_model"], {**os.environ, **KEEP_MEMORY})
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = made(Path(folder))
        for low, high in ((100, 100), (10, 200)):
            asyncio.run(compared(path, low, high))


if __name__ == "__main__":
    main()
