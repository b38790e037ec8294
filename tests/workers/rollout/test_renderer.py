import numpy as np
import pytest
from transformers import GenerationConfig

from rewards.errors import Refused
from rewards.types import Message
from workers.models import ModelInit, TokenizerInit
from workers.models.create import create
from workers.models.tokenizers import END, make_tokenizer
from workers.rollout.renderer import Renderer

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Llama 3's way: a token before the first message, and an end of turn that is not the end of sequence.
HEADERS = (
    "{{ '<|begin|>' }}{% for message in messages %}<|header|>{{ message['role'] }}<|/header|>\n"
    "{{ message['content'] | trim }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|header|>assistant<|/header|>\n{% endif %}"
)
TALK = (Message("system", "Be brief."), Message("user", "What is 1+1?\nSay it — now."))
TEXTS = ["47+38=7+8=15,4+3+1=8.85", "the quick brown fox\n\n" * 20]


def plain(kind="bpe"):
    return make_tokenizer(TokenizerInit(kind, 300), TEXTS)


def chat(template, special):
    tokenizer = plain()
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    tokenizer.chat_template = template
    return tokenizer


TEMPLATES = {
    "chatml": (CHATML, ["<|im_start|>", "<|im_end|>"], "<|im_end|>"),
    "headers": (HEADERS, ["<|begin|>", "<|header|>", "<|/header|>", "<|eot|>"], "<|eot|>"),
}


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("answer", ["2", "It is 2.\n\nTwo", "no, 3 — or é"])
def test_prompt_and_answer_are_the_templated_conversation(name, answer):
    template, special, end = TEMPLATES[name]
    tokenizer = chat(template, special)
    renderer = Renderer(tokenizer)
    ids = np.concatenate([renderer.prompt(TALK), renderer.answer(answer)])
    assert ids.dtype == np.int32
    whole = [{"role": m.role, "content": m.content} for m in (*TALK, Message("assistant", answer))]
    text = tokenizer.apply_chat_template(whole, tokenize=False)
    assert tokenizer.decode(ids) == text.removesuffix("\n")
    templated = tokenizer.apply_chat_template(whole, tokenize=True, return_dict=False)
    assert ids.tolist() == templated[: len(ids)]
    assert tokenizer.decode(templated[len(ids) :]).strip() == ""
    assert tokenizer.convert_ids_to_tokens(renderer.end_id) == end
    assert renderer.stop_ids == tuple(sorted({renderer.end_id, tokenizer.eos_token_id}))
    assert renderer.text(renderer.answer(answer)) == answer


def test_where_a_tokenizer_merges_across_the_seam_only_the_text_is_the_same():
    template, special, _ = TEMPLATES["headers"]
    tokenizer = chat(template.replace("<|/header|>\n", "<|/header|>\n\n"), special)
    renderer = Renderer(tokenizer)
    ids = np.concatenate([renderer.prompt(TALK), renderer.answer("2")]).tolist()
    whole = [{"role": m.role, "content": m.content} for m in (*TALK, Message("assistant", "2"))]
    templated = tokenizer.apply_chat_template(whole, tokenize=True, return_dict=False)
    assert tokenizer.decode(ids) == tokenizer.decode(templated) and ids != templated


def test_ids_that_the_tokenizer_would_not_have_chosen_decode_to_the_same_text():
    renderer = Renderer(plain("bpe"))
    answer = renderer.answer("the quick")
    letters = np.concatenate([renderer.answer(letter)[:-1] for letter in "the quick"])
    assert letters.tolist() != answer[:-1].tolist()
    assert renderer.text(letters) == renderer.text(answer) == "the quick"


@pytest.mark.parametrize("kind", ["chars", "bpe"])
def test_without_a_template_it_is_plain_text(kind):
    renderer = Renderer(plain(kind))
    assert renderer.text(renderer.prompt([Message("user", "47+38=")])) == "47+38="
    both = renderer.prompt([Message("system", "the fox"), Message("user", "4+3")])
    assert renderer.text(both) == "the fox\n4+3"
    answer = renderer.answer("7+8")
    assert answer.dtype == np.int32 and answer[-1] == renderer.end_id == renderer.tokenizer.eos_token_id
    assert renderer.tokenizer.decode(answer) == f"7+8{END}"
    assert renderer.text(answer) == "7+8"
    assert renderer.answer("").tolist() == [renderer.end_id]


def test_what_no_token_can_write_is_refused():
    renderer = Renderer(plain("chars"))
    with pytest.raises(Refused, match="no token for 'Z' in '4\\+Z'"):
        renderer.prompt([Message("user", "4+Z")])
    with pytest.raises(Refused, match="without any token"):
        renderer.prompt([Message("user", "")])


def test_the_models_own_stops_count(tmp_path):
    create(ModelInit("gpt2", {"n_embd": 16, "n_layer": 1, "n_head": 2}), TEXTS, tmp_path, seed=0)
    assert Renderer.load(tmp_path).stop_ids == (1,)
    GenerationConfig(eos_token_id=[5, 4]).save_pretrained(tmp_path)
    assert Renderer.load(tmp_path).stop_ids == (1, 4, 5)


@pytest.mark.parametrize("kind", ["chars", "bpe", "foreign"])
def test_offsets_are_where_the_text_grows(kind):
    tokenizer = plain("bpe" if kind == "foreign" else kind)
    renderer = Renderer(tokenizer)
    text = "quick é — 三 fox" if kind == "foreign" else "the quick"
    ids = renderer.answer(text)
    found = renderer.offsets(ids)
    assert found.dtype == np.int32 and len(found) == len(ids)
    # whole characters of the text up to and including each token
    wanted = [len(renderer.text(ids[: i + 1]).rstrip("\ufffd")) for i in range(len(ids))]
    assert found.tolist() == wanted
    assert found[-1] == len(text)
    assert renderer.offsets(np.zeros(0, np.int32)).tolist() == []


def test_offsets_of_tokens_that_are_no_text_at_all_stay_within_it():
    renderer = Renderer(plain("bpe"))
    rng = np.random.default_rng(0)
    for _ in range(50):
        ids = rng.integers(2, 300, 20)
        found = renderer.offsets(ids)
        assert (np.diff(found) >= 0).all() and found[0] >= 0 and found[-1] == len(renderer.text(ids))
