"""Models with a head of numbers as judges: any of transformers' sequence and token classifiers.

Text is written by the model's own chat template and cut by its own tokenizer: a policy's ids mean nothing to it. A
model that Assay made (`workers.models.scalar`) reads what it was trained on: prompt and answer put together as ids.

Sequences are batched by tokens. Where the model is a decoder whose attention can be replaced they lie end to end
without padding (`workers.models.attention`); any other reads them padded, those of like length together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, PreTrainedModel

from rewards.declared import Passage, ScalarModel
from rewards.errors import Refused
from rewards.types import Message
from workers.models.attention import Packed, adopt
from workers.models.load import DTYPES, load_config, load_tokenizer, quiet, refusing
from workers.models.scalar import apply_head, load_scalar
from workers.rollout.renderer import Renderer

Encoded = tuple[np.ndarray, np.ndarray]  # ids i64[L], the places i64[K] where numbers are wanted


class ScalarJudge:
    """The model of one declaration, ready to read; of models side by side the mean. Raises `Refused` where there is
    none, or its head has another number of labels than was declared."""

    def __init__(self, spec: ScalarModel) -> None:
        self.spec = spec
        config = load_config(spec.path)
        self._tokens = any(name.endswith("ForTokenClassification") for name in config.architectures or ())
        if config.num_labels != spec.labels:
            raise Refused(
                f"model {spec.path!r}: its head has {config.num_labels} labels, expected {spec.labels}"
                + ("" if spec.labels > 1 else "; a reward model has one, several need `labels` and names for them")
            )
        self._own = own = hasattr(config, "head_depth")
        self.model: Any = load_scalar(spec.path) if own else self._load()
        self._packed = own or self._adopted()
        self._device = "cuda" if torch.cuda.is_available() and spec.gpus else "cpu"
        self.model.to(self._device).eval().requires_grad_(False)
        for trunk in [trunk for trunk, _ in self.model.parts()] if own else [self.model]:
            trunk.to(DTYPES[spec.dtype])
        self._writer = _Writer(load_tokenizer(spec.path), own)
        self._context = getattr(config.get_text_config(), "max_position_embeddings", None)

    def encode(self, passage: Passage) -> Encoded | None:
        """None where it does not fit the model's context."""
        ids, places = self._writer.write(passage)
        return None if self._context and len(ids) > self._context else (ids, places)

    @torch.inference_mode()
    def read(self, batch: Sequence[Encoded]) -> list[np.ndarray]:
        """f32[K, labels] of each."""
        numbers = (self._read_packed if self._packed else self._read_padded)(batch).float().cpu().numpy()
        return np.split(numbers, np.cumsum([len(places) for _, places in batch])[:-1])

    def _read_packed(self, batch: Sequence[Encoded]) -> Tensor:
        lengths = torch.tensor([len(ids) for ids, _ in batch])
        starts = torch.cumsum(lengths, 0) - lengths
        ids = torch.from_numpy(np.concatenate([ids for ids, _ in batch]))
        position = torch.arange(len(ids)) - torch.repeat_interleave(starts, lengths)
        places = np.concatenate([places + int(start) for (_, places), start in zip(batch, starts, strict=True)])
        where, numbers = torch.from_numpy(places).to(self._device), []
        for trunk, head in self._parts():
            hidden = trunk(
                ids[None].to(self._device),
                position_ids=position[None].to(self._device),
                attend=Packed(lengths.to(self._device)),
                use_cache=False,
            ).last_hidden_state[0]
            numbers.append(apply_head(head, hidden[where]))
        return torch.stack(numbers).mean(0)

    def _parts(self) -> list[tuple[Any, torch.nn.Module]]:
        """Trunk and head of each of the models side by side."""
        return self.model.parts() if self._own else [(self.model.base_model, self.model.get_submodule("score"))]

    def _read_padded(self, batch: Sequence[Encoded]) -> Tensor:
        longest = max(len(ids) for ids, _ in batch)
        pad = self.model.config.pad_token_id
        ids = np.full((len(batch), longest), 0 if pad is None else pad, np.int64)
        mask = np.zeros_like(ids)
        for row, (own, _) in enumerate(batch):
            ids[row, : len(own)], mask[row, : len(own)] = own, 1
        given = [torch.from_numpy(x).to(self._device) for x in (ids, mask)]
        logits = self.model(input_ids=given[0], attention_mask=given[1]).logits
        if not self._tokens:
            if any(len(places) != 1 for _, places in batch):
                raise Refused(f"model {self.spec.path!r}: says one number of a whole, expected one that judges steps")
            return logits
        rows = np.concatenate([np.full(len(places), row) for row, (_, places) in enumerate(batch)])
        return logits[torch.from_numpy(rows), torch.from_numpy(np.concatenate([places for _, places in batch]))]

    def _load(self) -> PreTrainedModel:
        cls: Any = AutoModelForTokenClassification if self._tokens else AutoModelForSequenceClassification
        with quiet(), refusing(self.spec.path):
            loaded: Any = cls.from_pretrained(
                self.spec.path, use_safetensors=True, trust_remote_code=False, output_loading_info=True
            )
        model, report = loaded
        wrong = sorted({*report["missing_keys"], *(str(key[0]) for key in report["mismatched_keys"])})
        if wrong:
            raise Refused(
                f"model {self.spec.path!r}: {len(wrong)} weights missing or of another shape, {wrong[0]} for one; "
                "expected a reward model"
            )
        return model

    def _adopted(self) -> bool:
        """Whether its sequences can lie end to end; where not, it attends as transformers has it."""
        if not hasattr(self.model, "score") or getattr(self.model.config, "is_encoder_decoder", False):
            return False
        try:
            adopt(self.model.base_model)
        except Refused:
            self.model.set_attn_implementation("sdpa")
            return False
        return True


