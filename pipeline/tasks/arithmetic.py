"""The laptop world: addition and subtraction with a written-out scratchpad, taught by a flawed teacher.

The scratchpad goes from the units up, one true equation per column, and the answer follows the last dot:

    47+38=  ->  7+8=15,4+3+1=8.85       units: 15, carry 1; tens with the carry
    42+37=  ->  2+7=9,4+3+0=7.79        from the second column on a carry is always written, 0 too
    78+64=  ->  8+4=12,7+6+1=14.142     the top column writes its own carry out
    52-38=  ->  12-8=4,5-3-1=1.14       units borrow ten; the next column gives it back
    58-32=  ->  8-2=6,5-3-0=2.26
    52-48=  ->  12-8=4,5-4-1=0.4        answers have no leading zeros

The teacher errs in two ways that are easy to unlearn, since the right text is always among what it might have
written: it forgets a carry or a borrow (`7+8=15,4+3+0=7.75`), and it writes the answer of a subtraction
backwards (`12-8=4,5-3-1=1.41`). A model trained on it is right on about two tasks in five, and
reinforcement learning only has to re-weight what it already samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt, Le

from pipeline.streams import stream
from pipeline.tasks.types import TaskSets
from rewards.errors import Refused
from rewards.steps import Steps
from rewards.types import Message, Rated, Task

# An equation ends with a comma or the dot, the answer with the text.
STEPS = Steps(by="regex", at="[,.]")


@dataclass(frozen=True)
class Arithmetic:
    """Generated tasks, half additions and half subtractions a - b with a >= b, each pair of operands once.

    digits    digits of both operands (2: 10 to 99)
    train     training tasks
    held_out  evaluation tasks, none of them a training task
    slip      how often the teacher forgets a carry or a borrow
    reverse   how often the teacher writes a subtraction's answer backwards
    pairs     each task has the right scratchpad and a wrong one to compare
    flipped   share of the training tasks whose two answers are rated the wrong way round (`pairs`)
    steps     answers have labels by step: the teacher's, or those of `pairs`; and the share of them that is right as
              the attribute `steps`
    """

    digits: Annotated[int, Ge(1), Le(9)] = 2
    train: Annotated[int, Gt(0)] = 7500
    held_out: Annotated[int, Gt(0)] = 500
    slip: Annotated[float, Ge(0), Le(1)] = 0.8
    reverse: Annotated[float, Ge(0), Le(1)] = 0.8
    pairs: bool = False
    flipped: Annotated[float, Ge(0), Le(1)] = 0.0
    steps: bool = False

    def __post_init__(self) -> None:
        """Raises `ValueError` for ratings that are to be turned round where there are none."""
        if self.flipped and not self.pairs:
            raise ValueError(f"flipped: {self.flipped:g} without pairs: there is nothing to turn round")

    def load(self, seed: int) -> TaskSets:
        """Raises `Refused` when there are fewer different tasks than asked for."""
        total, low, span = self.train + self.held_out, 10 ** (self.digits - 1), 9 * 10 ** (self.digits - 1)
        differences = span * (span + 1) // 2
        if total > 2 * differences:
            most = f"at most {2 * differences} with data.digits {self.digits}"
            raise Refused(f"data.train + data.held_out: {total} tasks, expected {most}")
        rng = stream(seed, "tasks.arithmetic")
        sums = rng.choice(span * span, total - total // 2, replace=False)
        triangle = rng.choice(differences, total // 2, replace=False)
        pairs: list[tuple[str, int, int]] = [("+", low + i // span, low + i % span) for i in sums.tolist()]
        pairs += [("-", low + a, low + b) for a, b in (_row_and_column(i) for i in triangle.tolist())]
        shuffled = (pairs[i] for i in rng.permutation(total))
        tasks = tuple(self._task(operation, a, b, rng) for operation, a, b in shuffled)
        wrong = stream(seed, "tasks.flipped").random(self.train) < self.flipped
        train = (_flipped(task) if flip else task for task, flip in zip(tasks, wrong.tolist(), strict=False))
        return TaskSets(tuple(train), tasks[self.train :])

    def _task(self, operation: str, a: int, b: int, rng: np.random.Generator) -> Task:
        """The demonstration's flaws are drawn once: the task is the same at every visit."""
        kept = tuple(bool(keep) for keep in rng.random(self.digits - 1) >= self.slip)
        backwards = operation == "-" and bool(rng.random() < self.reverse)
        written = scratchpad(operation, a, b, kept, backwards)
        return Task(
            id=f"{a}{operation}{b}",
            messages=(Message("user", f"{a}{operation}{b}="),),
            reference=str(a + b if operation == "+" else a - b),
            demonstration=written,
            answers=self._answers(operation, a, b, written),
            meta={"operation": operation, "carries": _carries(operation, a, b)},
        )

    def _answers(self, operation: str, a: int, b: int, written: str) -> tuple[Rated, ...]:
        if not (self.pairs or self.steps):
            return ()
        right = scratchpad(operation, a, b)
        rated = _pair(operation, a, b, written) if self.pairs else (Rated(written, float(written == right)),)
        return tuple(_labelled(one, right) for one in rated) if self.steps else rated


