"""Real vLLM in an actor, against transformers on each sequence alone; the torch engine holds to the same tests here.

An engine takes seconds to start, so all tests of a kind share one; every test leaves it with the weights it found.
"""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import fresh, logprobs_alone, make, prompts, published, reference

from rewards.errors import Refused, RunFailed
from workers.ray_actors import call, kill, ready, start_actor
from workers.rollout.renderer import Renderer
from workers.types import Prompt, Sampling
from workers.weights.proof import check


class Host:
    """An engine in a process of its own: vLLM sets process-wide things that other tests should not inherit."""

    def __init__(self, kind, path):
        renderer = Renderer.load(path)
        if kind == "vllm":
            from workers.rollout.vllm_engine import vllm_engine

            self.engine = vllm_engine(path, renderer, 64, "float32", {"max_model_len": 256})
        else:
            from workers.rollout.torch_engine import torch_engine

            self.engine = torch_engine(path, renderer, 64)

    async def generate(self, prompts):
        return {id: found async for lot in self.engine.generate(prompts) for id, found in lot}

    async def load(self, weights, proof):
        check(await self.engine.load(weights), proof, weights.version)

    async def pausing(self, how):
        self.engine.pause = how

    async def overtake(self, prompts, weights, proof, later):
        """New weights while the prompts are being written; further prompts after them."""
        running = asyncio.create_task(self.generate(prompts))
        while not len(self.engine.core):
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        loading = asyncio.create_task(self.load(weights, proof))
        await asyncio.sleep(0)
        return await running, await self.generate(later), await loading


class Client:
    def __init__(self, kind, path):
        self.kind = kind
        self.actor = start_actor(Host, kind, path, name=kind, cpus=0.5)
        asyncio.run(ready(self.actor, 300))

    def __call__(self, method, *args):
        return asyncio.run(call(self.actor, method, *args, timeout_s=120))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make(tmp_path_factory.mktemp("qwen"), head_dim=32)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return make(tmp_path_factory.mktemp("other"), seed=1, head_dim=32)


@pytest.fixture(scope="module", params=["torch", "vllm"])
def engine(request, ray_cluster, path):
    client = Client(request.param, path)
    yield client
    kill(client.actor)


@torch.no_grad()
def check_logprobs(path, wanted, found, temperature=1.0, tolerance=1e-4):
    truth = reference(path)
    for prompt in wanted:
        assert len(found[prompt.id]) == prompt.n
        for completion in found[prompt.id]:
            table = logprobs_alone(truth, np.concatenate([prompt.prompt_ids, completion.ids]), temperature)
            own = table[len(prompt.prompt_ids) - 1 :].gather(
                1, torch.from_numpy(completion.ids.astype(np.int64))[:, None]
            )
            np.testing.assert_allclose(completion.logprobs, own[:, 0].numpy(), atol=tolerance)


def test_logprobs_stops_and_lengths(engine, path):
    rng = fresh()
    temperature = float(rng.uniform(0.6, 1.5))
    wanted = [
        Prompt(i, ids, int(rng.integers(1, 5)), Sampling(int(rng.integers(1, 40)), temperature, seed=5))
        for i, ids in enumerate(prompts(rng, 20, 1, 30))
    ]
    found = engine("generate", wanted)
    check_logprobs(path, wanted, found, temperature)
    end = Renderer.load(path).end_id
    for prompt in wanted:
        for completion in found[prompt.id]:
            written = completion.ids.tolist()
            assert completion.ids.dtype == np.int32 and completion.logprobs.dtype == np.float32
            assert end not in written[:-1]
            assert completion.stop == ("stop" if written[-1] == end else "length")
            assert completion.stop == "stop" or len(written) == prompt.sampling.max_new_tokens


def test_the_same_seed_gives_the_same_samples_and_others_differ(engine):
    rng = fresh()
    wanted = [Prompt(i, ids, 4, Sampling(20, seed=3)) for i, ids in enumerate(prompts(rng, 6))]
    first, again = engine("generate", wanted), engine("generate", wanted)
    assert _ids(first) == _ids(again)
    assert _ids(engine("generate", [replace(p, sampling=Sampling(20, seed=4)) for p in wanted])) != _ids(first)
    assert all(len({tuple(c.ids) for c in completions}) > 1 for completions in first.values())


def test_the_last_of_a_group_can_be_greedy_and_the_others_draw_as_without_it(engine):
    wanted = [Prompt(i, ids, 3, Sampling(12, 1.2, seed=5)) for i, ids in enumerate(prompts(fresh(), 4, 2, 20))]
    drawn = engine("generate", wanted)
    likeliest = engine("generate", [replace(p, n=1, sampling=Sampling(12, 0.0)) for p in wanted])
    found = engine("generate", [replace(p, sampling=replace(p.sampling, greedy=True)) for p in wanted])
    for id, completions in found.items():
        ids = [completion.ids.tolist() for completion in completions]
        assert ids[:2] == [completion.ids.tolist() for completion in drawn[id][:2]]
        assert ids[2] == likeliest[id][0].ids.tolist()


