"""The learner on a GPU beside the matrix product's own rate and TRL's update: `python -m benchmarks.gpu.learner`.

bfloat16, 8,192 packed tokens, Qwen3 shapes of 0.5 and 1.5 billion weights, drawn at random. MFU is 6 x weights x tokens
(and 12 x layers x hidden x length per token for attention, half of it by causality) over the seconds of an update,
against what a product of 8,192-square bfloat16 matrices reaches in the same run. Says so, and does nothing else, where
there is no GPU. Not run so far.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.algorithms import Grpo
from pipeline.packing import plan
from workers.learner.engine_torch import TorchLearner
from workers.models import ModelInit
from workers.models.create import create
from workers.types import Optimization, Plan, Sample, Signals

TOKENS, ROUNDS, VOCABULARY = 8192, 10, 151_936
SHAPES = {
    "0.5B": {
        "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
        "num_key_value_heads": 2, "head_dim": 64, "tie_word_embeddings": True, "max_position_embeddings": 8192,
    },
    "1.5B": {
        "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
        "num_key_value_heads": 2, "head_dim": 128, "tie_word_embeddings": True, "max_position_embeddings": 8192,
    },
}  # fmt: skip


def made(folder: Path, shape: str) -> str:
    """A model directory of that shape; its vocabulary is as large as Qwen's, by characters that nobody needs."""
    letters = [chr(c) for c in range(0x100, 0x100 + VOCABULARY + 3000) if not 0xD800 <= c < 0xE000]
    create(ModelInit("qwen3", SHAPES[shape]), ["".join(letters[: VOCABULARY - 3])], folder, seed=0)
    return str(folder)


def work(rng: np.random.Generator, tokens: int, count: int) -> tuple[list[Sample], Plan]:
    """`count` samples of as many tokens in all, a quarter of each a prompt, and their update."""
    samples = []
    for i in range(count):
        ids = rng.integers(3, 20_000, tokens // count).astype(np.int32)
        mask = np.arange(len(ids)) >= len(ids) // 4
        logp = np.where(mask, -11.9, 0).astype(np.float32)
        samples.append(Sample(i // 8, i % 8, ids, mask, logp, float(i % 2)))
    return samples, plan(Grpo().credit(samples, [Signals()] * count)[0], tokens)


def seconds(step: Callable[[], object]) -> float:
    """Median, after two that are not counted."""
    found = []
    for _ in range(ROUNDS + 2):
        torch.cuda.synchronize()
        start = time.perf_counter()
        step()
        torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return statistics.median(found[2:])


def product_rate() -> float:
    """FLOP/s of a bfloat16 matrix product."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * 8192**3 / seconds(lambda: a @ b)


def trl_update(path: str, samples: list[Sample]) -> Callable[[], object]:
    """As `benchmarks.learner` has it, on the device and in bfloat16."""
    import datasets
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    knobs = GRPOConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=len(samples), num_generations=8, beta=0.0, bf16=True,
        gradient_checkpointing=True, report_to="none", loss_type="bnpo", save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    data = datasets.Dataset.from_dict({"prompt": ["1"] * len(samples)})
    trainer: Any = GRPOTrainer(path, lambda completions, **_: [0.0] * len(completions), knobs, data)
    trainer.current_gradient_accumulation_steps = 1
    model = trainer.model.cuda().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-9, fused=True)
    ids = torch.from_numpy(np.stack([s.ids for s in samples]).astype(np.int64)).cuda()
    start = int((~samples[0].mask).sum())
    prompt, answer = ids[:, :start], ids[:, start:]
    inputs = {
        "prompt_ids": prompt, "prompt_mask": torch.ones_like(prompt), "completion_ids": answer,
        "completion_mask": torch.ones_like(answer), "advantages": torch.ones(len(samples), device="cuda"),
        "old_per_token_logps": torch.full(answer.shape, -11.9, device="cuda"),
    }  # fmt: skip

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16):
            loss = trainer._compute_loss(model, inputs)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def main() -> None:
    if not torch.cuda.is_available():
        print("no CUDA device here: nothing was measured")
        return
    rate = product_rate()
    print(f"{torch.cuda.get_device_name()}: a bfloat16 matrix product reaches {rate / 1e12:.0f} TFLOP/s", flush=True)
    for shape, config in SHAPES.items():
        with tempfile.TemporaryDirectory() as folder:
            path = made(Path(folder), shape)
            samples, update = work(np.random.default_rng(0), TOKENS, 16)
            learner = TorchLearner(path, "bfloat16", "cuda", gradient_checkpointing=True)
            learner.begin(Optimization(10**6, lr=1e-9), Grpo().losses, False)
            torch.cuda.reset_peak_memory_stats()
            ours = seconds(lambda learner=learner, update=update: learner.update(update))
            memory = torch.cuda.max_memory_allocated()
            weights = sum(p.numel() for p in learner.policy.parameters())
            length = len(samples[0].ids)
            attention = 6 * int(config["num_hidden_layers"]) * int(config["hidden_size"]) * length
            flops = (6 * weights + attention) * TOKENS
            del learner
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            theirs = seconds(trl_update(path, samples))
            print(
                f"{shape}: {TOKENS / ours:,.0f} tokens/s, {flops / ours / rate:.2f} of the product's rate, "
                f"{memory / 1e9:.1f} GB; TRL {TOKENS / theirs:,.0f} tokens/s, "
                f"{torch.cuda.max_memory_allocated() / 1e9:.1f} GB, ratio {theirs / ours:.2f}",
                flush=True,
            )
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
