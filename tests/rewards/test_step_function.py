"""A function as a judge of steps, in real helper processes."""

from __future__ import annotations

import asyncio

import pytest

from rewards.errors import Refused
from rewards.panel import Panel, Seat
from rewards.selfcheck import selfcheck
from rewards.sources.step_function import StepFunction
from rewards.steps import Steps
from rewards.types import Message, Task
from workers.judging.toolbox import ProcessToolbox

SPLIT = Steps("regex", ",")


def run(use):
    async def go():
        tools = ProcessToolbox(1)
        try:
            return await use(tools)
        finally:
            tools.close()

    return asyncio.run(go())


def judge(group, source, **seat):
    return run(lambda tools: Panel((Seat("steps", source, **seat),)).judge(group, tools)).verdicts


def test_steps_come_with_where_they_end_and_count_by_themselves(make_group):
    found = judge(make_group(["a,bb,ccc", "", "bad,a"]), StepFunction("faulty:lengths", SPLIT), weight=0.5)
    first, empty, bad = found
    assert first.steps is not None and first.steps.tolist() == [1.0, 1.5, 1.5]
    assert first.ends is not None and first.ends.tolist() == [2, 5, 8]
    assert (first.reward, first.total) == (0.0, 4.0)
    assert first.scores["steps"].value == pytest.approx(8 / 3)
    assert str(empty.failure) == "source:steps abstained: no step found in the answer"
    assert str(bad.failure) == "source:steps abstained: the function returned None for a step"


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        ("few,a,b", "malformed: 1 step rewards for 3 steps"),
        ("text,a", "malformed: expected a list of numbers, one per step, not 'high'"),
        ("nan,a", "malformed: a step reward is not finite"),
    ],
)
def test_what_is_no_list_of_numbers_is_malformed(make_group, text, failure):
    [verdict] = judge(make_group([text]), StepFunction("faulty:lengths", SPLIT))
    assert str(verdict.failure) == f"source:steps {failure}"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("faulty:letters", "takes (completions, columns): expected (prompt, steps, reference)"),
        ("faulty:lenghts", "'faulty' has no 'lenghts'; did you mean 'lengths'?"),
        ("math:pi", "expected a function, found float"),
    ],
)
def test_a_function_that_is_none_is_refused(path, message):
    with pytest.raises(Refused) as refused:
        StepFunction(path)
    assert message in str(refused.value)


def test_selfcheck():
    task = Task("t", (Message("user", "?"),))
    source = StepFunction("faulty:lengths", SPLIT, gold="aaa", foil="a")
    assert run(lambda tools: selfcheck(Seat("s", source), [task], tools)) == 1
    turned = StepFunction("faulty:lengths", SPLIT, gold="a", foil="aaa")
    with pytest.raises(Refused, match="fails its self-check"):
        run(lambda tools: selfcheck(Seat("s", turned), [task], tools))
