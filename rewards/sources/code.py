"""The answer is a program, and must pass its tests: in a sandbox with limits on time, memory, processes and output.

Where the task has a column `tests` (HumanEval's `test`), the program is prompt and answer together, and the tests call
`check(entry_point)` on it. Where it has `inputs` and `outputs`, the answer is a program that reads the one and has
to print the other. Of an answer with fenced code blocks the last block is the program.

The tests run in the answer's own process, which ends with a word that is drawn for each run and handed over on standard
input: an answer that just exits has not passed. One that goes through the interpreter's frames could still find it.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from rewards.failures import abstained, one_line
from rewards.ports import Case, Toolbox
from rewards.programs import Limits, Ran
from rewards.types import Group, Score, Task

_BLOCK = re.compile(r"```[\w+-]*\n(.*?)(?:```|\Z)", re.DOTALL)
_RUNNER = """\
import io, os, sys
word, out = sys.stdin.readline().strip(), os.dup(1)
sys.stdin = io.StringIO()
exec(compile({program!r}, "answer", "exec"), {{"__name__": "answer"}})
os.write(out, ("\\n" + word).encode())
"""


@dataclass(frozen=True)
class Code:
    """1.0 where the answer passes all its tests, else 0.0; or the share that it passes.

    tests        the task's column with HumanEval's tests
    entry_point  the column with the name of the function that they call
    inputs       the column with a list of inputs, each run on its own; or one input
    outputs      the column with what the program has to print, white space at line ends and at the end aside
    partial      the share of inputs that come out right, instead of all or nothing
    limits       what a program may take; one that takes more is wrong
    """

    tests: str = "test"
    entry_point: str = "entry_point"
    inputs: str = "inputs"
    outputs: str = "outputs"
    partial: bool = False
    limits: Limits = field(default_factory=Limits)

    uses_sandbox: ClassVar[bool] = True
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)

    async def score(self, group: Group, tools: Toolbox) -> Sequence[Score]:
        """One score per rollout; abstains where the task has neither tests nor inputs and outputs."""
        task = group.task
        texts = [program_of(rollout.text) for rollout in group.rollouts]
        if self.tests in task.meta and self.entry_point in task.meta:
            return await asyncio.gather(*(self._tested(text, task, tools) for text in texts))
        cases = self._cases(task)
        if cases is None:
            wanted = f"columns {self.tests} and {self.entry_point}, or {self.inputs} and {self.outputs}"
            return [abstained(f"task {task.id!r} has no tests: expected {wanted}")] * len(texts)
        return await asyncio.gather(*(self._printed(text, cases, tools) for text in texts))

    async def _tested(self, text: str, task: Task, tools: Toolbox) -> Score:
        word, name = secrets.token_hex(16), str(task.meta[self.entry_point])
        program = f"{joined(prompt_of(task), text, name)}\n{task.meta[self.tests]}\ncheck({name})\n"
        ran = await tools.execute(_RUNNER.format(program=program), f"{word}\n", self.limits)
        if ran.status == 0 and ran.stdout.endswith("\n" + word):
            return Score(1.0)
        ended = "it ended before its tests were through" if ran.status == 0 else why(ran)
        return Score(0.0, explanation=ended)

    def _cases(self, task: Task) -> list[tuple[str, str]] | None:
        given, wanted = (as_list(task.meta.get(column)) for column in (self.inputs, self.outputs))
        if not wanted or len(given or [""]) != len(wanted):
            return None
        return list(zip(given or [""], wanted, strict=True))

    async def _printed(self, text: str, cases: Sequence[tuple[str, str]], tools: Toolbox) -> Score:
        runs = await asyncio.gather(*(tools.execute(text, given, self.limits) for given, _ in cases))
        right = [ran.status == 0 and lines(ran.stdout) == lines(out) for ran, (_, out) in zip(runs, cases, strict=True)]
        passed = sum(right) / len(right)
        parts = {"passed": passed}
        if all(right):
            return Score(1.0, parts=parts)
        first = right.index(False)
        ran, (given, out) = runs[first], cases[first]
        told = why(ran) if ran.status else f"printed {ran.stdout.strip()[:100]!r}, expected {out.strip()[:100]!r}"
        return Score(passed if self.partial else 0.0, explanation=f"on {given[:60]!r}: {told}", parts=parts)

    def case(self, task: Task) -> Case | None:
        """The reference, and a program that does nothing but fail."""
        testable = self.tests in task.meta or self._cases(task) is not None
        if task.reference is None or not testable:
            return None
        return Case(
            task, task.reference, "    raise SystemExit(1)\n" if self.tests in task.meta else "raise SystemExit(1)\n"
        )


def program_of(text: str) -> str:
    """The last fenced code block, or the whole text."""
    blocks = _BLOCK.findall(text)
    return blocks[-1] if blocks else text


def prompt_of(task: Task) -> str:
    """What the answer goes on from."""
    return task.messages[-1].content if task.messages else ""


def joined(prompt: str, text: str, name: str) -> str:
    """Prompt and answer as one program. An answer that defines the function anew need not go on from the prompt."""
    anew = re.search(rf"^(async )?def {re.escape(name)}\b", text, re.MULTILINE)
    return f"{prompt.rstrip()}\n\n{text}" if anew else prompt + text


def lines(text: str) -> list[str]:
    """What is compared of an output."""
    return [line.rstrip() for line in text.rstrip().splitlines()]


def why(ran: Ran) -> str:
    """Why a program did not end well."""
    limits = {"time": "it ran out of time", "output": "it printed too much"}
    return limits.get(ran.stopped or "", one_line(ran.last_line))


def as_list(value: Any) -> list[str] | None:
    """A column of one text or of several."""
    if value is None:
        return None
    return [str(one) for one in value] if isinstance(value, list | tuple) else [str(value)]
