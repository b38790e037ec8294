"""From messages to token ids and back. Text is tokenized once: what the policy wrote stays the ids it wrote.

A sequence is `prompt(messages)` followed by the answer's ids, put together as ids. With a chat template that is
what templating the whole conversation gives, up to and including the token that ends the assistant's turn
(ChatML, for one, writes a line break after it, which belongs to the next turn). Where a tokenizer would merge the
template's last characters with the answer's first, the text is the same but not the ids, and those here are right:
they are what generation sees, which reads the prompt alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from rewards.errors import Refused
from rewards.types import Message
from workers.models.load import load_stop_ids, load_tokenizer

_PROBE = "AN ANSWER TO FIND"


class Renderer:
    """Renders for one tokenizer.

    end_id    the token that ends the policy's turn: the one its chat template writes, else end of sequence
    stop_ids  every token that ends a generation, sorted: `end_id`, end of sequence, and the model's own list
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop_ids: Iterable[int] = ()):
        self.tokenizer: Any = tokenizer
        # The tokenizer's own core: ten times faster on short texts than the layers that transformers puts around it.
        self._fast: Any = getattr(tokenizer, "backend_tokenizer", None)
        self._pieces: dict[int, str] = {}
        self.end_id = self._end_of_turn()
        self.stop_ids = tuple(sorted({self.end_id, self.tokenizer.eos_token_id, *stop_ids}))

    @classmethod
    def load(cls, path: str | Path) -> Renderer:
        """For the tokenizer and generation config of a model directory or hub name. Raises `Refused`."""
        return cls(load_tokenizer(path), load_stop_ids(path))

    def prompt(self, messages: Sequence[Message]) -> np.ndarray:
        """i32[P]: the conversation up to where the policy begins to write.

        Without a chat template it is the messages' contents, joined by line breaks.
        Raises `Refused` where the template or the vocabulary can't write it, or it comes out empty.
        """
        if self.tokenizer.chat_template is None:
            text = "\n".join(message.content for message in messages)
        else:
            text = self._template(messages, add_generation_prompt=True)
        ids = self._encode(text)
        if not len(ids):
            raise Refused("a prompt without any token")
        return ids

    def answer(self, text: str) -> np.ndarray:
        """i32[C]: what the policy would have had to write, the token that ends its turn included."""
        return np.append(self._encode(text), np.int32(self.end_id))

    def text(self, ids: Sequence[int] | np.ndarray) -> str:
        """The ids decoded, without special tokens."""
        ids = np.asarray(ids).tolist()
        if self._fast is not None and not self.tokenizer.clean_up_tokenization_spaces:
            return self._fast.decode(ids, skip_special_tokens=True)
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def offsets(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """i32[C]: where in `text(ids)` each of the tokens ends. One that only begins a character ends before it."""
        ids, text = np.asarray(ids).tolist(), self.text(ids)
        for token in set(ids) - self._pieces.keys():
            self._pieces[token] = self.text([token])
        pieces = [self._pieces[token] for token in ids]
        if "".join(pieces) == text:
            return np.cumsum([len(piece) for piece in pieces], dtype=np.int32)
        # Tokens that share a character, or whose spaces depend on what stands before them: each with its neighbours.
        ends, length, start, read = [], 0, 0, 0
        for i in range(len(ids)):
            known, now = self.text(ids[start:read]), self.text(ids[start : i + 1])
            if len(now) > len(known) and not now.endswith("\ufffd"):
                length, start, read = length + len(now) - len(known), read, i + 1
            ends.append(length)
        if ends:
            ends[-1] = len(text)
        return np.minimum(ends, len(text)).astype(np.int32)

    def _encode(self, text: str) -> np.ndarray:
        if self._fast is not None:
            ids = np.asarray(self._fast.encode(text, add_special_tokens=False).ids, np.int32)
        else:
            ids = np.asarray(self.tokenizer.encode(text, add_special_tokens=False), np.int32)
        unknown = self.tokenizer.unk_token_id
        # A vocabulary of characters has no token for one it never saw.
        if unknown is not None and (ids == unknown).any():
            lost = next((c for c in text if unknown in self.tokenizer.encode(c, add_special_tokens=False)), text)
            raise Refused(f"the tokenizer has no token for {lost!r} in {text[:60]!r}")
        return ids

    def _template(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        chat = [{"role": message.role, "content": message.content} for message in messages]
        return str(
            self.tokenizer.apply_chat_template(chat, add_generation_prompt=add_generation_prompt, tokenize=False)
        )

    def _end_of_turn(self) -> int:
        """The first special token the chat template writes after an answer, else end of sequence."""
        if self.tokenizer.chat_template is None:
            return self.tokenizer.eos_token_id
        whole = self._template([Message("user", _PROBE), Message("assistant", _PROBE)], add_generation_prompt=False)
        special = self.tokenizer.added_tokens_decoder
        written = self._encode(whole.rpartition(_PROBE)[2]).tolist()
        return next((id for id in written if id in special), self.tokenizer.eos_token_id)
