"""The vLLM engine's core: vLLM stepped in process, on the engine's thread.

Token ids in, token ids and float32 log-probs out; a group is one request whose samples have seeds of their own and
share their prompt's cache. In process it starts twice as fast as with an engine process of vLLM's
own, and new weights come in between two of its steps without a pause to ask for. Tensor- and pipeline-parallel
engines put their workers into processes all the same.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import Any

# ruff: noqa: E402 - vLLM reads its environment, and speaks, when it is imported
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB; `kv_cache_memory_bytes` overrides it
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # else every process of the machine takes the same core

logging.getLogger("torch._library.triton").setLevel(logging.ERROR)  # warns where there is no Triton, as on a CPU

import numpy as np
from vllm import EngineArgs, LLMEngine, SamplingParams, TokensPrompt
from vllm.config import WeightTransferConfig
from vllm.exceptions import VLLMValidationError
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind

from rewards.errors import Refused, RunFailed, nearest
from workers.rollout.renderer import Renderer
from workers.rollout.served import Pause, Pending, ServedEngine
from workers.types import Completion, Prompt, Proof, Published
from workers.weights.proof import TOLERANCE, same_format
from workers.weights.vllm_transfer import BACKEND, Extension

# What Assay's own keys say, or what the engine can't do without.
_OWN = {
    "model": "model.path",
    "tokenizer": "model.path",
    "max_num_seqs": "rollout.max_rows",
    "dtype": "rollout.dtype",
    "data_parallel_size": "rollout.workers",
    "enable_sleep_mode": "cluster.placement",
    **dict.fromkeys(("logprobs_mode", "weight_transfer_config", "worker_extension_cls", "generation_config", "seed")),
}
_PROBE = "probe"


def check_engine_args(given: Mapping[str, Any]) -> None:
    """Raises `Refused` for an argument that vLLM does not know, or that is Assay's to set."""
    known = {field.name for field in fields(EngineArgs)}
    for name in given:
        if name in _OWN:
            instead = f"is set by {_OWN[name]}" if _OWN[name] else "is set by Assay"
            raise Refused(f"rollout.engine_args.{name}: {instead}, expected another argument")
        if name not in known:
            raise Refused(f"rollout.engine_args.{name}: no argument of vLLM's, {nearest(name, known - _OWN.keys())}")


def vllm_engine(
    model_path: str,
    renderer: Renderer,
    max_rows: int,
    dtype: str = "float32",
    engine_args: Mapping[str, Any] | None = None,
    pause: Pause = "keep",
) -> ServedEngine:
    """A vLLM engine, ready to generate. Raises `RunFailed` with vLLM's own reason where it can't start."""
    return ServedEngine(partial(VllmCore, model_path, renderer, max_rows, dtype, engine_args or {}), pause)


