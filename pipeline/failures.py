"""How much judging may fail before a run ends: one failed judge is data, a judge that stays silent is not a run."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

from rewards.errors import RunFailed
from rewards.types import ScoredGroup


class FailureBudget:
    """Looks at the last `window` rollouts, in admission order."""

    def __init__(self, share: float, window: int):
        self.share, self.reasons = share, deque[str | None](maxlen=window)

    def count(self, groups: Sequence[ScoredGroup]) -> None:
        """Raises `RunFailed`, with the commonest reason, once more than `share` of a full window has failed."""
        for scored in groups:
            self.reasons.extend(str(verdict.failure) if verdict.failure else None for verdict in scored.verdicts)
        failed = [reason for reason in self.reasons if reason]
        if len(self.reasons) == self.reasons.maxlen and len(failed) > self.share * len(self.reasons):
            reason, times = Counter(failed).most_common(1)[0]
            raise RunFailed(
                f"{len(failed)} of the last {len(self.reasons)} rollouts could not be judged, more than "
                f"rewards.failure_budget={self.share:g} allows; most often ({times} times): {reason}"
            )
