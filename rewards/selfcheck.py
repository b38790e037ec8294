"""Before a run: every source must like its gold answer better than its foil."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rewards.errors import Refused
from rewards.panel import Panel, Seat
from rewards.ports import Case, SelfChecking, Toolbox
from rewards.types import Group, Score, Task

CASES = 3
_OTHER_DIGITS = str.maketrans("0123456789", "3456789012")


async def selfcheck(seat: Seat, tasks: Sequence[Task], tools: Toolbox) -> int:
    """Try the seat's source on the first tasks it has a case for, at most three; returns how many were tried.

    A source without cases passes. Raises `Refused` with the source, the task and both scores where the gold answer
    is not scored above the foil, or where either can't be judged. A source that may err (`fallible`: a model) must be
    right over all cases together.
    """
    if not isinstance(seat.source, SelfChecking):
        return 0
    cases = [case for task in tasks[:CASES] if (case := seat.source.case(task))]
    panel = Panel((replace(seat, weight=1.0, on_failure="mask"),))
    fallible, ahead = getattr(seat.source, "fallible", False), 0.0
    for case in cases:
        verdicts = (await panel.judge(Group.written(0, case.task, (case.gold, case.foil)), tools)).verdicts
        gold, foil = (verdict.scores[seat.name] for verdict in verdicts)
        margin = None if gold.value is None or foil.value is None else gold.value - foil.value
        ahead = (ahead if fallible else 0.0) + (margin or 0.0)
        if margin is None or (ahead <= 0 and (case is cases[-1] or not fallible)):
            raise Refused(
                f"reward source {seat.name!r} fails its self-check on task {case.task.id!r}: expected the gold answer "
                f"{case.gold[:60]!r} above the foil {case.foil[:60]!r}, got {_told(gold)} and {_told(foil)}"
            )
    return len(cases)


def _told(score: Score) -> str:
    return f"{score.value:g}" if score.value is not None else f"no score ({score.failure})"


def written_case(task: Task) -> Case | None:
    """For judges that know no right answer by themselves: the best and the worst of the task's rated answers; else its
    demonstration or reference, and the same with other digits or, where it has none, its words backwards."""
    if len(task.answers) > 1:
        best, worst = task.answers[0], task.answers[-1]
        return Case(task, best.text, worst.text) if best.rating > worst.rating else None
    gold = task.demonstration or task.reference
    if not gold:
        return None
    foil = gold.translate(_OTHER_DIGITS)
    foil = " ".join(reversed(gold.split())) if foil == gold else foil
    return Case(task, gold, foil) if foil != gold else None