class VllmCore:
    """The port `Core`. `max_rows` bounds the sequences in flight; vLLM lets further ones wait."""

    def __init__(self, model_path: str, renderer: Renderer, max_rows: int, dtype: str, engine_args: Mapping[str, Any]):
        arguments = {
            "enforce_eager": True,  # compiling costs more than it gains on small models; large ones say otherwise
            "disable_log_stats": True,
            "enable_prefix_caching": True,
            # On the CPU vLLM can't take back a seeded draw, as it must where a prompt is cut in two.
            "enable_chunked_prefill": not current_platform.is_cpu(),
            **engine_args,
            "model": model_path,
            "dtype": dtype,
            "max_num_seqs": max_rows,
            "generation_config": "vllm",
            "logprobs_mode": "processed_logprobs",  # at the sampling temperature
            "weight_transfer_config": WeightTransferConfig(backend=BACKEND),
            "worker_extension_cls": f"{Extension.__module__}.{Extension.__qualname__}",
        }
        try:
            self.engine = LLMEngine.from_engine_args(EngineArgs(**arguments))
        except (ValueError, TypeError, RuntimeError, OSError) as error:
            raise RunFailed(f"vLLM did not start: {type(error).__name__}: {error}") from error
        parallel = self.engine.vllm_config.parallel_config
        self.whole = parallel.world_size == 1 and self.engine.model_config.quantization is None
        self.stop_ids = list(renderer.stop_ids)
        self.names = itertools.count()
        self.requests: dict[str, tuple[Pending, int]] = {}  # by vLLM's name: its prompt, the first of its completions
        self.finished: list[Pending] = []  # by steps that were taken for the probe
        self.engine.set_weight_version("0")

    def __len__(self) -> int:
        return len(self.requests) + len(self.finished)

    def add(self, pendings: Sequence[Pending]) -> None:
        """Raises `RunFailed` for a prompt that does not fit the model's context."""
        # Caches of prompts live as long as the weights that made them.
        salt = self.engine.get_weight_version()
        for pending in pendings:
            prompt = pending.prompt
            tokens = TokensPrompt(prompt_token_ids=prompt.prompt_ids.tolist(), cache_salt=salt)
            drawn = prompt.n - prompt.sampling.greedy
            for first, n, temperature in ((0, drawn, prompt.sampling.temperature), (drawn, prompt.n - drawn, 0.0)):
                if n:
                    name = str(next(self.names))
                    self.requests[name] = pending, first
                    self._add(name, tokens, self._params(prompt, n, temperature))

    def _add(self, name: str, tokens: TokensPrompt, params: SamplingParams) -> None:
        try:
            self.engine.add_request(name, tokens, params)
        except (ValueError, VLLMValidationError) as error:
            raise RunFailed(f"vLLM refused a prompt of {len(tokens['prompt_token_ids'])} tokens: {error}") from error

    def _params(self, prompt: Prompt, n: int, temperature: float) -> SamplingParams:
        sampling = prompt.sampling
        stream = np.random.SeedSequence([sampling.seed, prompt.id])
        return SamplingParams(
            n=n,
            max_tokens=sampling.max_new_tokens,
            temperature=temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            seed=int(stream.generate_state(1, np.uint64)[0] >> 2),  # sample i draws from this + i
            stop=list(sampling.stop),
            include_stop_str_in_output=True,
            stop_token_ids=self.stop_ids,
            detokenize=bool(sampling.stop),
            logprobs=0,  # of the token drawn, and of no other
            flat_logprobs=True,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def step(self) -> list[Pending]:
        """See `Core.step`."""
        done, self.finished = self.finished, []
        if self.requests:
            done += self._taken(self.engine.step())
        return done

    def _taken(self, outputs: Sequence[Any]) -> list[Pending]:
        out = []
        for output in outputs:
            if output.finished and (found := self.requests.pop(output.request_id, None)):
                pending, first = found
                pending.done |= {first + made.index: _completion(made) for made in output.outputs}
                if len(pending.done) == pending.prompt.n:
                    out.append(pending)
        return out

    def drop(self, gone: set[Pending]) -> None:
        """See `Core.drop`."""
        names = [name for name, (pending, _) in self.requests.items() if pending in gone]
        self.engine.abort_request(names)
        for name in names:
            del self.requests[name]
        self.finished = [pending for pending in self.finished if pending not in gone]

    def sleep(self) -> None:
        """See `Core.sleep`. At vLLM's level 2, without a copy of the weights on the host, for the next load brings
        them all. On the CPU vLLM has no sleep mode: it keeps its memory."""
        if self.engine.model_config.enable_sleep_mode and not self.engine.is_sleeping():
            self.engine.sleep(level=2)

    def load(self, weights: Published) -> Proof:
        """See `Core.load`."""
        if self.engine.is_sleeping():
            self.engine.wake_up()
        self.engine.collective_rpc("start_weight_update")
        self.engine.collective_rpc("update_weights", kwargs={"update_info": {"arrays": weights.arrays}})
        self.engine.collective_rpc("finish_weight_update")
        self.engine.set_weight_version(str(weights.version))
        own = None
        if self.whole:  # shards hold some parameters twice, quantized ones other bits
            ((total, sizes),) = self.engine.collective_rpc("held_weights")
            own = total if same_format(weights, sizes) else None
        return Proof(own, self._probe(weights.probe), TOLERANCE[self.engine.model_config.dtype])

    def _probe(self, ids: np.ndarray) -> np.ndarray:
        """Log-probs of all but the first token; what is in flight goes on meanwhile."""
        params = SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False)
        self.engine.add_request(_PROBE, TokensPrompt(prompt_token_ids=ids.tolist()), params)
        while True:
            outputs: Any = self.engine.step()
            self.finished += self._taken(outputs)
            for output in outputs:
                if output.request_id == _PROBE and output.finished:
                    pairs = zip(ids[1:].tolist(), output.prompt_logprobs[1:], strict=True)
                    return np.array([entry[token].logprob for token, entry in pairs], np.float32)

    def clear(self) -> None:
        self.drop({*(pending for pending, _ in self.requests.values()), *self.finished})

    def close(self) -> None:
        self.clear()
        self.engine.engine_core.shutdown()


def _completion(made: Any) -> Completion:
    """Of vLLM's `CompletionOutput`."""
    logprobs = np.array(made.logprobs.logprobs, np.float32)
    versions = tuple((span.start, int(span.version)) for span in made.weight_versions)
    stop = "stop" if made.finish_reason == "stop" else "length"
    return Completion(np.array(made.token_ids, np.int32), logprobs, stop, versions)
