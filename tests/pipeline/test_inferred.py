"""Labels from rollouts: which prefixes are gone on from, who judges what, and what is left out."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import numpy as np
import pytest

from pipeline.algorithms.process import Infer
from pipeline.failures import FailureBudget
from pipeline.inferred import InferredFeed
from rewards.steps import Steps
from rewards.types import Failure, Group, Message, Rollout, Score, ScoredGroup, Task, Turn, Verdict
from workers.messages import Generated
from workers.types import Judged, Sampling

PROMPT = np.array([1, 2], np.int32)
SAMPLING = Sampling(12, seed=5)
STEPS = Steps(by="regex", at=",")


def ids(text):
    return np.array([ord(c) for c in text], np.int32)


def written(ids_):
    return "".join(map(chr, ids_))


@dataclass
class Scribe:
    """One token per character. Writes `answers`, then what `onwards` says of a prefix; remembers what it was asked."""

    answers: list[str]
    onwards: dict[str, list[str]]
    asked: list = field(default_factory=list)

    async def run(self, wave):
        self.asked.append(list(wave))
        for request in reversed(wave):
            texts = self.answers if request.begun is None else self.onwards[written(request.begun)]
            rollouts = tuple(self._rollout(i, texts[i % len(texts)], request) for i in range(request.n))
            yield Generated((Group(request.group_id, request.task, rollouts),), 0.5, "rollout-0")

    def _rollout(self, index, text, request):
        prompt = PROMPT if request.begun is None else np.concatenate([PROMPT, request.begun])
        offsets = np.arange(1, len(text) + 1, dtype=np.int32) if request.sampling.offsets else None
        turn = Turn(prompt, ids(text), np.full(len(text), -1, np.float32), text, "stop", ((0, 0),), offsets)
        return Rollout(index, (turn,))


@dataclass
class Judge:
    """Right is what ends with !; what holds a ? can't be judged."""

    seen: list[str] = field(default_factory=list)

    async def judge(self, groups):
        return Judged(tuple(ScoredGroup(g, tuple(self._verdict(r) for r in g.rollouts)) for g in groups), 0.25)

    def _verdict(self, rollout):
        self.seen.append(rollout.text)
        if "?" in rollout.text:
            failure = Failure("source:s", "error", "no idea")
            return Verdict(None, {"s": Score(failure=failure)}, failure=failure)
        reward = float(rollout.text.endswith("!"))
        return Verdict(reward, {"s": Score(reward)})


def labelled(scribe, judge=None, places=1, **infer):
    feed = InferredFeed(
        lambda place: Task(f"t{place}", (Message("user", "x"),)),
        scribe,
        judge or Judge(),
        SAMPLING,
        Infer(**{"rollouts": 2, "steps": STEPS, **infer}),
        places,
        FailureBudget(1.0, 512),
    )
    return asyncio.run(feed.batch(range(places)))


def test_every_step_but_the_last_is_gone_on_from_as_the_tokens_that_were_written():
    scribe, judge = Scribe(["ab,cd,e"], {"ab,": ["!", "x,y!"], "ab,cd,": ["x", "y"]}), Judge()
    batch = labelled(scribe, judge)
    (sample,) = batch.samples
    assert sample.steps.tolist() == [1, 0, 0]
    assert sample.step_ends.tolist() == [2, 5, 6]
    assert written(sample.ids[sample.mask]) == "ab,cd,e"
    first, second = scribe.asked
    assert [request.begun is None for request in first] == [True]
    assert [(written(r.begun), r.n, r.sampling.max_new_tokens) for r in second] == [("ab,", 2, 9), ("ab,cd,", 2, 6)]
    assert len({r.group_id for r in second}) == 2, "what they draw depends on the group"
    assert first[0].sampling.seed != second[0].sampling.seed
    # Judged as a whole, prefix and all.
    assert sorted(judge.seen) == ["ab,!", "ab,cd,e", "ab,cd,x", "ab,cd,y", "ab,x,y!"]
    assert batch.metrics["label/mean"] == pytest.approx(1 / 3)
    assert (batch.generate, batch.judge) == (1.5, 0.75)
    assert [scored.group.id for scored in batch.groups] == [0]


def test_what_became_of_the_attempt_counts_as_one_rollout_more():
    scribe = Scribe(["ab,c!"], {"ab,": ["x", "y"]})
    assert labelled(scribe).samples[0].steps.tolist() == [1, 1]
    np.testing.assert_allclose(labelled(scribe, by="soft").samples[0].steps, [1 / 3, 1])


def test_values_know_how_far_it_still_was():
    """From "a," the nearest right way out is one step long; the attempt's own would be two."""
    scribe = Scribe(["a,b,c!"], {"a,": ["z!", "y"], "a,b,": ["x", "x"]})
    np.testing.assert_allclose(labelled(scribe, by="value").samples[0].steps, [1 / 2, 3 / 4, 1], rtol=1e-6)


def test_one_step_alone_is_the_attempts_own_outcome():
    scribe = Scribe(["abc!", "abc"], {})
    batch = labelled(scribe, attempts=2)
    assert [sample.steps.tolist() for sample in batch.samples] == [[1], [0]]
    assert len(scribe.asked) == 1, "there was nothing to go on from"


def test_what_cant_be_judged_or_has_no_step_is_left_out():
    scribe = Scribe(["ab,?", "", "b,!"], {"ab,": ["!", "!"], "b,": ["?", "!"]})
    batch = labelled(scribe, attempts=3)
    assert [(s.index, s.steps.tolist()) for s in batch.samples] == [(2, [1, 1])]


def test_steps_are_made_ahead_and_in_order():
    scribe = Scribe(["abc!"], {})

    async def go():
        feed = InferredFeed(
            lambda place: Task(f"t{place}", (Message("user", "x"),)),
            scribe, Judge(), SAMPLING, Infer(steps=STEPS), 2, FailureBudget(1.0, 512),
        )  # fmt: skip
        batches = [await feed.take(step) for step in (3, 4)]
        unseen = await feed.unseen([Task("u", (Message("user", "x"),))])
        await feed.stop()
        return batches, unseen

    batches, unseen = asyncio.run(go())
    assert [[sample.group for sample in batch.samples] for batch in batches] == [[6, 7], [8, 9]]
    assert len(unseen) == 1
    seeds = {request.sampling.seed for wave in scribe.asked for request in wave if request.task.id == "u"}
    assert seeds and SAMPLING.seed not in seeds
