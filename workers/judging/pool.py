"""The driver's side of the judges: hands groups to the least loaded judge, replaces one that hangs or dies.

    groups --> lots --> least loaded judge --> verdicts
                          | dies, or gives no answer in time: killed, a fresh one takes its name
                          v
                       each group asked once more, alone in a judge --> verdicts, or all of them Failures ("judge")

Lots, because a call between processes costs more than a verifier's verdict. Alone, because the groups a judge had at
work go down together and only one of them may be to blame.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rewards.panel import Panel
from rewards.types import Failure, Group, ScoredGroup, Verdict
from workers.judging.hosts import Spec, start_hosts, stop_hosts
from workers.judging.worker import JudgeWorker, groups_at_once
from workers.messages import Lot
from workers.ray_actors import Actor, Died, Stalled, call, kill, ready, start_actor
from workers.types import Judged

START_S = 600.0  # on a machine that is busy with other runs, starting a process may take minutes
PATIENCE_S = 5.0  # before a judge that the pool can do without is tried again
LOTS_PER_JUDGE = 2  # so that a judge that is done early can take over from one that is not


@dataclass(eq=False)
class _Judge:
    """One place in the pool: the actor that holds it now, how many of its places are taken, and whether it is up."""

    actor: Actor
    taken: int
    up: bool = False


class JudgePool:
    """The port `Judges` over Ray actors.

    panel      what every judge hosts
    workers    judge processes; `cpus` of Ray's logical CPUs for each, and as many helper processes (one at least)
    timeout_s  seconds a judge may take for one group; choose it above what its seats' limits and retries add up to
    start      starts a judge where it is to sit (see `workers.placement`)
    least      as many must be there; the others come when there is room for them
    restarts   judges that had to be replaced so far
    """

    def __init__(
        self,
        panel: Panel,
        workers: int,
        cpus: float,
        timeout_s: float,
        start: Callable[..., Actor] = start_actor,
        least: int | None = None,
    ) -> None:
        self.panel, self._workers, self._cpus, self._timeout_s = panel, workers, cpus, timeout_s
        self._start_actor = start
        self._helpers = max(1, int(cpus))
        self._at_once = groups_at_once(panel, self._helpers)
        self._places = self._at_once + 1  # one more, so that a judge never waits for the driver
        self._judges: list[_Judge] = []
        self._hosts: dict[Spec, Actor] = {}
        self._changed = asyncio.Condition()
        self._least = least or workers
        self._coming: set[asyncio.Task[None]] = set()
        self.restarts = 0

    async def start(self) -> None:
        """Start the judges, and before them what they need in processes of their own, and wait for the
        first `least`.

        Raises `Stalled` or `Died` with the name of the one that did not come, `RunFailed` or `Refused` where a model
        can't be served or loaded.
        """
        self._hosts = await start_hosts(self.panel, self._start_actor)
        self._judges = [self._fresh(f"judge-{i}") for i in range(self._workers)]
        for judge in self._judges[self._least :]:
            self._await(judge)
        await asyncio.gather(*(self._open(judge) for judge in self._judges[: self._least]))

    async def judge(self, groups: Sequence[Group]) -> Judged:
        """Every group with its verdicts, in order. Raises `RunFailed` where a seat's policy is abort."""
        wanted = LOTS_PER_JUDGE * self._workers if self._workers > 1 else 1
        size = max(1, math.ceil(len(groups) / wanted))
        lots = [groups[i : i + size] for i in range(0, len(groups), size)]
        judged = await asyncio.gather(*(self._judge(lot) for lot in lots))
        return Judged(
            tuple(scored for part in judged for scored in part.groups),
            sum(part.seconds for part in judged) / min(len(judged), self._workers) if judged else 0.0,
        )

    async def close(self) -> None:
        """End every judge, and what was started for them."""
        for task in self._coming:
            task.cancel()
        judges, self._judges = self._judges, []
        for judge in judges:
            kill(judge.actor)
        hosts, self._hosts = self._hosts, {}
        stop_hosts(hosts)

    async def _judge(self, lot: Sequence[Group]) -> Judged:
        """Judge the lot together; where its judge fails, each of its groups alone."""
        judged = await self._ask(lot, min(len(lot), self._places))
        if isinstance(judged, Failure):
            alone = await asyncio.gather(*(self._alone(group) for group in lot))
            return Judged(tuple(s for part in alone for s in part.groups), sum(part.seconds for part in alone))
        return judged

    async def _alone(self, group: Group) -> Judged:
        judged = await self._ask([group], self._places)
        if isinstance(judged, Failure):
            verdicts = tuple(Verdict(None, {}, failure=judged) for _ in group.rollouts)
            return Judged((ScoredGroup(group, verdicts),), 0.0)
        return judged

    async def _ask(self, lot: Sequence[Group], places: int) -> Judged | Failure:
        """One judge's answer, or why there is none; a judge that gives none is replaced."""
        judge = await self._take(places)
        rounds = math.ceil(len(lot) / self._at_once)
        try:
            answer = await call(judge.actor, "judge", Lot(tuple(lot)), timeout_s=self._timeout_s * rounds)
            return Judged(tuple(ScoredGroup(g, v) for g, v in zip(lot, answer.verdicts, strict=True)), answer.seconds)
        except (Stalled, Died) as error:
            await self._replace(judge)
            kind = "timeout" if isinstance(error, Stalled) else "died"
            return Failure("judge", kind, str(error))
        finally:
            await self._free(judge, places)

    async def _take(self, places: int) -> _Judge:
        """The least loaded judge, once it has that many places free."""
        async with self._changed:
            await self._changed.wait_for(lambda: any(j.taken + places <= self._places for j in self._judges))
            judge = min(self._judges, key=lambda judge: judge.taken)
            judge.taken += places
            return judge

    async def _free(self, judge: _Judge, places: int) -> None:
        async with self._changed:
            judge.taken -= places
            self._changed.notify_all()

    async def _replace(self, judge: _Judge) -> None:
        """Kill the judge and put a fresh one in its place, unless someone has done so already."""
        if judge in self._judges:
            place = self._judges.index(judge)
            kill(judge.actor)
            self.restarts += 1
            self._judges[place] = fresh = self._fresh(judge.actor.name)
            if sum(other.up for other in self._judges) >= self._least:
                self._await(fresh)
            else:
                await self._open(fresh)

    def _fresh(self, name: str) -> _Judge:
        """A judge that is still starting: all its places are taken."""
        actor = self._start_actor(JudgeWorker, self.panel, self._helpers, self._hosts, name=name, cpus=self._cpus)
        return _Judge(actor, self._places)

    async def _open(self, judge: _Judge) -> None:
        await ready(judge.actor, START_S)
        await call(judge.actor, "warm", timeout_s=START_S)
        judge.up = True
        await self._free(judge, self._places)

    def _await(self, judge: _Judge) -> None:
        """Open it when there is room for it, while the others judge."""
        task = asyncio.create_task(self._come(judge))
        self._coming.add(task)
        task.add_done_callback(self._coming.discard)

    async def _come(self, judge: _Judge) -> None:
        while judge in self._judges and not judge.up:
            try:
                await self._open(judge)
            except Stalled:
                continue  # it waits for its room
            except Died:
                await asyncio.sleep(PATIENCE_S)
                judge.actor = self._fresh(judge.actor.name).actor
