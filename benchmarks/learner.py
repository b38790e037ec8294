"""The learner: memory of its logits, tokens/s beside bare torch and TRL, two ranks beside one: `python -m
benchmarks.learner [logits | floor | trl | ranks]`, all of them without an argument. Each in a process of its own.

logits  peak memory of log-probs, entropies and their gradients, T = 8,192 tokens, V = 151,936, hidden 1,024, beyond
        what stood there before: in chunks, and from all logits at once. The latter takes 20 GB; where fewer are free it
        is taken at T = 512 and 1,024 and drawn out in a straight line, and says so
floor   packed tokens/s, at the quickstart's lengths and at others, against forward and backward of as many tokens in
        rows of equal length, without borders, metrics or optimizer (`benchmarks.hands`)
trl     one thread, one GRPO update on 64 of GSM8K's solutions: packed, and as TRL's `GRPOTrainer` computes it, padded
        (its own loss, then clipping and AdamW, as Assay's); needs ASSAY_DATA
ranks   tokens/s of one rank on one core, and of two ranks on two, in the processes that a run has; also on GSM8K

Medians of 9 rounds, both sides in turns.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from benchmarks.hands import SIZES, floor, samples
from pipeline.algorithms import Grpo
from pipeline.packing import plan
from workers.learner.engine_torch import TorchLearner
from workers.learner.head import drawn_logprobs
from workers.learner.team import LearnerTeam
from workers.models import ModelInit, TokenizerInit
from workers.models.create import create
from workers.models.load import load_tokenizer
from workers.ray_actors import start_ray, stop_ray
from workers.types import Optimization, Sample, Signals

ROUNDS = 9
T, V, HIDDEN = 8192, 151_936, 1024
NAIVE_BYTES = 22e9


def naive(hidden: Any, weight: Any, ids: Any) -> Any:
    logp = torch.nn.functional.linear(hidden, weight).log_softmax(-1)
    with torch.no_grad():
        entropy = -(logp.exp() * logp).sum(-1)
    return logp.gather(1, ids[:, None])[:, 0], entropy


def peak(side: str, tokens: int) -> float:
    """Bytes, in this process."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(tokens, HIDDEN).requires_grad_(), (torch.randn(V, HIDDEN) * 0.02).requires_grad_()
    ids = torch.randint(V, (tokens,))
    for rows in (8, tokens):  # the first time is for the libraries' own memory
        before = psutil.Process().memory_info().rss
        if side == "chunked":
            logp, _ = drawn_logprobs(hidden[:rows], weight, None, ids[:rows], 1.0)
        else:
            logp, _ = naive(hidden[:rows], weight, ids[:rows])
        logp.sum().backward()
        if rows != tokens:
            hidden.grad = weight.grad = None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before


