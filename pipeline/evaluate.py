"""Accuracy of the policy as it stands, on tasks that it never learns from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.gold import gold_places
from pipeline.lab.overoptimization import BestOfN, Law, Unfitted, best_of_n, fit_best_of_n, pools
from pipeline.lab.statistics import wilson
from pipeline.metrics import group_metrics
from pipeline.producer import Clock, attempt
from rewards.errors import RunFailed
from rewards.types import ScoredGroup, Task
from workers.ports import Judges, Rollouts
from workers.types import Judged, Request, Sampling

# Tasks that are out at once: enough to fill any engine, few enough to show progress.
WAVE = 512


@dataclass(frozen=True)
class Evaluation:
    """The share of the `n` judged completions whose reward, before any shaping, is at least `pass_at`, and its 95%
    Wilson interval.

    gold       mean score of the gold source, where there is one
    best_of_n  what the best of n samples by the reward is worth to the gold source
    law        Gao's through it
    """

    accuracy: float
    n: int
    interval: tuple[float, float]
    failed: int
    groups: list[ScoredGroup]
    gold: float | None = None
    best_of_n: Sequence[BestOfN] = ()
    law: Law | Unfitted | None = None

    def metrics(self) -> dict[str, float]:
        """What is logged of it."""
        return {
            **{name: value for name, value in group_metrics(self.groups).items() if "without_signal" not in name},
            "eval/accuracy": self.accuracy,
            "eval/accuracy_low": self.interval[0],
            "eval/accuracy_high": self.interval[1],
            "eval/n": float(self.n),
            **({} if self.gold is None else {"eval/gold": self.gold}),
        }

    def results(self) -> dict[str, Any]:
        """What the run's summary says of it."""
        out = {"accuracy": self.accuracy, "n": self.n, "interval": list(self.interval), "failed": self.failed}
        if self.gold is not None:
            out["gold"] = self.gold
        if self.best_of_n:
            out["best_of_n"] = [asdict(point) for point in self.best_of_n]
        if self.best_of_n and self.law:
            out["best_of_n_law"] = _told(self.law)
        return out


def _told(law: Law | Unfitted) -> dict[str, Any]:
    """In numbers that JSON has: the interval of a peak that can't be named may have no end."""
    named = isinstance(law, Law) and law.named
    return asdict(law) if named or isinstance(law, Unfitted) else asdict(law) | {"peak_interval": None}


async def evaluate(
    tasks: Sequence[Task],
    rollouts: Rollouts,
    judges: Judges,
    sampling: Sampling,
    samples: int,
    pass_at: float,
    progress: Callable[[int], None],
) -> Evaluation:
    """Attempt every task `samples` times. Raises `RunFailed` where not one completion could be judged."""
    found: dict[int, ScoredGroup] = {}

    def collect(judged: Judged) -> None:
        found.update((scored.group.id, scored) for scored in judged.groups)
        progress(len(found))

    for first in range(0, len(tasks), WAVE):
        wave = [Request(first + i, task, samples, sampling) for i, task in enumerate(tasks[first : first + WAVE])]
        await attempt(rollouts, judges, wave, Clock(), collect)
    groups = [found[i] for i in range(len(tasks))]
    verdicts = [verdict for scored in groups for verdict in scored.verdicts]
    rewards = [verdict.unshaped for verdict in verdicts if verdict.unshaped is not None]
    if not rewards:
        raise RunFailed(f"not one of {len(verdicts)} completions could be judged; the first: {verdicts[0].failure}")
    right = sum(reward >= pass_at for reward in rewards)
    gold = [score.value for score in gold_places(groups).values() if score.value is not None]
    return Evaluation(
        right / len(rewards),
        len(rewards),
        wilson(right, len(rewards)),
        len(verdicts) - len(rewards),
        groups,
        sum(gold) / len(gold) if gold else None,
        best_of_n(pool := pools(groups)),
        fit_best_of_n(pool),
    )
