import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rewards.errors import Refused
from workers.models import TokenizerInit
from workers.models.load import load_tokenizer
from workers.models.tokenizers import make_tokenizer, vocabulary_size

torch.set_num_threads(1)

TEXT = "47+38=7+8=15,4+3+1=8.85 \n\té — don't ,a .b"
CHARS = make_tokenizer(TokenizerInit("chars"), [TEXT])
BPE = make_tokenizer(TokenizerInit("bpe", 300), [TEXT * 3])


def ids(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=True)


@given(st.text(sorted(set(TEXT))))
def test_chars_give_back_what_they_got(text):
    assert len(ids(CHARS, text)) == len(text)
    assert CHARS.decode(ids(CHARS, text)) == text


@given(st.text())
def test_bpe_gives_back_any_text(text):
    assert BPE.decode(ids(BPE, text)) == text


@pytest.mark.parametrize("tokenizer", [CHARS, BPE], ids=["chars", "bpe"])
def test_nothing_is_added(tokenizer, tmp_path):
    assert sorted(tokenizer("47")) == ["attention_mask", "input_ids"]
    assert tokenizer.bos_token is None
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert len(loaded) == len(tokenizer)
    assert ids(loaded, TEXT) == ids(tokenizer, TEXT)
    assert loaded.decode(ids(loaded, TEXT)) == TEXT
    assert (loaded.pad_token_id, loaded.eos_token_id) == (0, 1)


def test_chars_are_sorted_and_what_they_never_saw_is_unknown():
    assert [CHARS.convert_ids_to_tokens(i) for i in range(3, len(CHARS))] == sorted(set(TEXT))
    assert ids(CHARS, "4z7")[1] == CHARS.unk_token_id


def test_sizes():
    assert len(CHARS) == vocabulary_size(TokenizerInit("chars"), [TEXT]) == len(set(TEXT)) + 3
    many = [TEXT, *(f"{i * 7919} words of {i}" for i in range(2000))]
    assert len(make_tokenizer(TokenizerInit("bpe", 400), many)) == 400
    with pytest.raises(Refused, match=r"vocab_size: 200, expected at least 258"):
        make_tokenizer(TokenizerInit("bpe", 200), [TEXT])
    with pytest.raises(Refused, match="texts to make it from are empty"):
        make_tokenizer(TokenizerInit("chars"), [])


@pytest.mark.skipif("ASSAY_DATA" not in os.environ, reason="ASSAY_DATA is not set")
def test_bpe_on_gsm8k():
    lines = (Path(os.environ["ASSAY_DATA"]) / "gsm8k" / "train.jsonl").read_text().splitlines()
    texts = [text for line in lines for text in json.loads(line).values()]
    tokenizer = make_tokenizer(TokenizerInit("bpe", 1024), texts)
    assert len(tokenizer) == 1024
    test = (Path(os.environ["ASSAY_DATA"]) / "gsm8k" / "test.jsonl").read_text().splitlines()[:100]
    unseen = [text for line in test for text in json.loads(line).values()]
    assert len(unseen) == 200
    for text in unseen:
        assert tokenizer.decode(ids(tokenizer, text)) == text
    assert sum(map(len, unseen)) / sum(len(ids(tokenizer, text)) for text in unseen) > 2.5
