"""What the engine draws, against transformers on each sequence alone."""

from __future__ import annotations

import asyncio
import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import SIZES, fresh, logprobs_alone, make, prompts, published, reference

from rewards.errors import RunFailed
from workers.models.attention import adopt
from workers.models.decoder import Whole, decoder
from workers.models.load import load_model
from workers.rollout import batch as room
from workers.rollout.batch import Batch
from workers.rollout.renderer import Renderer
from workers.rollout.served import Pending
from workers.rollout.torch_engine import torch_engine
from workers.types import Prompt, Sampling
from workers.weights.arrays import load_arrays

DECODED = Sampling(24)


@pytest.fixture(scope="module", params=list(SIZES))
def path(request, tmp_path_factory):
    return make(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    return make(tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return make(tmp_path_factory.mktemp("other"), seed=1)


def engine(path, max_rows=256, dtype="float32"):
    return torch_engine(path, Renderer.load(path), max_rows, dtype)


async def collect(engine, asked):
    """{prompt id: completions}"""
    out = {}
    async for lot in engine.generate(asked):
        for id, completions in lot:
            assert id not in out
            out[id] = completions
    return out


def generate(engine, asked):
    return asyncio.run(collect(engine, asked))


def asked(rng, count, sampling=DECODED, n=3, high=30):
    return [Prompt(i, ids, n, sampling) for i, ids in enumerate(prompts(rng, count, 1, high))]


def flat(found):
    """Every completion, in the order asked for."""
    return [completion for id in sorted(found) for completion in found[id]]


def check_logprobs(path, wanted, found, temperature=1.0, tolerance=1e-4):
    truth = reference(path)
    with torch.no_grad():
        for prompt in wanted:
            assert len(found[prompt.id]) == prompt.n
            for completion in found[prompt.id]:
                ids = np.concatenate([prompt.prompt_ids, completion.ids])
                table = logprobs_alone(truth, ids, temperature).numpy()[len(prompt.prompt_ids) - 1 :]
                gap = np.abs(table[np.arange(len(completion.ids)), completion.ids] - completion.logprobs)
                assert gap.max() <= tolerance


def same(a, b, tolerance=1e-5):
    assert a.keys() == b.keys()
    for id in a:
        for one, two in zip(a[id], b[id], strict=True):
            assert one.ids.tolist() == two.ids.tolist()
            assert one.stop == two.stop
            np.testing.assert_allclose(one.logprobs, two.logprobs, atol=tolerance)


# Log-probs and stops ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_rows", [4, 256])
def test_logprobs_are_those_of_the_whole_sequence_by_transformers(path, max_rows):
    rng = fresh()
    temperature = float(rng.uniform(0.6, 1.5))
    wanted = [
        Prompt(
            i, ids, int(rng.integers(1, 5)), Sampling(int(rng.integers(1, 40)), temperature, seed=int(rng.integers(99)))
        )
        for i, ids in enumerate(prompts(rng, 12, 1, 30))
    ]
    found = generate(engine(path, max_rows), wanted)
    check_logprobs(path, wanted, found, temperature)
    end = Renderer.load(path).end_id
    for prompt in wanted:
        for completion in found[prompt.id]:
            written = completion.ids.tolist()
            assert completion.ids.dtype == np.int32 and completion.logprobs.dtype == np.float32
            assert end not in written[:-1]
            assert completion.stop == ("stop" if written[-1] == end else "length")
            assert completion.stop == "stop" or len(written) == prompt.sampling.max_new_tokens


def test_both_ways_to_stop_occur(qwen):
    found = generate(engine(qwen), asked(np.random.default_rng(0), 20))
    stops = [completion.stop for completions in found.values() for completion in completions]
    assert {"stop", "length"} == set(stops)


def test_further_stop_ids(qwen):
    rng = fresh()
    renderer = Renderer.load(qwen)
    renderer.stop_ids = (5, 7, 9)
    found = generate(torch_engine(qwen, renderer, 64), asked(rng, 20))
    for completions in found.values():
        for completion in completions:
            assert not {5, 7, 9} & set(completion.ids[:-1].tolist())
            assert (completion.stop == "stop") == (completion.ids[-1] in (5, 7, 9))


@pytest.mark.parametrize("tokenizer", ["chars", "bpe"])
def test_a_stop_string_ends_it_at_the_first_token_that_completes_one(tokenizer, tmp_path):
    """The byte-level vocabulary may cut a letter in two."""
    rng = fresh()
    path = make(tmp_path, tokenizer=tokenizer)
    renderer = Renderer.load(path)
    renderer.stop_ids = tuple(renderer.tokenizer.all_special_ids)  # no special token inside a text
    running = torch_engine(path, renderer, 256)
    free = asked(rng, 40, Sampling(40, seed=int(rng.integers(1000))), n=2, high=8)
    found = flat(generate(running, free))
    texts = [[renderer.text(c.ids[:k]) for k in range(len(c.ids) + 1)] for c in found]
    # Strings that really occur: two neighbours out of the middle of some texts.
    pairs = sorted({steps[-1][k : k + 2] for steps in texts for k in range(3, len(steps[-1]) - 1)})
    stops = tuple(rng.permutation([pair for pair in pairs if "�" not in pair])[:2].tolist())
    again = generate(running, [replace(p, sampling=replace(p.sampling, stop=stops)) for p in free])
    hits = 0
    for steps, before, after in zip(texts, found, flat(again), strict=True):
        first = next((k for k, text in enumerate(steps) if any(stop in text for stop in stops)), None)
        assert after.ids.tolist() == before.ids[:first].tolist()
        assert after.stop == ("stop" if first is not None else before.stop)
        hits += first is not None
    assert hits


def test_a_stop_string_of_many_bytes_is_found(tmp_path):
    path = make(tmp_path, tokenizer="bpe")
    renderer = Renderer.load(path)
    ids = renderer.tokenizer.encode("答案", add_special_tokens=False)
    assert len(ids) == 6
    batch = Batch(Whole(torch.nn.Linear(1, 1)), [], renderer.text)
    written = np.array([*renderer.tokenizer.encode("the answer is", add_special_tokens=False), *ids], np.int32)
    assert batch._ends(written, ("x", "答案"))
    assert not batch._ends(written[:-1], ("x", "答案"))


# Sameness --------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_tokens_whatever_the_batching(path):
    rng = fresh()
    seed = int(rng.integers(1000))
    wanted = [
        Prompt(i, ids, 4, Sampling(int(rng.integers(1, 30)), 0.8, top_p=float(rng.choice([0.7, 1])), seed=seed))
        for i, ids in enumerate(prompts(rng, 10))
    ]
    large = engine(path)
    together = generate(large, wanted)
    same(together, generate(large, wanted), 0.0)
    alone = {}
    for prompt in wanted:
        alone |= generate(large, [prompt])
    same(together, alone)
    same(together, generate(large, [wanted[i] for i in rng.permutation(len(wanted))]))
    same(together, generate(engine(path, max_rows=4), wanted))
    fewer = generate(large, [replace(prompt, n=2) for prompt in wanted])
    same({id: completions[:2] for id, completions in together.items()}, fewer)


def test_prompts_prefilled_in_lots_are_written_as_together(path, monkeypatch):
    rng = fresh()
    wanted = asked(rng, 12)
    together = generate(engine(path), wanted)
    monkeypatch.setattr(room, "PREFILL_TOKENS", (int(rng.integers(1, 60)),) * 2)
    same(together, generate(engine(path), wanted))


def test_other_seeds_and_other_places_draw_other_tokens(qwen):
    rng = fresh()
    ids = prompts(rng, 1, 10, 10)[0]
    wanted = [Prompt(i, ids, 4, Sampling(30, 1.5, seed=s)) for i, s in ((0, 1), (1, 1), (2, 2))]
    found = generate(engine(qwen), wanted)
    written = [tuple(completion.ids.tolist()) for completions in found.values() for completion in completions]
    assert len(set(written)) > 9


def test_greedy_is_generate_without_sampling(path):
    rng = fresh()
    truth = reference(path, torch.float32)
    wanted = asked(rng, 12, Sampling(25, temperature=0.0), n=2)
    found = generate(engine(path), wanted)
    for prompt in wanted:
        ids = torch.from_numpy(prompt.prompt_ids.astype(np.int64))[None]
        expected = truth.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=25)
        for completion in found[prompt.id]:
            assert completion.ids.tolist() == expected[0, ids.shape[1] :].tolist()
    check_logprobs(path, wanted, found)


@pytest.mark.parametrize(("top_p", "top_k"), [(0.6, 0), (1.0, 3)])
def test_truncated_draws_stay_inside_the_allowed_set(qwen, top_p, top_k):
    rng = fresh()
    wanted = asked(rng, 10, Sampling(20, 1.3, top_p, top_k))
    found = generate(engine(qwen), wanted)
    check_logprobs(qwen, wanted, found, 1.3)  # of the untruncated policy
    truth = reference(qwen)
    with torch.no_grad():
        for prompt in wanted:
            for completion in found[prompt.id]:
                ids = np.concatenate([prompt.prompt_ids, completion.ids])
                probs = logprobs_alone(truth, ids, 1.3)[len(prompt.prompt_ids) - 1 :].exp()
                own = probs.gather(1, torch.from_numpy(completion.ids.astype(np.int64))[:, None])
                likelier = probs > own * (1 + 1e-5)
                assert (likelier.sum(-1) < (top_k or 1e9)).all()
                assert ((probs * likelier).sum(-1) < top_p + 1e-5).all()


def test_bfloat16_follows_float32(qwen):
    rng = fresh()
    wanted = asked(rng, 6)
    found = generate(engine(qwen, dtype="bfloat16"), wanted)
    check_logprobs(qwen, wanted, found, tolerance=1.0)
    with pytest.raises(AssertionError):
        check_logprobs(qwen, wanted, found, tolerance=1e-6)


# Weights ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_new_weights_between_two_tokens(qwen, other):
    """Tokens drawn afterwards are the new model's, on the keys and values that the old one left."""
    rng = fresh()
    renderer, model = Renderer.load(qwen), adopt(load_model(qwen))
    batch = Batch(decoder(model), [], renderer.text)
    prompt = Prompt(0, prompts(rng, 1)[0], 2, Sampling(12))
    pending = Pending(prompt)
    batch.admit([pending], 3)
    for _ in range(4):
        batch.step()
    load_arrays(model, published(other, 4)[0].arrays)
    batch.renew(3)
    batch.renew(4)
    while len(batch):
        batch.step()
    old, new = reference(qwen, torch.float32), reference(other, torch.float32)
    for completion in pending.done.values():
        assert completion.versions == ((0, 3), (5, 4)) and len(completion.ids) == 12
        ids = torch.from_numpy(np.concatenate([prompt.prompt_ids, completion.ids]).astype(np.int64))[None]
        cut = len(prompt.prompt_ids) + 4
        first = old(ids[:, :cut], use_cache=True)
        second = new(ids[:, cut:-1], past_key_values=first.past_key_values)
        table = torch.cat([first.logits[0], second.logits[0]]).log_softmax(-1)[len(prompt.prompt_ids) - 1 :]
        expected = table.gather(1, ids[0, len(prompt.prompt_ids) :, None])[:, 0]
        np.testing.assert_allclose(completion.logprobs, expected.numpy(), atol=1e-4)


def test_a_completion_carries_the_oldest_version_that_wrote_it(qwen, other):
    rng = fresh()
    renderer = Renderer.load(qwen)
    renderer.stop_ids = ()

    async def scenario():
        running = torch_engine(qwen, renderer, 8)
        await running.load(published(qwen, 5)[0])
        long = asyncio.create_task(collect(running, asked(rng, 4, Sampling(400), n=2, high=9)))
        while not len(running.core.batch):
            await asyncio.sleep(0.001)
        await running.load(published(other, 6)[0])
        assert not long.done()
        later = await collect(running, asked(rng, 2, Sampling(3)))
        await running.close()
        return await long, later

    long, later = asyncio.run(scenario())
    assert {[v for _, v in c.versions] == [5, 6] for completions in long.values() for c in completions} == {True}
    assert {c.versions for completions in later.values() for c in completions} == {((0, 6),)}


def test_weights_that_do_not_fit_are_refused_and_the_old_ones_stay(qwen):
    rng = fresh()
    running, wanted = engine(qwen), asked(rng, 4)
    before = generate(running, wanted)
    weights, _ = published(qwen, 1)
    arrays = dict(weights.arrays)
    arrays = {name: array + 1 for name, array in arrays.items()}
    arrays["model.norm.weight"] = arrays["model.norm.weight"][:-1]
    with pytest.raises(ValueError, match=r"model.norm.weight is \(31,\), not \(32,\)"):
        asyncio.run(running.load(replace(weights, arrays=arrays)))
    same(before, generate(running, wanted), 0.0)


# Callers ---------------------------------------------------------------------------------------------------------


def test_two_callers_do_not_mix(qwen):
    """The same prompt ids, once even the same records, and a record twice in one call."""
    rng = fresh()
    one = asked(rng, 6)
    two = [replace(prompt, prompt_ids=prompt.prompt_ids[::-1].copy()) for prompt in one]

    async def scenario(running):
        return await asyncio.gather(*(collect(running, wanted) for wanted in (one, two, one)))

    running = engine(qwen, max_rows=16)
    found = asyncio.run(scenario(running))
    for wanted, answer in zip((one, two, one), found, strict=True):
        same(generate(running, wanted), answer)

    async def count(wanted):
        return [id async for lot in running.generate(wanted) for id, _ in lot]

    assert sorted(asyncio.run(count([one[0], one[0], one[1]]))) == [0, 0, 1]


def test_a_broken_model_call_is_told_to_all_who_wait_and_the_engine_goes_on(qwen):
    rng = fresh()
    good = asked(rng, 3, Sampling(300))
    broken = Prompt(9, np.array([3, 10_000], np.int32), 2, DECODED)  # no such token

    async def scenario(running):
        first = asyncio.create_task(collect(running, good))
        while not len(running.core.batch):
            await asyncio.sleep(0.001)
        answers = await asyncio.gather(first, collect(running, [broken]), return_exceptions=True)
        for error in answers:
            assert isinstance(error, RunFailed) and str(error).startswith("the engine failed: IndexError: ")
        return await collect(running, asked(np.random.default_rng(1), 4))

    renderer = Renderer.load(qwen)
    renderer.stop_ids = ()
    running = torch_engine(qwen, renderer, 64)
    after = asyncio.run(asyncio.wait_for(scenario(running), 30))
    same(after, generate(torch_engine(qwen, renderer, 64), asked(np.random.default_rng(1), 4)))


def test_who_leaves_takes_back_what_is_not_yet_written(qwen):
    rng = fresh()
    renderer = Renderer.load(qwen)
    renderer.stop_ids = ()
    running = torch_engine(qwen, renderer, 4)

    async def leave():
        wanted = [Prompt(0, np.array([3], np.int32), 1, Sampling(2))]
        wanted += [Prompt(1 + i, ids, 3, Sampling(450)) for i, ids in enumerate(prompts(rng, 200))]
        items = running.generate(wanted)
        assert [id for id, _ in await anext(items)] == [0]
        await items.aclose()

    asyncio.run(asyncio.wait_for(leave(), 30))
    wanted = asked(rng, 2)
    same(generate(running, wanted), generate(torch_engine(qwen, renderer, 4), wanted))
    assert not running.core.waiting and not running.sinks and len(running.core.batch) == 0


def test_closing_ends_every_wait(qwen):
    async def scenario():
        running = engine(qwen)
        waits = asyncio.create_task(collect(running, asked(np.random.default_rng(0), 50, Sampling(450))))
        await asyncio.sleep(0.05)
        await running.close()
        with pytest.raises(RunFailed, match="the engine was closed"):
            await waits

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_a_prompt_with_more_samples_than_rows_is_answered(qwen):
    rng = fresh()
    wanted = asked(rng, 3, n=7)
    same(generate(engine(qwen, max_rows=2), wanted), generate(engine(qwen), wanted))


def test_one_token_each(qwen):
    rng = fresh()
    wanted = asked(rng, 5, Sampling(1))
    running = engine(qwen)
    first = generate(running, wanted)
    assert all(len(c.ids) == 1 for completions in first.values() for c in completions)
    same(first, generate(running, copy.deepcopy(wanted)), 0.0)
