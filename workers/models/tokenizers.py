"""Tokenizers made from a run's own texts. Both add nothing to what they encode and give back exactly what they got."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from rewards.errors import Refused
from workers.models import TokenizerInit

PAD, END, UNKNOWN = "<|pad|>", "<|end|>", "<|unknown|>"
_BYTES = 256


def make_tokenizer(init: TokenizerInit, texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Raises `Refused` where the texts or the vocabulary's size can't make one."""
    if init.kind == "chars":
        special, tokenizer = (PAD, END, UNKNOWN), _chars(characters(texts))
    else:
        special, tokenizer = (PAD, END), _bpe(texts, init.vocab_size, (PAD, END))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN if UNKNOWN in special else None,
        clean_up_tokenization_spaces=False,  # else decoding would drop the space in "a ."
        model_input_names=["input_ids", "attention_mask"],
    )


def characters(texts: Iterable[str]) -> list[str]:
    """The sorted characters of the texts. Raises `Refused` where there are none."""
    found = sorted(set().union(*texts))
    if not found:
        raise Refused("model.init.tokenizer: the texts to make it from are empty")
    return found


def vocabulary_size(init: TokenizerInit, texts: Iterable[str]) -> int:
    """How many tokens `make_tokenizer` makes (at most, for bpe: a short text runs out of pairs)."""
    return len(characters(texts)) + 3 if init.kind == "chars" else init.vocab_size


def _chars(alphabet: Sequence[str]) -> Tokenizer:
    vocabulary = {token: i for i, token in enumerate([PAD, END, UNKNOWN, *alphabet])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def _bpe(texts: Iterable[str], size: int, special: Sequence[str]) -> Tokenizer:
    if size < _BYTES + len(special):
        raise Refused(f"model.init.tokenizer.vocab_size: {size}, expected at least {_BYTES + len(special)} for bpe")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
