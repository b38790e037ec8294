"""Programs as answers, by HumanEval's tests and by what they print; and all of HumanEval itself."""

from __future__ import annotations

import asyncio
import gzip
import json
import time

import numpy as np
import pytest

from rewards.errors import Refused
from rewards.panel import Panel, Seat
from rewards.programs import Limits
from rewards.selfcheck import selfcheck
from rewards.sources.code import Code, joined, program_of
from rewards.types import Group, Message, Rollout, Task, Turn
from workers.judging.live import LiveToolbox
from workers.judging.sandbox import check

ADD = 'def add(a, b):\n    """Add."""\n'
TEST = "def check(candidate):\n    assert candidate(1, 2) == 3\n    assert candidate(-1, 1) == 0\n"


@pytest.fixture(scope="module", autouse=True)
def _works():
    try:
        check()
    except Refused as error:
        pytest.skip(str(error))


def group(task, texts):
    none = np.zeros(0, np.int32)
    turns = (Turn(none, none, np.zeros(0, np.float32), text, "stop", ((0, 0),)) for text in texts)
    return Group(0, task, tuple(Rollout(i, (turn,)) for i, turn in enumerate(turns)))


def run(use, places=2):
    async def go():
        tools = LiveToolbox(places)
        try:
            return await use(tools)
        finally:
            await tools.aclose()

    return asyncio.run(go())


def judge(source, task, texts):
    verdicts = run(lambda tools: Panel((Seat("code", source),)).judge(group(task, texts), tools)).verdicts
    return [verdict.scores["code"] for verdict in verdicts]


def humaneval(meta=None, reference="    return a + b\n"):
    return Task("add", (Message("user", ADD),), reference, meta=meta or {"test": TEST, "entry_point": "add"})


def test_humanevals_format():
    texts = {
        "    return a + b\n": 1,
        "    return a - b\n": 0,
        "Here:\n```python\ndef add(a, b):\n    return b + a\n```\nDone.": 1,
        "    import os; os._exit(0)\n": 0,
        "    raise SystemExit\n": 0,
        "    return a +\n": 0,
        "    while True: pass\n": 0,
    }
    found = judge(Code(limits=Limits(cpu_s=1)), humaneval(), list(texts))
    assert [score.value for score in found] == list(texts.values())
    told = [score.explanation for score in found]
    assert told[0] == told[2] == ""
    assert told[1] == "AssertionError"
    assert told[3] == told[4] == "it ended before its tests were through"
    assert told[5].startswith("SyntaxError")
    assert told[6] == "it ran out of time"


def test_what_a_program_prints():
    task = Task("sum", (Message("user", "Add them."),), meta={"inputs": ["1 2\n", "3 4\n"], "outputs": ["3", "7\n"]})
    right, half, wrong = "print(sum(map(int, input().split())), ' ')", "input()\nprint(3)", "1/0"
    found = judge(Code(), task, [right, half, wrong])
    assert [s.value for s in found] == [1, 0, 0]
    assert [s.parts for s in found] == [{"passed": 1.0}, {"passed": 0.5}, {"passed": 0.0}]
    assert found[1].explanation == "on '3 4\\n': printed '3', expected '7'"
    assert found[2].explanation == "on '1 2\\n': ZeroDivisionError: division by zero"
    assert [s.value for s in judge(Code(partial=True), task, [right, half, wrong])] == [1, 0.5, 0]


@pytest.mark.parametrize("meta", [{"x": 1}, {"inputs": ["1"], "outputs": ["1", "2"]}, {"outputs": []}, {"test": TEST}])
def test_a_task_without_tests_is_an_abstention(meta):
    [found] = judge(Code(), humaneval(meta), ["x"])
    assert found.failure is not None
    assert str(found.failure).startswith("source:code abstained: task 'add' has no tests: expected columns test and")


def test_programs_in_answers():
    assert program_of("a\n```python\nx\n```\nb\n```\ny\n```") == "y\n"
    assert program_of("```py\ncut off") == "cut off"
    assert program_of("plain") == "plain"
    assert joined("def f():\n", "    pass", "f") == "def f():\n    pass"
    assert joined("def f():\n", "def f(): pass", "f") == "def f():\n\ndef f(): pass"


def test_gold_is_above_foil():
    printed = Task("p", (Message("user", "?"),), "print(5)", meta={"outputs": ["5"]})
    tried = [humaneval(), printed, Task("none", (), "5")]
    assert run(lambda tools: selfcheck(Seat("code", Code()), tried, tools)) == 2


@pytest.mark.slow
def test_humaneval_canonical_solutions_all_pass_and_corrupted_ones_fail(data_dir):
    """Each solution as it is, and with a body that returns nothing; 164 problems, two at once."""
    text = gzip.decompress((data_dir / "humaneval" / "HumanEval.jsonl.gz").read_bytes()).decode()
    rows = [json.loads(line) for line in text.splitlines()]
    assert len(rows) == 164
    tasks = [
        Task(r["task_id"], (Message("user", r["prompt"]),), meta={"test": r["test"], "entry_point": r["entry_point"]})
        for r in rows
    ]

    async def both(tools):
        source, began = Code(), time.perf_counter()
        right = await asyncio.gather(
            *(source.score(group(t, [r["canonical_solution"]]), tools) for t, r in zip(tasks, rows, strict=True))
        )
        seconds = time.perf_counter() - began
        broken = "    return None\n"
        wrong = await asyncio.gather(*(source.score(group(task, [broken]), tools) for task in tasks))
        return right, wrong, seconds

    right, wrong, seconds = run(both)
    print(f"164 canonical solutions in {seconds:.1f} s")
    assert [t.id for t, [score] in zip(tasks, right, strict=True) if score.value != 1.0] == []
    assert [t.id for t, [score] in zip(tasks, wrong, strict=True) if score.value != 0.0] == []
