"""Engines, each beside the bare library that it is made of, on one thread: `.venv/bin/python -m benchmarks.engines`,
or one of them alone: `... torch`, `... vllm`.

vllm   tokens/s through pool, worker and engine against a bare `vllm.LLM.generate`: 64 prompts x 8 samples of up to 64
       tokens, the same sampling with the same kind of seeds and log-probs; both in actors, asked in turns
torch  tokens/s of the engine against transformers' `generate`, 256 sequences at once: 20 tokens each; and ragged
       lengths of a fifth of the limit of 100 on average (transformers stops each row at its length, as it would at an
       end of sequence)

Model: the quickstart's Qwen3 of 0.3 million weights. Medians of 7 rounds, by the clock; the torch rows also by the CPU
seconds of their one process, which others on the machine lengthen less.
"""

from __future__ import annotations

import asyncio
import importlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.hands import SIZES
from rewards.types import Message, Task
from workers.models import ModelInit
from workers.models.create import create
from workers.ray_actors import call, kill, ready, start_actor, start_ray, stop_ray
from workers.rollout.pool import RolloutPool
from workers.rollout.renderer import Renderer
from workers.types import Prompt, Request, Sampling

ROUNDS = 7
ARGUMENTS = {"max_model_len": 128}


def _vllm(path: str, renderer: Renderer) -> Any:
    from workers.rollout.vllm_engine import vllm_engine

    renderer.stop_ids = ()
    return vllm_engine(path, renderer, 512, engine_args=ARGUMENTS)


class Bare:
    """`vllm.LLM` in an actor of its own, which is given the prompts as they are."""

    def __init__(self, path: str):
        importlib.import_module("workers.rollout.vllm_engine")  # sets the environment that vLLM reads
        from vllm import LLM

        self.llm = LLM(
            path, dtype="float32", enforce_eager=True, max_num_seqs=512, disable_log_stats=True,
            logprobs_mode="processed_logprobs", enable_prefix_caching=True, generation_config="vllm", **ARGUMENTS,
        )  # fmt: skip

    def generate(self, prompts: list[list[int]], n: int, tokens: int) -> float:
        from vllm import SamplingParams, TokensPrompt

        given = [TokensPrompt(prompt_token_ids=ids) for ids in prompts for _ in range(n)]
        fixed = {"max_tokens": tokens, "logprobs": 0, "flat_logprobs": True, "detokenize": False}
        knobs = [SamplingParams(seed=i, **fixed) for i in range(len(given))]
        start = time.perf_counter()
        made = self.llm.generate(given, knobs, use_tqdm=False)
        return sum(len(one.outputs[0].token_ids) for one in made) / (time.perf_counter() - start)


async def vllm(path: str) -> None:
    pool, bare = RolloutPool(1, 1.0, 600.0), start_actor(Bare, path, name="bare", cpus=1.0)
    await asyncio.gather(pool.start(), ready(bare, 600))
    await pool.open(path, _vllm)
    rng, renderer = np.random.default_rng(0), Renderer.load(path)
    texts = ["".join(rng.choice(list("0123456789"), 6)) for _ in range(64)]
    wave = [Request(i, Task(str(i), (Message("user", t),)), 8, Sampling(64)) for i, t in enumerate(texts)]
    prompts = [renderer.prompt(request.task.messages).tolist() for request in wave]

    async def through() -> float:
        start, tokens = time.perf_counter(), 0
        async for generated in pool.run(wave):
            tokens += sum(len(r.turns[0].completion_ids) for g in generated.groups for r in g.rollouts)
        return tokens / (time.perf_counter() - start)

    ours, theirs = [], []
    for _ in range(ROUNDS + 1):
        ours.append(await through())
        theirs.append(await call(bare, "generate", prompts, 8, 64, timeout_s=600))
    report("vllm through pool, worker and engine", "LLM.generate", ours[1:], theirs[1:])
    kill(bare)
    await pool.close()


def report(what: str, against: str, ours: list[float], theirs: list[float]) -> None:
    a, b = statistics.median(ours), statistics.median(theirs)
    apart = sorted(one / other for one, other in zip(ours, theirs, strict=True))
    spread = f"{apart[0]:.2f} to {apart[-1]:.2f} round by round"
    print(f"{what}: {a:,.0f} tokens/s, {against}: {b:,.0f} tokens/s, ratio {a / b:.2f} ({spread})", flush=True)


Wave = Callable[[], object]


def rates(tokens: int, work: Wave) -> tuple[float, float]:
    """Tokens per second, and per CPU second of this process."""
    start, cpu = time.perf_counter(), time.process_time()
    work()
    return tokens / (time.perf_counter() - start), tokens / (time.process_time() - cpu)


def generate(path: str, lengths: list[int]) -> Wave:
    """transformers on the same prompts, each row ended at its length."""
    from transformers import AutoModelForCausalLM, StoppingCriteria, StoppingCriteriaList

    model = AutoModelForCausalLM.from_pretrained(path).eval()
    model.generation_config.eos_token_id = None
    ids = torch.from_numpy(np.random.default_rng(0).integers(3, 15, (len(lengths), 6)))
    ends = torch.tensor(lengths) + ids.shape[1]

    class Ends(StoppingCriteria):
        def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
            return input_ids.shape[1] >= ends

    def work() -> None:
        with torch.inference_mode():
            model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, max_new_tokens=max(lengths),
                stopping_criteria=StoppingCriteriaList([Ends()]), pad_token_id=0, output_logits=False,
            )  # fmt: skip

    return work


def torch_engine_on(path: str, lengths: list[int]) -> Wave:
    from workers.rollout.torch_engine import torch_engine

    renderer = Renderer.load(path)
    renderer.stop_ids = ()
    engine = torch_engine(path, renderer, 256)
    ids = np.random.default_rng(0).integers(3, 15, (len(lengths), 6)).astype(np.int32)
    prompts = [Prompt(i, row, 1, Sampling(length)) for i, (row, length) in enumerate(zip(ids, lengths, strict=True))]

    async def wave() -> int:
        return sum([len(c.ids) async for lot in engine.generate(prompts) for _, done in lot for c in done])

    def work() -> None:
        assert asyncio.run(wave()) == sum(lengths)

    return work


def torch_rows(folder: str) -> None:
    ragged = np.minimum(np.random.default_rng(0).geometric(1 / 20, 256), 100).tolist()
    for name, lengths in (("20 tokens each", [20] * 256), (f"ragged, mean {np.mean(ragged):.0f} of 100", ragged)):
        ours, theirs = torch_engine_on(folder, lengths), generate(folder, lengths)
        pairs = [(rates(sum(lengths), ours), rates(sum(lengths), theirs)) for _ in range(ROUNDS + 1)][1:]
        for clock, by in enumerate(("", " by CPU seconds")):
            a, b = [one[clock] for one, _ in pairs], [other[clock] for _, other in pairs]
            report(f"torch engine, 256 x {name}{by}", "generate", a, b)


def main(which: list[str]) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        create(ModelInit("qwen3", SIZES), ["0123456789+-=,."], Path(folder), seed=0)
        if "torch" in which:
            torch_rows(folder)
        if "vllm" in which:
            start_ray(4)
            asyncio.run(vllm(folder))
            stop_ray()


if __name__ == "__main__":
    main(sys.argv[1:] or ["torch", "vllm"])