def _peak_of(side: str, tokens: int) -> float:
    command = [sys.executable, "-m", "benchmarks.learner", "peak", side, str(tokens)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def logits() -> None:
    start = time.perf_counter()
    chunked, seconds = _peak_of("chunked", T), time.perf_counter() - start
    if psutil.virtual_memory().available > NAIVE_BYTES:
        whole, how = _peak_of("naive", T), "measured"
    else:
        half, one = _peak_of("naive", 512), _peak_of("naive", 1024)
        whole, how = one + (one - half) * (T - 1024) / 512, f"{half / 1e9:.2f} GB at 512, {one / 1e9:.2f} GB at 1,024"
    print(
        f"logits of {T:,} tokens x {V:,}: chunked {chunked / 1e9:.2f} GB ({seconds:.0f} s), all at once "
        f"{whole / 1e9:.2f} GB ({how}), a share of {chunked / whole:.3f} (1/8 is 0.125)",
        flush=True,
    )


def medians(*sides: Callable[[], float]) -> list[float]:
    """Seconds of each side, taken in turns; the first round is not counted."""
    rounds = [[side() for side in sides] for _ in range(ROUNDS + 1)][1:]
    return [statistics.median(side) for side in zip(*rounds, strict=True)]


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def bare() -> None:
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        create(ModelInit("qwen3", SIZES), ["0123456789+-=,."], Path(folder), seed=0)
        learner = _begun(folder)
        for name, low, high in (
            ("22 to 26 tokens, the quickstart's", 16, 20),
            ("26 tokens each", 20, 20),
            ("10 to 40 tokens", 4, 34),
        ):
            drawn = samples(rng, low, high)
            credits_, _ = Grpo().credit(drawn, [Signals()] * len(drawn))
            tokens = sum(len(c.sample.ids) for c in credits_)
            ours, theirs = medians(
                partial(timed, partial(learner.update, plan(credits_, 16384))),
                partial(timed, floor(folder, tokens, 26)),
            )
            print(
                f"learner, {name}: {tokens / ours:,.0f} tokens/s, bare forward and backward {tokens / theirs:,.0f}, "
                f"ratio {theirs / ours:.2f}",
                flush=True,
            )


def _begun(path: str) -> TorchLearner:
    learner = TorchLearner(path)
    learner.begin(Optimization(10**6, lr=1e-9), Grpo().losses, False)
    return learner


def gsm8k(folder: Path, count: int) -> list[Sample]:
    """Questions and their solutions as prompts and completions, in groups of 8 with two kinds of reward; also makes
    the model."""
    path = Path(os.environ["ASSAY_DATA"]) / "gsm8k" / "train.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()[:2000]]
    texts = [row[key] for row in rows for key in ("question", "answer")]
    create(
        ModelInit("qwen3", SIZES | {"max_position_embeddings": 2048}, TokenizerInit("bpe", 2048)), texts, folder, seed=0
    )
    tokenizer: Any = load_tokenizer(folder)
    out = []
    for i, row in enumerate(rows[:count]):
        prompt, answer = tokenizer.encode(row["question"]), tokenizer.encode(row["answer"])
        ids = np.array(prompt + answer, np.int32)
        mask = np.arange(len(ids)) >= len(prompt)
        out.append(Sample(i // 8, i % 8, ids, mask, np.where(mask, -7.6, 0).astype(np.float32), float(i % 2)))
    return out


def beside_trl() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        drawn = gsm8k(Path(folder), 64)
        credits_, _ = Grpo().credit(drawn, [Signals()] * len(drawn))
        work, learner = plan(credits_, 16384), _begun(folder)
        theirs, share = _trl_update(folder, drawn)
        ours_s, theirs_s = medians(partial(timed, partial(learner.update, work)), partial(timed, theirs))
        tokens = sum(len(s.ids) for s in drawn)
        print(
            f"learner, 64 of GSM8K's solutions: {tokens / ours_s:,.0f} tokens/s, TRL's padded update "
            f"{tokens / theirs_s:,.0f} ({share:.0%} of its tokens are padding), ratio {theirs_s / ours_s:.2f}",
            flush=True,
        )


def _trl_update(path: str, drawn: list[Sample]) -> tuple[Callable[[], object], float]:
    import datasets
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    knobs = GRPOConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=64, num_generations=8, learning_rate=1e-9, beta=0.0,
        temperature=1.0, use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none", loss_type="bnpo",
        save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    data = datasets.Dataset.from_dict({"prompt": ["1"] * 64})
    trainer: Any = GRPOTrainer(path, lambda completions, **_: [0.0] * len(completions), knobs, data)
    trainer.current_gradient_accumulation_steps = 1
    model = trainer.model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-9, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    prompts = [torch.from_numpy(s.ids[~s.mask].astype(np.int64)) for s in drawn]
    answers = [torch.from_numpy(s.ids[s.mask].astype(np.int64)) for s in drawn]

    def padded(rows: list[Any], side: str) -> tuple[Any, Any]:
        pad = partial(torch.nn.utils.rnn.pad_sequence, batch_first=True, padding_side=side)
        return pad(rows), pad([torch.ones_like(row) for row in rows])

    (p, p_mask), (c, c_mask) = padded(prompts, "left"), padded(answers, "right")
    rewards = torch.tensor([s.reward for s in drawn]).view(-1, 8)
    advantages = ((rewards - rewards.mean(1, keepdim=True)) / rewards.std(1, keepdim=True)).flatten()
    inputs = {
        "prompt_ids": p, "prompt_mask": p_mask, "completion_ids": c, "completion_mask": c_mask,
        "advantages": advantages, "old_per_token_logps": torch.full(c.shape, -7.6),
    }  # fmt: skip

    def work() -> None:
        optimizer.zero_grad(set_to_none=True)
        trainer._compute_loss(model, inputs).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    real = int(p_mask.sum() + c_mask.sum())
    return work, 1 - real / (p.numel() + c.numel())


async def _teams(path: str, drawn: list[Sample], name: str) -> None:
    credits_, _ = Grpo().credit(drawn, [Signals()] * len(drawn))
    teams = [LearnerTeam(partial(TorchLearner, path), 1.0, 600.0, ranks=ranks) for ranks in (1, 2)]
    tokens, seconds = sum(len(c.sample.ids) for c in credits_), []
    for ranks, team in enumerate(teams, 1):
        await team.start()
        await team.begin(Optimization(10**6, lr=1e-9), Grpo().losses, False)
        work = plan(credits_, 16384, ranks=ranks)
        seconds.append([])
        for _ in range(ROUNDS + 2):
            seconds[-1].append((await team.update(work)).seconds)
        await team.close()
    one, two = (statistics.median(side[2:]) for side in seconds)
    print(
        f"two ranks, {name}: {tokens / two:,.0f} tokens/s on two cores, one rank {tokens / one:,.0f} on one, "
        f"ratio {one / two:.2f}",
        flush=True,
    )


def ranks() -> None:
    start_ray(4)
    with tempfile.TemporaryDirectory() as folder:
        create(ModelInit("qwen3", SIZES), ["0123456789+-=,."], Path(folder), seed=0)
        asyncio.run(_teams(folder, samples(np.random.default_rng(0), 4, 34), "256 samples of 10 to 40 tokens"))
    if "ASSAY_DATA" in os.environ:
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(_teams(folder, gsm8k(Path(folder), 128), "128 of GSM8K's solutions"))
    stop_ray()


PARTS = {"logits": logits, "floor": bare, "trl": beside_trl, "ranks": ranks}

if __name__ == "__main__":
    if sys.argv[1:2] == ["peak"]:
        print(peak(sys.argv[2], int(sys.argv[3])))
    elif sys.argv[1:]:
        PARTS[sys.argv[1]]()
    else:
        for part in PARTS:
            subprocess.run([sys.executable, "-m", "benchmarks.learner", part], check=True)
