"""How far the learner's log-probs may be from those that the engines reported.

The mean over the step's own tokens is held to the limits (`policy/logprob_gap_mean`), not the largest gap: that one
is a single unlikely token's, and grows with their number. On the quickstart a float32 engine has a mean of 2e-8 and
at most 3e-6, a bfloat16 one 7e-4 and up to 0.14: no limit on the largest tells rounding from a mistake.

With `max_staleness` above 0 stale samples are held to the same limits, although their gap contains the policy's own
change. Left to samples of the current weights the rule would be blind: in a steady run there are none. That change is
small (two steps at the quickstart's high learning rate: mean 0.01), and where it is not, the rollouts are far
off-policy, which is worth the warning too; the line says how old they were.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rewards.errors import RunFailed


@dataclass
class GapRule:
    """Watches one stage, `stage` by name; `warning` and `limit` in nats (no limit: it only warns)."""

    stage: str
    warning: float
    limit: float | None
    warned: bool = False

    def check(self, step: int, metrics: Mapping[str, float]) -> str | None:
        """The warning, at the first step (from 0) over `warning`. Raises `RunFailed` over `limit`."""
        gap = metrics.get("policy/logprob_gap_mean")  # none where nothing was learned from
        if gap is None:
            return None
        if self.limit is not None and gap > self.limit:
            raise RunFailed(self._line(step, metrics, "gap_limit", self.limit))
        if self.warned or not gap > self.warning:
            return None
        self.warned = True
        return self._line(step, metrics, "gap_warning", self.warning)

    def _line(self, step: int, metrics: Mapping[str, float], key: str, value: float) -> str:
        mean, largest = metrics["policy/logprob_gap_mean"], metrics["policy/logprob_gap_max"]
        age = int(metrics["policy/staleness_max"])
        cause = (
            f"rollouts are up to {age} steps old, so part of it is the policy's own change; "
            "lower max_staleness or learner.lr, or turn on algorithm.correction"
            if age
            else "the engine does not compute what the learner does; look at rollout.dtype and rollout.engine"
        )
        return (
            f"learner's and rollout's log-probs are {mean:.3g} nats apart on average (at most {largest:.3g}) "
            f"at step {step}, over stages.{self.stage}.{key}={value:g}: {cause}"
        )
