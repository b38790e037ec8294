"""How fast the torch hands are on one thread: a wave through the engine, an update of the learner, and its floor.

python benchmarks/hands.py [--profile]

Model: the quickstart's Qwen3 of 312,000 weights. Wave: 32 prompts of 6 tokens x 8 samples x 20 tokens. Update: 256
samples of about 25 tokens, 20 of them the policy's own. Floor: forward and backward of one such row of tokens through
transformers' own sdpa attention without any border between the sequences, the plain cross-entropy on all of them.
Times are medians of 15 runs, in milliseconds.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from pipeline.algorithms import Grpo
from pipeline.packing import plan
from workers.learner.engine_torch import TorchLearner
from workers.models import ModelInit
from workers.models.create import create
from workers.models.load import load_model
from workers.rollout.renderer import Renderer
from workers.rollout.torch_engine import torch_engine
from workers.types import Optimization, Prompt, Sample, Sampling, Signals

SIZES = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "tie_word_embeddings": True,
    "max_position_embeddings": 128,
}
RUNS = 15


def median(work: Callable[[], object]) -> float:
    work()
    seconds = []
    for _ in range(RUNS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds) * 1e3


def samples(rng: np.random.Generator, low: int, high: int) -> list[Sample]:
    out = []
    for i in range(256):
        own = int(rng.integers(low, high + 1))
        ids = rng.integers(3, 15, 6 + own).astype(np.int32)
        mask = np.arange(6 + own) >= 6
        logp = np.where(mask, -2.5, 0).astype(np.float32)
        out.append(Sample(i // 8, i % 8, ids, mask, logp, reward=float(rng.random() < 0.5)))
    return out


def floor(path: str, tokens: int, length: int) -> Callable[[], object]:
    """The same number of tokens in rows of equal length: no padding, no gathering, no metrics, no optimizer."""
    model = load_model(path)
    ids = torch.randint(3, 15, (tokens // length, length))

    def work() -> None:
        model.zero_grad(set_to_none=True)
        logits = model(ids, use_cache=False).logits
        torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()

    return work


def engine_wave(path: str, limits: list[int], n: int, max_rows: int, stop: tuple[str, ...] = ()) -> tuple[float, int]:
    """Milliseconds, and tokens drawn. End of sequence is no stop here, so that every run draws the same number."""
    renderer = Renderer.load(path)
    renderer.stop_ids = ()
    engine = torch_engine(path, renderer, max_rows)
    rng = np.random.default_rng(0)
    prompts = [
        Prompt(i, rng.integers(3, 15, 6).astype(np.int32), n, Sampling(limit, stop=stop))
        for i, limit in enumerate(limits)
    ]

    async def wave() -> int:
        tokens = 0
        async for lot in engine.generate(prompts):
            tokens += sum(len(completion.ids) for _, done in lot for completion in done)
        return tokens

    tokens = asyncio.run(wave())
    return median(lambda: asyncio.run(wave())), tokens


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--profile", action="store_true", help="also print where the learner's time goes")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        create(ModelInit("qwen3", SIZES), ["0123456789+-=,."], Path(folder), seed=0)
        learner = TorchLearner(folder)
        learner.begin(Optimization(10**6, lr=1e-9), Grpo().losses, False)
        for name, low, high in (("alike (20 own tokens)", 20, 20), ("ragged (4 to 34 own tokens)", 4, 34)):
            drawn = samples(rng, low, high)
            credits_, _ = Grpo().credit(drawn, [Signals()] * len(drawn))
            tokens = sum(len(c.sample.ids) for c in credits_)
            made = plan(credits_, 16384)
            print(
                f"learner, {name}: update {median(lambda made=made: learner.update(made)):.1f}, "
                f"packing {median(lambda c=credits_: plan(c, 16384)):.1f}, "
                f"floor {median(floor(folder, tokens, 26)):.1f}; {len(credits_)} samples, {tokens} tokens"
            )
        if arguments.profile:
            with torch.profiler.profile() as seen:
                learner.update(made)
            print(seen.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=50))
        for name, limits, n, rows, stop in (
            ("32 x 8, 20 tokens each", [20] * 32, 8, 256, ()),
            ("32 x 8, 20 tokens each, a stop string", [20] * 32, 8, 256, ("==-==",)),
            ("512 x 1, 4 to 36 tokens, 256 rows", rng.integers(4, 37, 512).tolist(), 1, 256, ()),
            ("128 x 8, 4 to 36 tokens, 64 rows", rng.integers(4, 37, 128).tolist(), 8, 64, ()),
        ):
            ms, tokens = engine_wave(folder, limits, n, rows, stop)
            print(f"engine, {name}: {ms:.1f} for {tokens} tokens, {tokens / ms:.1f}k tokens/s")


if __name__ == "__main__":
    main()