def scratchpad(operation: str, a: int, b: int, kept: tuple[bool, ...] | None = None, backwards: bool = False) -> str:
    """The written-out answer to `a operation b` (+ or -; operands with equally many digits, a >= b for -).

    kept[i]    whether the carry or borrow out of column i is remembered in the next one; all are by default
    backwards  write the answer's digits in reverse
    """
    columns = list(zip(map(int, reversed(str(a))), map(int, reversed(str(b))), strict=True))
    steps, digits, carry = [], "", 0
    for i, (x, y) in enumerate(columns):
        top = i == len(columns) - 1
        if operation == "+":
            out = x + y + carry
        else:
            x += 10 * (x < y + carry)
            out = x - y - carry
        steps.append(f"{x}{operation}{y}" + f"{operation}{carry}" * (i > 0) + f"={out}")
        digits = (str(out) if top else str(out % 10)) + digits
        carry = int(out > 9 if operation == "+" else x > 9) * int(kept is None or top or kept[i])
    answer = str(int(digits))
    return ",".join(steps) + "." + (answer[::-1] if backwards else answer)


def steps_right(completions: list[str], prompts: list[str], **columns: object) -> list[float]:
    """A reward function: the share of the scratchpad's equations that stand there as they should, the answer aside."""
    return [_steps_right(prompt, text) for prompt, text in zip(prompts, completions, strict=True)]


def _steps_right(prompt: str, text: str) -> float:
    operation = "+" if "+" in prompt else "-"
    a, b = map(int, prompt.rstrip("=").split(operation))
    right, written = (STEPS.texts(one) for one in (scratchpad(operation, a, b), text))
    return sum(x == y for x, y in zip(right[:-1], written, strict=False)) / (len(right) - 1)


def _pair(operation: str, a: int, b: int, written: str) -> tuple[Rated, Rated]:
    """The right scratchpad and a wrong one: the teacher's, else with every carry forgotten, else with ten too much."""
    right = scratchpad(operation, a, b)
    steps, _, answer = right.rpartition(".")
    careless = scratchpad(operation, a, b, (False,) * (len(str(a)) - 1))
    wrong = next(text for text in (written, careless, f"{steps}.{int(answer) + 10}") if text != right)
    return Rated(right, 1.0), Rated(wrong, 0.0)


def _labelled(one: Rated, right: str) -> Rated:
    """With a label for each equation and for the answer: right as long as everything up to there is."""
    ends = STEPS.ends(one.text).tolist()
    labels = tuple(
        float(right.startswith(one.text[:end]) and (end < len(one.text) or one.text == right)) for end in ends
    )
    return replace(one, attributes={"steps": sum(labels) / len(labels)}, steps=labels, ends=tuple(ends))


def _flipped(task: Task) -> Task:
    """With its two answers' ratings exchanged, the better one first."""
    if len(task.answers) != 2:
        return task
    good, bad = task.answers
    return replace(task, answers=(replace(bad, rating=good.rating), replace(good, rating=bad.rating)))


def _carries(operation: str, a: int, b: int) -> int:
    """How many columns carry into, or borrow from, a next one."""
    count = carry = 0
    for x, y in list(zip(reversed(str(a)), reversed(str(b)), strict=True))[:-1]:
        carry = int(int(x) + int(y) + carry > 9 if operation == "+" else int(x) < int(y) + carry)
        count += carry
    return count


def _row_and_column(i: int) -> tuple[int, int]:
    """The i-th pair (row, column) with row >= column >= 0, counted row by row."""
    row = (math.isqrt(8 * i + 1) - 1) // 2
    return row, i - row * (row + 1) // 2
