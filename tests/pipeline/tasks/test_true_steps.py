"""The judge of the laptop world's steps, and every demonstration's."""

from __future__ import annotations

import pytest

from pipeline.tasks.arithmetic import Arithmetic, scratchpad
from pipeline.tasks.true_steps import true_steps
from rewards.steps import Steps

SPLIT = Steps("regex", "[,.]")


def judged(text):
    return true_steps("47+38=", SPLIT.texts(text), "85")


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("7+8=15,4+3+1=8.85", [1, 1, 1]),
        ("7+8=15,4+3+0=8.85", [1, 0, 1]),
        ("12-8=4,5-3-1=1.41", [1, 1, 1]),
        ("4+0+0=4,4+0+0=4,4+0+", [1, 1, 0]),
        ("85", [0]),
        ("7+8,85", [0, 1]),
        ("7+8=15,x", [1, 0]),
    ],
)
def test_by_hand(text, steps):
    assert judged(text) == steps


def test_every_right_scratchpad_is_right_in_every_step():
    for task in Arithmetic(train=200, held_out=1).load(0).train:
        operation = "+" if "+" in task.messages[0].content else "-"
        a, b = map(int, task.messages[0].content.rstrip("=").split(operation))
        assert set(judged(scratchpad(operation, a, b, (True,), False))) == {1.0}
