"""Memory that `assay check` predicts, beside what is measured: `.venv/bin/python -m benchmarks.sizing`.

For CPU models of three sizes: the learner through two updates of a full micro-batch of demonstrations, and the torch
engine through a full batch of rows; each in a process of its own. Measured is by how much its resident memory grows at
most, after a much smaller model has done the same: what libraries load and set up then is not counted.
"""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable

import numpy as np
import psutil
import torch

from pipeline.algorithms import Sft
from pipeline.check import check
from pipeline.config import parse_config
from pipeline.packing import plan
from pipeline.rundir import size
from workers.learner.engine_torch import TorchLearner
from workers.models import ModelInit
from workers.models.create import create
from workers.rollout.renderer import Renderer
from workers.rollout.torch_engine import torch_engine
from workers.types import Credit, Optimization, Prompt, Sample, Sampling, Signals

# hidden size and layers: 5, 20 and 60 million weights
SIZES = {"none": (64, 1), "small": (256, 6), "middle": (512, 6), "large": (768, 8)}
ROWS, NEW, SEQUENCES, TOKENS = 64, 96, 32, 110


def config(name: str):
    hidden, layers = SIZES[name]
    model = {
        "hidden_size": hidden, "intermediate_size": 4 * hidden, "num_hidden_layers": layers,
        "num_attention_heads": hidden // 64, "num_key_value_heads": hidden // 64, "head_dim": 64,
        "tie_word_embeddings": True, "max_position_embeddings": 256,
    }  # fmt: skip
    data = {
        "model": {"init": {"config": model}},
        "data": {"kind": "arithmetic", "train": 64, "held_out": ROWS},
        "rollout": {"max_new_tokens": NEW, "max_rows": ROWS},
        "rewards": {"sources": {"exact": {"kind": "exact", "after": "."}}},
        "tracking": {"mlflow": False},
        "stages": {
            "sft": {
                "kind": "sft",
                "steps": 2,
                "groups_per_step": 4 * SEQUENCES,
                "learner": {"micro_batch_tokens": 2048},
            },
            "after": {"kind": "evaluate"},
        },
    }
    return parse_config(data, name)


def learner(path: str, checked) -> None:
    engine = TorchLearner(path)
    engine.begin(Optimization(10), Sft().losses, False)
    tokens = checked.config.stages["sft"].learner.micro_batch_tokens
    each = 32
    ids = np.random.default_rng(0).integers(3, 12, (tokens // each, each)).astype(np.int32)
    own = 24  # of 32, about what arithmetic's demonstrations have
    mask, ones = np.arange(each) >= each - own, np.ones(own, np.float32)
    samples = [Sample(i, 0, row, mask, np.zeros(each, np.float32)) for i, row in enumerate(ids)]
    work = plan([Credit(sample, Signals(), ones, ones, 1.0) for sample in samples], tokens)
    for _ in range(2):
        engine.update(work)


def rollout(path: str, checked) -> None:
    engine = torch_engine(path, Renderer.load(path), ROWS, "float32", "cpu", "keep")
    rng = np.random.default_rng(0)
    prompts = [Prompt(i, rng.integers(3, 12, 6).astype(np.int32), 1, Sampling(NEW, seed=1)) for i in range(ROWS)]

    async def all_of_them() -> None:
        async for _ in engine.generate(prompts):
            pass
        await engine.close()

    asyncio.run(all_of_them())


def grown(work: Callable[[], None]) -> int:
    """Bytes by which resident memory grows at most while it works."""
    gc.collect()
    process, done, peak = psutil.Process(), threading.Event(), 0
    before = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, process.memory_info().rss)
            time.sleep(0.002)

    thread = threading.Thread(target=watch)
    thread.start()
    work()
    done.set()
    thread.join()
    return peak - before


def one(name: str, role: str) -> None:
    torch.set_num_threads(1)
    work = {"learner": learner, "rollout": rollout}[role]
    checked = check(config(name))
    need = getattr(checked.needs, role)
    with tempfile.TemporaryDirectory() as folder:
        for each in ("none", name):
            init: ModelInit = config(each).model.init.build()
            create(init, ["0123456789+-=,. "], f"{folder}/{each}", 0)
        work(f"{folder}/none", checked)
        measured = grown(lambda: work(f"{folder}/{name}", checked))
    predicted = need.held + need.work
    print(
        f"{name} {role} {checked.parameters:,} weights: predicted {size(predicted)}, measured {size(measured)}, "
        f"ratio {predicted / measured:.3f}",
        flush=True,
    )


if __name__ == "__main__":
    if sys.argv[1:]:
        one(sys.argv[1], sys.argv[2])
    else:
        for name in list(SIZES)[1:]:
            for role in ("learner", "rollout"):
                subprocess.run([sys.executable, "-m", "benchmarks.sizing", name, role], check=True)
