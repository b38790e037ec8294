"""Answers on file as samples."""

from __future__ import annotations

import asyncio

import numpy as np

from pipeline.feeds import OfflineFeed, answers, demonstration
from rewards.types import Message, Rated, Task


class Words:
    """Renders a word as its length, and remembers what it was asked; the end is 0."""

    def __init__(self):
        self.asked: list[str] = []

    async def render(self, tasks):
        self.asked += [str(task.demonstration) for task in tasks]
        return [
            (self._ids(task.messages[0].content), np.append(self._ids(str(task.demonstration)), np.int32(0)))
            for task in tasks
        ]

    def _ids(self, text):
        return np.array([len(word) for word in text.split()], np.int32)


def task(i, *ratings):
    found = tuple(Rated("x" * (i + 1) + " y" * j, rating) for j, rating in enumerate(ratings))
    return Task(f"t{i}", (Message("user", "aa " * (i + 1)),), demonstration="demo", answers=found)


TASKS = [task(0, 1.0, 0.0), task(1, 3.0, 2.0, 1.0), task(2, -1.0)]


def take(feed, steps):
    async def go():
        return [(await feed.take(step)).samples for step in range(steps)]

    return asyncio.run(go())


def test_a_tasks_answers_are_a_group():
    words = Words()
    feed = OfflineFeed(lambda place: TASKS[place % 3], answers, words, 2)
    first, second = take(feed, 2)
    assert [(s.group, s.index, s.reward) for s in first] == [(0, 0, 1), (0, 1, 0), (1, 0, 3), (1, 1, 2), (1, 2, 1)]
    assert [(s.group, s.index, s.reward) for s in second] == [(2, 0, -1), (3, 0, 1), (3, 1, 0)]
    assert first[3].ids.tolist() == [2, 2, 2, 1, 0]
    assert first[3].mask.tolist() == [False, False, True, True, True]
    assert all(s.logp_rollout is None for s in first)
    assert len(words.asked) == len(set(words.asked)) == 6, "each text is tokenized once"


def test_mismatched_answers_come_unrated():
    (samples,) = take(OfflineFeed(lambda place: TASKS[place % 3], answers, Words(), 3, mismatched=True), 1)
    found = [(s.group, s.index, s.ids.tolist()) for s in samples if s.reward is None]
    assert found == [
        (0, 2, [2, 2, 0]),  # the first task's prompt with the second's answers
        (0, 3, [2, 2, 1, 0]),
        (0, 4, [2, 2, 1, 1, 0]),
        (1, 3, [2, 2, 3, 0]),
        (2, 1, [2, 2, 2, 1, 0]),
        (2, 2, [2, 2, 2, 1, 1, 0]),
    ]


def test_demonstrations_are_not_rated():
    (samples,) = take(OfflineFeed(lambda place: TASKS[place % 3], demonstration, Words(), 2), 1)
    assert [(s.group, s.reward, s.ids.tolist()) for s in samples] == [(0, None, [2, 4, 0]), (1, None, [2, 2, 4, 0])]
