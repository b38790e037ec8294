"""Publishing 500 MB of weights from a learner to two engines on one node: `.venv/bin/python -m benchmarks.transfer`.

Against one copy of the same bytes in memory per engine, one after the other, in one process. What publishing proves
(a checksum on both sides, log-probs of 4 tokens on both sides) is part of its time. One thread for each process;
medians of 7 rounds, after four in which the object store's memory is used for the first time. Then, how many bfloat16
values an update of the learning rates in use changes at all.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

from pipeline.algorithms import Sft
from pipeline.packing import plan
from workers.learner.engine_torch import TorchLearner
from workers.learner.team import LearnerTeam
from workers.models import ModelInit
from workers.models.create import create
from workers.ports import Engine
from workers.ray_actors import start_ray, stop_ray
from workers.rollout.pool import RolloutPool
from workers.rollout.renderer import Renderer
from workers.rollout.torch_engine import torch_engine
from workers.types import Optimization, Sample, Signals
from workers.weights.transport import ObjectStoreTransport

ROUNDS, WARM = 7, 4
SIZES = {
    "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 8, "num_attention_heads": 16,
    "num_key_value_heads": 8, "head_dim": 64, "tie_word_embeddings": True, "max_position_embeddings": 128,
}  # fmt: skip


def _learner(path: str) -> TorchLearner:
    return TorchLearner(path)


def _engine(path: str, renderer: Renderer) -> Engine:
    return torch_engine(path, renderer, 8)


async def publish(path: str) -> None:
    learner, pool = LearnerTeam(partial(_learner, path), 1.0, 600.0), RolloutPool(2, 1.0, 600.0)
    await asyncio.gather(learner.start(), pool.start())
    await pool.open(path, _engine)
    transport = ObjectStoreTransport(learner, pool)
    size = sum(file.stat().st_size for file in Path(path).glob("*.safetensors"))
    source, targets = np.ones(size // 8), [np.ones(size // 8) for _ in range(2)]
    published, copied = [], []
    for _ in range(ROUNDS + WARM):
        start = time.perf_counter()
        await transport.publish()
        published.append(time.perf_counter() - start)
        start = time.perf_counter()
        for target in targets:
            target[:] = source
        copied.append(time.perf_counter() - start)
    ours, theirs = statistics.median(published[WARM:]), statistics.median(copied[WARM:])
    print(
        f"publish {size / 1e6:.0f} MB to two engines: {ours * 1e3:.0f} ms, "
        f"copied in memory once per engine: {theirs * 1e3:.0f} ms, ratio {ours / theirs:.2f}",
        flush=True,
    )
    await pool.close()
    await learner.close()


def changed(path: str) -> None:
    """The share of published bfloat16 values that differ from the ones published before, over five updates."""
    rng = np.random.default_rng(0)
    for lr in (1e-6, 1e-5, 2e-4):
        learner = TorchLearner(path, "bfloat16")
        learner.begin(Optimization(100, lr=lr), Sft().losses, False)
        before, shares = learner.export().arrays, []
        for _ in range(5):
            ids = rng.integers(3, 15, (8, 32)).astype(np.int32)
            mask = np.arange(32) >= 4
            samples = [Sample(i, 0, row, mask, np.zeros(32, np.float32)) for i, row in enumerate(ids)]
            credits_, _ = Sft().credit(samples, [Signals()] * len(samples))
            learner.update(plan(credits_, 4096))
            now = learner.export().arrays
            shares.append(sum(int((now[n] != before[n]).sum()) for n in now) / sum(a.size for a in now.values()))
            before = now
        print(f"bfloat16 values changed by an update at lr {lr:g}: {', '.join(f'{s:.1%}' for s in shares)}", flush=True)


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        create(ModelInit("qwen3", SIZES), ["0123456789+-=,."], Path(folder), seed=0)
        start_ray(4)
        asyncio.run(publish(folder))
        stop_ray()
        changed(folder)


if __name__ == "__main__":
    main()