def _ids(found):
    return {id: [completion.ids.tolist() for completion in found[id]] for id in sorted(found)}


def test_more_prompts_than_one_step_takes(engine, path):
    rng = fresh()
    wanted = [Prompt(i, ids, 2, Sampling(3, seed=3)) for i, ids in enumerate(prompts(rng, 150, 30, 60))]
    check_logprobs(path, wanted, engine("generate", wanted))


def test_a_prompt_that_vllms_context_has_no_room_for_is_an_error_and_the_engine_goes_on(engine):
    long = Prompt(0, np.full(257, 5, np.int32), 1, Sampling(4))
    refused = pytest.raises(RunFailed, match=r"^vLLM refused a prompt of 257 tokens: .*256")
    with refused if engine.kind == "vllm" else nullcontext():  # the torch engine has no limit of its own
        engine("generate", [long])
    assert set(engine("generate", [replace(long, prompt_ids=long.prompt_ids[:9])])) == {0}


def test_a_stop_string_ends_it(engine, path):
    rng = fresh()
    renderer = Renderer.load(path)
    wanted = [Prompt(i, ids, 4, Sampling(40, seed=3)) for i, ids in enumerate(prompts(rng, 10))]
    free = engine("generate", wanted)
    texts = [renderer.text(completion.ids) for completions in free.values() for completion in completions]
    stop = next(text[2:4] for text in texts if len(text) > 4)
    hits = 0
    for prompt in engine("generate", [replace(p, sampling=replace(p.sampling, stop=(stop,))) for p in wanted]).values():
        for completion in prompt:
            text = renderer.text(completion.ids)
            assert stop not in text[:-2]
            hits += text.endswith(stop) and completion.stop == "stop"
    assert hits


def test_new_weights_are_proved_and_generate(engine, path, other):
    rng = fresh()
    wanted = [Prompt(i, ids, 2, Sampling(20, seed=3)) for i, ids in enumerate(prompts(rng, 8))]
    before = engine("generate", wanted)
    engine("load", *published(other, 7))
    found = engine("generate", wanted)
    check_logprobs(other, wanted, found)
    assert {c.versions for completions in found.values() for c in completions} == {((0, 7),)}
    engine("load", *published(path, 8))
    assert _ids(engine("generate", wanted)) == _ids(before)


@pytest.mark.parametrize("fault", ["one bit", "swapped rows", "log-probs"])
def test_weights_that_are_not_the_published_ones_are_an_error(engine, path, fault):
    good, proof = published(path, 9)
    arrays = {name: array.copy() for name, array in good.arrays.items()}
    bad, wrong = replace(good, arrays=arrays), proof
    weight = next(array for name, array in arrays.items() if "o_proj" in name)
    if fault == "one bit":  # lost on the way: the sum shows it
        weight.view(np.uint32)[3, 3] ^= 1
    elif fault == "swapped rows":  # the sum can't: the probe does
        weight[:] = weight[::-1].copy()
    else:
        bad, wrong = good, replace(proof, logprobs=proof.logprobs + 0.01)
    with pytest.raises(RunFailed, match="version 9" if fault == "one bit" else "log-probs of 3 tokens differ"):
        engine("load", bad, wrong)
    engine("load", good, proof)


@pytest.mark.parametrize("how", ["keep", "wait", "abort"])
def test_what_happens_to_sequences_in_flight(engine, path, other, how):
    rng = fresh()
    engine("load", *published(path, 10))
    engine("pausing", how)
    wanted = [Prompt(i, ids, 4, Sampling(200, seed=3)) for i, ids in enumerate(prompts(rng, 8, 1, 9))]
    later = [replace(prompt, id=prompt.id + 100) for prompt in wanted[:2]]
    found, after, _ = engine("overtake", wanted, *published(other, 11), later)
    spans = {tuple(version for _, version in c.versions) for completions in found.values() for c in completions}
    assert {c.versions for completions in after.values() for c in completions} == {((0, 11),)}
    check_logprobs(other, later, after)
    if how == "keep":
        assert (10, 11) in spans and spans <= {(10,), (10, 11)}
    elif how == "wait":
        assert spans == {(10,)}
        check_logprobs(path, wanted, found)
    else:
        assert (11,) in spans and spans <= {(10,), (11,)}
        fresh_ones = {id: [c for c in cs if c.versions == ((0, 11),)] for id, cs in found.items()}
        whole = [prompt for prompt in wanted if len(fresh_ones[prompt.id]) == 4]
        check_logprobs(other, whole, found)
    engine("load", *published(path, 12))
    engine("pausing", "keep")


def test_engine_arguments_are_checked_by_name():
    from workers.rollout.vllm_engine import check_engine_args

    check_engine_args({"tensor_parallel_size": 2, "gpu_memory_utilization": 0.5})
    with pytest.raises(
        Refused, match=r"^rollout.engine_args.tensor_paralel_size: .* did you mean 'tensor_parallel_size'"
    ):
        check_engine_args({"tensor_paralel_size": 2})
    with pytest.raises(Refused, match=r"^rollout.engine_args.dtype: is set by rollout.dtype"):
        check_engine_args({"dtype": "half"})
