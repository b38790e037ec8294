"""Reward models of the hub's kinds, tiny and from scratch, against what transformers says of each text alone."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import tiny
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
)

from rewards.declared import Passage, ScalarModel
from rewards.errors import Refused
from rewards.panel import Panel, Seat
from rewards.sources.scalar import Scalar
from rewards.types import Message
from workers.judging.live import LiveToolbox
from workers.judging.scalar_model import ScalarJudge, ScalarReader
from workers.models.load import load_model, load_tokenizer, save_model
from workers.models.scalar import on_trunk

TEMPLATE = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}.{% endfor %}-"


def conversation(prompt, answer, marks=()):
    return Passage((Message("user", prompt), Message("assistant", answer)), marks=marks)


def fresh_conversations(n):
    rng = tiny.fresh()
    letters = list("0123456789+-=abcdefgh")
    texts = ["".join(rng.choice(letters, int(rng.integers(1, 40)))) for _ in range(2 * n)]
    return [conversation(*pair) for pair in zip(texts[:n], texts[n:], strict=True)]


def read(model, passages, calls=1):
    """Asked for in several calls at once, as groups of a panel are."""

    async def go():
        tools = LiveToolbox(1)
        shares = [passages[i::calls] for i in range(calls)]
        answers = await asyncio.gather(*(tools.scalar(model, share) for share in shares))
        out = [None] * len(passages)
        for i, answer in enumerate(answers):
            out[i::calls] = answer
        return out

    return asyncio.run(go())


def alone(path, passage, token=False):
    """f[L or 1, labels] by transformers itself, nothing else in the batch."""
    cls = AutoModelForTokenClassification if token else AutoModelForSequenceClassification
    model, tokenizer = cls.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)
    chat = [{"role": m.role, "content": m.content} for m in passage.messages]
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    with torch.no_grad():
        logits = model(ids).logits[0]
    return text, (logits if token else logits[None]).numpy()


@pytest.mark.parametrize("architecture", ["qwen3", "llama", "gpt2"])
def test_the_same_numbers_as_transformers(tmp_path, architecture):
    path = tiny.make_scalar(tmp_path, labels=2, architecture=architecture, template=TEMPLATE)
    passages = fresh_conversations(9)
    found = read(ScalarModel(path, labels=2, batch_tokens=100), passages, calls=3)
    for passage, numbers in zip(passages, found, strict=True):
        assert numbers.shape == (1, 2)
        np.testing.assert_allclose(numbers, alone(path, passage)[1], atol=2e-5)


def test_steps_are_read_where_their_last_character_is(tmp_path):
    path = tiny.make_scalar(tmp_path, "token", labels=2, template=TEMPLATE)
    answer = "1+2=3,3+4=7,7"
    passage = conversation("1+2+4", answer, marks=(6, 12, 13))
    [numbers] = read(ScalarModel(path, labels=2), [passage])
    text, every = alone(path, passage, token=True)
    start = text.rfind(answer)
    np.testing.assert_allclose(numbers, every[[start + 5, start + 11, start + 12]], atol=2e-5)


def test_an_encoder_reads_prompt_and_answer_as_a_pair(tmp_path):
    chars = load_tokenizer(tiny.make(tmp_path / "base"))
    own = chars.backend_tokenizer
    special = [("[CLS]", own.token_to_id("a")), ("[SEP]", own.token_to_id("b"))]
    from tokenizers.processors import TemplateProcessing

    own.post_processor = TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]", special)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=own, pad_token=chars.pad_token, eos_token=chars.eos_token, cls_token="a", sep_token="b"
    )
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(tokenizer), num_labels=1, initializer_range=0.5, pad_token_id=0, **sizes)
    model = BertForSequenceClassification(config).eval()
    save_model(model, tokenizer, tmp_path / "bert")
    passages = fresh_conversations(5)
    found = read(ScalarModel(str(tmp_path / "bert")), passages)
    for passage, numbers in zip(passages, found, strict=True):
        given = tokenizer(*(m.content for m in passage.messages), return_tensors="pt", return_token_type_ids=False)
        with torch.no_grad():
            np.testing.assert_allclose(numbers, model(**given).logits.numpy(), atol=2e-5)
    with pytest.raises(Refused, match="expected one that judges steps"):
        read(ScalarModel(str(tmp_path / "bert")), [conversation("1", "2+3", marks=(1, 3))])


def test_one_made_here_reads_what_it_was_trained_on(tmp_path):
    base = tiny.make(tmp_path / "base")
    model = on_trunk(load_model(base))
    torch.nn.init.normal_(model.score.weight)
    save_model(model, load_tokenizer(base), tmp_path / "own")
    passage = conversation("1+2=", "3")
    [numbers] = read(ScalarModel(str(tmp_path / "own")), [passage])
    tokenizer = load_tokenizer(base)
    ids = [*tokenizer("1+2=").input_ids, *tokenizer("3").input_ids, tokenizer.eos_token_id]
    reference = AutoModelForSequenceClassification.from_pretrained(tmp_path / "own")
    with torch.no_grad():
        np.testing.assert_allclose(numbers, reference(torch.tensor([ids])).logits.numpy(), atol=2e-5)


def test_text_as_it_stands_and_what_is_too_long(tmp_path):
    path = tiny.make_scalar(tmp_path, max_position_embeddings=32)
    found = read(ScalarModel(path), [Passage(text="1+2"), conversation("1", "2" * 40), Passage(text="1+2")])
    assert found[1] is None
    np.testing.assert_allclose(found[0], found[2], atol=1e-6)


def test_another_head_than_expected_is_refused(tmp_path):
    path = tiny.make_scalar(tmp_path, labels=2)
    with pytest.raises(Refused, match="its head has 2 labels, expected 1; a reward model has one"):
        ScalarJudge(ScalarModel(path))
    panel = Panel((Seat("rm", Scalar(ScalarModel(path))),))
    with pytest.raises(Refused, match=r"reward source 'rm': model .* its head has 2 labels"):
        asyncio.run(LiveToolbox(1).warm(panel))
    with pytest.raises(Refused, match=r"weights missing .*expected a reward model"):
        ScalarJudge(ScalarModel(tiny.make(tmp_path / "policy"), labels=2))
    with pytest.raises(Refused, match="did you mean 'scalar'"):
        ScalarJudge(ScalarModel(str(tmp_path / "scalr")))


def test_a_question_that_was_given_up_does_not_disturb_the_others(tmp_path):
    path = tiny.make_scalar(tmp_path)

    async def go():
        reader = ScalarReader(ScalarModel(path))
        await reader.open()
        gone = asyncio.create_task(reader.read(fresh_conversations(3)))
        kept = asyncio.create_task(reader.read([conversation("1", "2")]))
        await asyncio.sleep(0)
        gone.cancel()
        again = await reader.read([conversation("1", "2")])
        return await kept, again

    kept, again = asyncio.run(go())
    np.testing.assert_allclose(kept[0], again[0], atol=1e-6)