class _Writer:
    """From passages to ids."""

    def __init__(self, tokenizer: Any, own: bool) -> None:
        self._tokenizer = tokenizer
        self._renderer = Renderer(tokenizer) if own else None

    def write(self, passage: Passage) -> Encoded:
        messages = passage.messages
        if not messages:
            return self._cut(passage.text, passage.marks, 0)
        answer = messages[-1].content
        if self._renderer:
            prompt = self._renderer.prompt(messages[:-1]).astype(np.int64)
            ids, places = self._cut(answer, passage.marks, 0)
            whole = np.concatenate([prompt, ids, [self._renderer.end_id]])
            return whole, places + len(prompt) if passage.marks else np.array([len(whole) - 1])
        if self._tokenizer.chat_template is None and self._tokenizer.cls_token is not None:
            return self._pair("\n".join(m.content for m in messages[:-1]), answer, passage.marks)
        text = self._text(messages)
        return self._cut(text, passage.marks, text.rfind(answer) if passage.marks else 0)

    def _text(self, messages: Sequence[Message]) -> str:
        if self._tokenizer.chat_template is None:
            return "\n".join(m.content for m in messages) + self._tokenizer.eos_token
        chat = [{"role": m.role, "content": m.content} for m in messages]
        return str(self._tokenizer.apply_chat_template(chat, tokenize=False))

    def _cut(self, text: str, marks: Sequence[int], offset: int) -> Encoded:
        """Places are those of the tokens that the marked characters are in."""
        found = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=bool(marks))
        return _placed(found, [(start, end) for start, end in found["offset_mapping"]] if marks else [], marks, offset)

    def _pair(self, prompt: str, answer: str, marks: Sequence[int]) -> Encoded:
        """As encoders read it: [CLS] prompt [SEP] answer [SEP]."""
        found = self._tokenizer(prompt, answer, return_offsets_mapping=bool(marks))
        spans = zip(found["offset_mapping"], found.sequence_ids(), strict=True) if marks else ()
        return _placed(found, [span if part == 1 else (0, 0) for span, part in spans], marks, 0)


def _placed(found: Any, spans: Sequence[tuple[int, int]], marks: Sequence[int], offset: int) -> Encoded:
    ids = np.array(found["input_ids"], np.int64)
    if not marks:
        return ids, np.array([len(ids) - 1])
    ends = [offset + mark - 1 for mark in marks]  # the last character of each
    return ids, np.array([next(i for i, (a, b) in enumerate(spans) if a <= end < b) for end in ends])


@dataclass(eq=False)
class _Question:
    encoded: list[Encoded]
    answer: asyncio.Future[list[np.ndarray]]


class ScalarReader:
    """Questions of several panels and groups at once, read in common batches on a thread of their own: whatever comes
    in while a batch is computed goes into the next one."""

    def __init__(self, spec: ScalarModel) -> None:
        self.spec = spec
        self._judge: ScalarJudge | None = None
        self._waiting: list[_Question] = []
        self._work: asyncio.Task[None] | None = None
        self._loading = asyncio.Lock()

    async def open(self) -> ScalarJudge:
        """Load the model, where it is not. Raises `Refused`."""
        async with self._loading:
            if self._judge is None:
                self._judge = await asyncio.to_thread(ScalarJudge, self.spec)
            return self._judge

    async def read(self, passages: Sequence[Passage]) -> list[np.ndarray | None]:
        """See `Toolbox.scalar`."""
        judge = await self.open()
        encoded = [judge.encode(passage) for passage in passages]
        fitting = [one for one in encoded if one is not None]
        if not fitting:
            return [None] * len(encoded)
        question = _Question(fitting, asyncio.get_running_loop().create_future())
        self._waiting.append(question)
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._run(judge))
        numbers = iter(await question.answer)
        return [None if one is None else next(numbers) for one in encoded]

    async def _run(self, judge: ScalarJudge) -> None:
        while self._waiting:
            questions, self._waiting = self._waiting, []
            flat = [one for question in questions for one in question.encoded]
            try:
                numbers = iter(await asyncio.to_thread(read_all, judge, flat))
            except (RuntimeError, ValueError) as error:  # Refused, and what torch says of a batch it can't compute
                for question in questions:
                    if not question.answer.done():
                        question.answer.set_exception(error)
                continue
            for question in questions:
                own = [next(numbers) for _ in question.encoded]
                if not question.answer.done():  # a cancelled question waits no more
                    question.answer.set_result(own)


def read_all(judge: ScalarJudge, encoded: Sequence[Encoded]) -> list[np.ndarray]:
    """f32[K, labels] of each, in order; computed in batches of `batch_tokens`, the longest first."""
    order = sorted(range(len(encoded)), key=lambda i: -len(encoded[i][0]))
    out: list[Any] = [None] * len(encoded)
    while order:
        take = max(1, judge.spec.batch_tokens // len(encoded[order[0]][0]))
        rows, order = order[:take], order[take:]
        for row, numbers in zip(rows, judge.read([encoded[row] for row in rows]), strict=True):
            out[row] = numbers
    return out
