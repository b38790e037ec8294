"""Brings the learner's weights to the engines by Ray's object store: shared memory on a node, a copy across nodes."""

from __future__ import annotations

from workers.learner.team import LearnerTeam
from workers.rollout.pool import RolloutPool


class ObjectStoreTransport:
    """The learner puts its weights into the store once; every rollout worker reads them from there, without a copy."""

    def __init__(self, learner: LearnerTeam, rollouts: RolloutPool):
        self.learner, self.rollouts = learner, rollouts

    async def publish(self) -> None:
        """See `WeightTransport.publish`."""
        await self.rollouts.load(self.learner.export())
