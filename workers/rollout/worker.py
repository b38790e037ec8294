"""A rollout worker: renders tasks, lets an engine complete them, and hands finished groups back as they come."""

from __future__ import annotations

import gc
import importlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from rewards.errors import RunFailed
from rewards.steps import tokens_at
from rewards.types import Failure, Group, Message, Rollout, Turn
from workers.messages import Generated, Wave
from workers.ports import Engine
from workers.types import Completion, Prompt, Proof, Published, Request

if TYPE_CHECKING:
    from workers.rollout.renderer import Renderer

# The engines' modules.
TORCH, VLLM = "workers.rollout.torch_engine", "workers.rollout.vllm_engine"
# Groups are handed over together this often: a message per group would cost short generations more than it gains.
HAND_OVER_S = 0.25


class RolloutWorker:
    """Hosts one engine.

    Its `module` takes seconds to import: a worker does so when it starts, while the model may still be in the making,
    and the driver, which only names this class, never does.
    """

    def __init__(self, name: str, module: str = TORCH):
        self.name = name
        importlib.import_module(module)

    def open(self, model_path: str, make_engine: Callable[[str, Renderer], Engine]) -> None:
        """Make the engine, here in the worker's own process."""
        from workers.rollout.renderer import Renderer

        self.renderer = Renderer.load(model_path)
        self.engine = make_engine(model_path, self.renderer)
        gc.freeze()  # what is here now stays: no collection while generating need look at it

    def render(self, pairs: Sequence[tuple[Sequence[Message], str]]) -> list[tuple[np.ndarray, np.ndarray]]:
        """See `Rollouts.render`."""
        return [(self.renderer.prompt(messages), self.renderer.answer(text)) for messages, text in pairs]

    def step_ends(self, answers: Sequence[tuple[np.ndarray, Sequence[int]]]) -> list[np.ndarray]:
        """See `Rollouts.step_ends`."""
        return [tokens_at(self.renderer.offsets(ids), np.asarray(ends, np.int32)) for ids, ends in answers]

    async def run(self, wave: Wave) -> AsyncIterator[Generated]:
        """See `Rollouts.run`. Raises `RunFailed`, with the worker's name, where its engine broke.

        A prompt that is too long comes back first, its rollouts as failures; or it is refused, with the task's name.
        """
        requests = {request.group_id: request for request in wave.requests}
        rendered = [Prompt(r.group_id, self._prompt(r), r.n, r.sampling) for r in requests.values()]
        groups = [_dropped(requests[p.id], len(p.prompt_ids)) for p in rendered if _too_long(p)]
        prompts = [prompt for prompt in rendered if not _too_long(prompt)]
        prompt_ids = {prompt.id: prompt.prompt_ids for prompt in prompts}
        missing, start = len(prompts), time.perf_counter()
        if groups and not missing:
            yield Generated(tuple(groups), time.perf_counter() - start, self.name)
            return
        try:
            async for finished in self.engine.generate(prompts):
                groups += [self._group(requests[i], prompt_ids[i], completions) for i, completions in finished]
                missing -= len(finished)
                if not missing or time.perf_counter() - start > HAND_OVER_S:
                    yield Generated(tuple(groups), time.perf_counter() - start, self.name)
                    groups, start = [], time.perf_counter()
        except RunFailed as error:
            raise RunFailed(f"{self.name}: {error}") from error

    async def load(self, weights: Published, proof: Sequence[Awaitable[Proof]]) -> int:
        """Take over new weights; answers with the version now held. Raises `RunFailed`, with the worker's name, where
        what it then holds is not what was published.

        `proof` is the learner's, in a list: so Ray hands the worker a reference, which it only waits for at the end.
        """
        from workers.weights.proof import check

        try:
            held = await self.engine.load(weights)
            check(held, await proof[0], weights.version)
        except RunFailed as error:
            raise RunFailed(f"{self.name}: {error}") from error
        return weights.version

    async def sleep(self) -> None:
        """See `Engine.sleep`."""
        await self.engine.sleep()

    def _prompt(self, request: Request) -> np.ndarray:
        ids = self.renderer.prompt(request.task.messages)
        return ids if request.begun is None else np.concatenate([ids, request.begun])

    def _group(self, request: Request, prompt_ids: np.ndarray, completions: list[Completion]) -> Group:
        rollouts = tuple(Rollout(i, (self._turn(request, prompt_ids, c),)) for i, c in enumerate(completions))
        return Group(request.group_id, request.task, rollouts)

    def _turn(self, request: Request, prompt_ids: np.ndarray, c: Completion) -> Turn:
        text = self._text(request, c)
        offsets = np.minimum(self.renderer.offsets(c.ids), len(text)) if request.sampling.offsets else None
        return Turn(prompt_ids, c.ids, c.logprobs, text, c.stop, c.versions, offsets)

    def _text(self, request: Request, completion: Completion) -> str:
        text = self.renderer.text(completion.ids)
        for stop in request.sampling.stop:
            text = text.split(stop, 1)[0]
        return text


def _too_long(prompt: Prompt) -> bool:
    limit = prompt.sampling.max_prompt_tokens
    return limit is not None and len(prompt.prompt_ids) > limit


def _dropped(request: Request, tokens: int) -> Group:
    """The group of a prompt that is too long: rollouts without a turn. Raises `RunFailed` where it is to be refused."""
    detail = f"a prompt of {tokens} tokens, rollout.max_prompt_tokens allows {request.sampling.max_prompt_tokens}"
    if request.sampling.long_prompts == "refuse":
        raise RunFailed(f"task {request.task.id!r} has {detail}; allow more, or set rollout.long_prompts=drop")
    failure = Failure("rollout", "long_prompt", detail)
    return Group(request.group_id, request.task, tuple(Rollout(i, (), failure) for i in range(request.n)))
