"""The self-check of judges that may err: right over all cases together."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import ClassVar

import pytest

from rewards.errors import Refused
from rewards.failures import abstained
from rewards.panel import Seat
from rewards.selfcheck import selfcheck, written_case
from rewards.types import Message, Rated, Score, Task


@dataclass(frozen=True)
class Errs:
    """Likes the gold answer, except on these tasks; abstains on others."""

    wrong: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()

    fallible: ClassVar[bool] = True

    async def score(self, group, tools):
        if group.task.id in self.silent:
            return [abstained("hm")] * len(group.rollouts)
        return [Score(float((r.text == group.task.reference) != (group.task.id in self.wrong))) for r in group.rollouts]

    def case(self, task):
        return written_case(task)


def task(i, **more):
    return Task(f"t{i}", (Message("user", "?"),), **({"reference": f"it is {i}"} | more))


def check(source):
    return asyncio.run(selfcheck(Seat("judge", source), [task(i) for i in range(3)], None))


def test_one_mistake_in_three_is_put_up_with_and_two_are_not():
    assert check(Errs()) == 3
    assert check(Errs(wrong=("t1",))) == 3
    for wrong in (("t0", "t1"), ("t1", "t2"), ("t0", "t1", "t2")):
        with pytest.raises(Refused, match="fails its self-check"):
            check(Errs(wrong=wrong))
    with pytest.raises(Refused, match="hm"):
        check(Errs(silent=("t0",)))


def test_gold_and_foil_of_a_task():
    assert written_case(task(1)).foil == "it is 4"
    assert written_case(task(1, demonstration="1+1=2")).gold == "1+1=2"
    assert written_case(task(1, reference="right answer")).foil == "answer right"
    assert written_case(task(1, reference="same")) is None
    assert written_case(task(1, reference=None)) is None
    rated = written_case(task(1, answers=(Rated("good", 1.0), Rated("bad", 0.0))))
    assert (rated.gold, rated.foil) == ("good", "bad")
    assert written_case(task(1, answers=(Rated("a", 1.0), Rated("b", 1.0)))) is None
