"""Accuracy of the policy as it stands, on tasks that it never learns from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

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
    Wilson interval."""

    accuracy: float
    n: int
    interval: tuple[float, float]
    failed: int
    groups: list[ScoredGroup]

    def metrics(self) -> dict[str, float]:
        """What is logged of it."""
        return {
            **{name: value for name, value in group_metrics(self.groups).items() if "without_signal" not in name},
            "eval/accuracy": self.accuracy,
            "eval/accuracy_low": self.interval[0],
            "eval/accuracy_high": self.interval[1],
            "eval/n": float(self.n),
        }

    def results(self) -> dict[str, Any]:
        """What the run's summary says of it."""
        return {"accuracy": self.accuracy, "n": self.n, "interval": list(self.interval), "failed": self.failed}


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
    from scipy.stats import binomtest  # takes a second to import: the driver does so while the workers start

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
    interval = binomtest(right, len(rewards)).proportion_ci(0.95, method="wilson")
    return Evaluation(
        right / len(rewards), len(rewards), (interval.low, interval.high), len(verdicts) - len(rewards), groups
    )
