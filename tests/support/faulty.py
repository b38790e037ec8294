"""Judges and reward functions that misbehave on purpose. A module of its own, so that workers can import it."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rewards.failures import abstained
from rewards.types import Score

# Reward functions ------------------------------------------------------------------------------------------------


def letters(completions, **columns):
    """TRL: the share of the reference's letters that the completion has."""
    return [len(set(c) & set(r)) / len(set(r)) for c, r in zip(completions, columns["reference"], strict=True)]


def columns_seen(prompts, completions, completion_ids, reference, level, **rest):
    assert not rest, rest
    assert len(prompts) == len(completion_ids) == len(reference) == len(level) == len(completions)
    return [float(len(ids)) for ids in completion_ids]


def first_message(completions, prompts, **columns):
    assert prompts[0][-1]["role"] == "user"
    return np.array([float(len(c[0]["content"])) for c in completions])


def odd_numbers(completions, **columns):
    return [1.0, None, math.nan, math.inf, "high", np.float32(0.5), True][: len(completions)]


async def slowly(completions, **columns):
    await asyncio.sleep(0.01)
    return [1.0] * len(completions)


def too_few(completions, **columns):
    return [1.0]


def hangs(completions, **columns):
    while True:
        pass


def compute_score(data_source, solution_str, ground_truth, extra_info):
    """verl: misbehaves on request."""
    match solution_str:
        case "hang":
            time.sleep(1e6)
        case "exit":
            os._exit(7)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "sys.exit":
            sys.exit("enough")
        case "raise":
            raise Awkward("bad", "worse")
        case "none":
            return None
        case "scoreless":
            return {"acc": 1.0}
    assert (data_source, extra_info) == ("sums", {"index": 3})
    right = solution_str == ground_truth
    return {"score": 1.0 if right else -1.0, "acc": right, "note": "text"}


def openrlhf_list(queries, prompts, labels):
    assert all(query.startswith(prompt) for query, prompt in zip(queries, prompts, strict=True))
    return np.array([float(query.endswith(label)) for query, label in zip(queries, labels, strict=True)])


def openrlhf_dict(queries, prompts, labels, **kwargs):
    rewards = openrlhf_list(queries, prompts, labels)
    return {"rewards": rewards, "scores": rewards, "extra_logs": {"length": np.array([len(q) for q in queries])}}


class Awkward(Exception):
    """Can be pickled, but not unpickled."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def lengths(prompt, steps, reference):
    """Of steps: each is worth its letters; misbehaves on request."""
    match steps[0]:
        case "bad,":
            return [None, 1.0]
        case "few,":
            return [1.0]
        case "text,":
            return "high"
        case "nan,":
            return [math.nan, 1.0]
    return [float(len(step)) for step in steps]


def neither(answer, truth):
    return 0.0


# Things to run in a helper ---------------------------------------------------------------------------------------


def pid_and_threads():
    return os.getpid(), os.environ["OMP_NUM_THREADS"]


def nap(seconds):
    time.sleep(seconds)
    return seconds


def endless_c_loop():
    return str(9**9**9)


def write_pid_and_hang(path):
    Path(path).write_text(str(os.getpid()))
    time.sleep(1e6)


# Sources ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scripted:
    """Scores from the text of the rollout: a number, or the name of a misbehaviour; `calls` counts the questions.

    A text "late:2:0.5" abstains twice and then scores 0.5; `log` is the file in which the questions are noted.
    """

    log: str = os.devnull

    async def score(self, group, tools):
        return [await self._one(rollout.text) for rollout in group.rollouts]

    async def _one(self, text):
        with Path(self.log).open("a") as file:
            file.write(text + "\n")
        match text.split(":"):
            case ["raise"]:
                raise KeyError("no such thing\nand a second line")
            case ["sleep"]:
                await asyncio.sleep(1e6)
            case ["block"]:
                time.sleep(1e6)
            case ["die"]:
                os.kill(os.getpid(), signal.SIGKILL)
            case ["child"]:
                raise ChildProcessError("status 9")
            case ["own timeout"]:
                raise TimeoutError("the other side hung up")
            case ["abstain"]:
                return abstained("don't know")
            case ["steps", *steps]:
                ends = np.arange(1, len(steps) + 1, dtype=np.int32)
                return Score(0.0, steps=np.array([float(s) for s in steps], np.float32), ends=ends)
            case ["late", times, value]:
                asked = Path(self.log).read_text().splitlines().count(text)
                return abstained("not yet") if asked <= int(times) else Score(float(value))
        return Score(float(text))


@dataclass(frozen=True)
class Constant:
    value: float = 1.0

    async def score(self, group, tools):
        return [Score(self.value)] * len(group.rollouts)


@dataclass(frozen=True)
class Returns:
    """Answers with something that is no list of scores."""

    what: str

    async def score(self, group, tools):
        return {"none": None, "numbers": [1.0] * len(group.rollouts), "short": [Score(1.0)], "text": "high"}[self.what]


@dataclass(frozen=True)
class ReportsPid:
    """The value is the judge's process id."""

    async def score(self, group, tools):
        return [Score(float(os.getpid()))] * len(group.rollouts)


@dataclass(frozen=True)
class LikesLonger:
    """A judge with a wrong idea: its foil is longer than its gold."""

    async def score(self, group, tools):
        return [Score(float(len(r.text))) for r in group.rollouts]

    def case(self, task):
        from rewards.ports import Case

        return Case(task, "short", "much longer") if task.reference else None
