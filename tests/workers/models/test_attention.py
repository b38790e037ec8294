"""Packed and Slots against transformers' own attention on every sequence alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import SIZES, fresh, make, prompts, reference
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from rewards.errors import Refused
from workers.models.attention import Packed, Slots, adopt
from workers.models.load import load_model

ARCHITECTURES = list(SIZES)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def pair(request, tmp_path_factory):
    """A model that attends as it is told, and the same one in transformers' way."""
    path = make(tmp_path_factory.mktemp(request.param), request.param)
    return adopt(load_model(path)), reference(path, torch.float32)


def drawn(rng, kind):
    if kind == "ragged":
        return prompts(rng, 30, 1, 60)
    if kind == "equal":
        return prompts(rng, 7, 9, 9)
    if kind == "sorted":  # as packing lays them, so that only padding moves anything
        return sorted(prompts(rng, 12, 1, 60), key=len, reverse=True)
    return prompts(rng, 1, 1, 60)


def packed_logits(model, sequences, keep=False):
    lengths = torch.tensor([len(s) for s in sequences])
    ids = torch.from_numpy(np.concatenate(sequences).astype(np.int64))
    position = torch.cat([torch.arange(int(n)) for n in lengths])
    attend = Packed(lengths, keep)
    logits = model(ids[None], position_ids=position[None], attend=attend, use_cache=False).logits[0]
    return logits.split(lengths.tolist()), attend, lengths


def alone(model, ids):
    return model(torch.from_numpy(np.asarray(ids, np.int64))[None], use_cache=False).logits[0]


@pytest.mark.parametrize("kind", ["ragged", "equal", "sorted", "single"])
@torch.no_grad()
def test_packed_is_every_sequence_alone(pair, kind):
    model, truth = pair
    sequences = drawn(fresh(), kind)
    for ids, logits in zip(sequences, packed_logits(model, sequences)[0], strict=True):
        torch.testing.assert_close(logits, alone(truth, ids), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_sequence_does_not_move_its_neighbours(pair):
    model, _ = pair
    rng = fresh()
    sequences = drawn(rng, "ragged")
    before = packed_logits(model, sequences)[0]
    changed = int(rng.integers(len(sequences)))
    others = [ids.copy() for ids in sequences]
    others[changed] = (others[changed] - 3 + 1) % 17 + 3
    after = packed_logits(model, others)[0]
    for i, (a, b) in enumerate(zip(before, after, strict=True)):
        assert torch.equal(a, b) == (i != changed)


@pytest.mark.parametrize("kind", ["ragged", "equal", "sorted"])
def test_gradients_are_those_of_every_sequence_alone(pair, kind):
    model, truth = pair
    rng = fresh()
    sequences = drawn(rng, kind)
    weights = [torch.from_numpy(rng.normal(size=(len(s), 1)).astype(np.float32)) for s in sequences]
    gradients = []
    for one, every in ((model, packed_logits(model, sequences)[0]), (truth, [alone(truth, s) for s in sequences])):
        one.zero_grad()
        total = sum((logits.log_softmax(-1) * weight).sum() for logits, weight in zip(every, weights, strict=True))
        torch.as_tensor(total).backward()
        gradients.append({name: p.grad.clone() for name, p in one.named_parameters()})
    scale = max(g.norm() for g in gradients[1].values())
    for name, gradient in gradients[1].items():
        assert (gradients[0][name] - gradient).norm() <= 1e-5 * scale, name


@torch.no_grad()
def test_decoding_with_a_cache_is_a_full_forward(pair):
    """Two prefills with several rows a prompt; the second joins after three tokens; rows leave in between."""
    model, truth = pair
    rng = fresh()
    written: list[list[int]] = []
    slots = None

    def step(tokens):
        slots.begin()
        logits = model(
            torch.tensor(tokens)[:, None], position_ids=slots.lengths[:, None], attend=slots, use_cache=False
        ).logits[:, 0]
        slots.advance(torch.ones(len(tokens), dtype=torch.bool))
        for row, token in zip(written, tokens, strict=True):
            row.append(token)
        for row, logit in zip(written, logits, strict=True):
            torch.testing.assert_close(logit, alone(truth, row)[-1], atol=2e-5, rtol=1e-5)

    for count, room in ((5, 12), (4, 40)):
        first = prompts(rng, count, 1, 25)
        _, attend, lengths = packed_logits(model, first, keep=True)
        repeat = torch.from_numpy(rng.integers(0, count, 8))
        fresh_slots = Slots.from_prefill([attend], lengths, int(lengths.max()) + room, repeat)
        written += [first[i].tolist() for i in repeat.tolist()]
        if slots is None:
            slots = fresh_slots
        else:
            slots.join(fresh_slots)
        for _ in range(3):
            step(rng.integers(3, 20, len(written)).tolist())
        kept = np.flatnonzero(rng.random(len(written)) < 0.7)
        slots.keep(torch.from_numpy(kept))
        written = [written[i] for i in kept]
        step(rng.integers(3, 20, len(written)).tolist())


@torch.no_grad()
def test_a_finished_row_writes_over_its_last_place(pair):
    model, truth = pair
    sequences = prompts(fresh(), 2, 4, 8)
    _, attend, lengths = packed_logits(model, sequences, keep=True)
    slots = Slots.from_prefill([attend], lengths, 12, torch.tensor([0, 1]))
    row = sequences[0].tolist()
    for token in (5, 6, 7):
        slots.begin()
        logits = model(
            torch.tensor([[token], [token]]), position_ids=slots.lengths[:, None], attend=slots, use_cache=False
        ).logits[:, 0]
        slots.advance(torch.tensor([True, False]))
        row.append(token)
        torch.testing.assert_close(logits[0], alone(truth, row)[-1], atol=2e-5, rtol=1e-5)
        last = alone(truth, [*sequences[1].tolist(), token])[-1]
        torch.testing.assert_close(logits[1], last, atol=2e-5, rtol=1e-5)
    assert slots.lengths.tolist() == [len(sequences[0]) + 3, len(sequences[1])]


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 30}


@pytest.mark.parametrize(
    ("architecture", "config", "message"),
    [
        ("mistral", {"num_key_value_heads": 2, "sliding_window": 4}, "a sliding window"),
        ("gemma2", {"num_key_value_heads": 2, "layer_types": ["full_attention"] * 2}, "capped attention scores"),
        ("mamba", {}, "can't run mamba: 2 of its 2 layers are no replaceable attention"),
        ("bloom", {}, "can't run bloom"),
        ("qwen3_next", {"head_dim": 8, "num_key_value_heads": 2}, "can't run qwen3_next: 2 of its 2 layers"),
        ("nemotron", {"num_key_value_heads": 2}, "can't run nemotron: its attention can't be replaced"),
    ],
)
def test_what_would_mix_its_neighbours_is_refused(architecture, config, message):
    cls = CONFIG_MAPPING[architecture]
    known = set(cls.__dataclass_fields__) | set(cls.attribute_map)
    sizes = {key: value for key, value in (SMALL | config).items() if key in known}
    model = AutoModelForCausalLM.from_config(cls(**sizes, pad_token_id=None, bos_token_id=None, eos_token_id=None))
    with pytest.raises(Refused, match=message):
        adopt(model.eval())
