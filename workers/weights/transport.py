"""Brings the learner's weights to the engines by Ray's object store: shared memory on a node, a copy across nodes."""

from __future__ import annotations

import asyncio

from rewards.errors import RunFailed
from workers.learner.team import LearnerTeam
from workers.rollout.pool import RolloutPool


class ObjectStoreTransport:
    """The learner puts its weights into the store once; every rollout worker reads them from there, without a copy."""

    def __init__(self, learner: LearnerTeam, rollouts: RolloutPool):
        self.learner, self.rollouts = learner, rollouts

    async def publish(self) -> None:
        """See `WeightTransport.publish`. Raises `RunFailed` with the name of who did not play its part."""
        weights = self.learner.export()
        # Answered after the export: a stuck or dead learner is named here, not by those who wait for its weights.
        version = await self.learner.version()
        loading = asyncio.ensure_future(self.rollouts.load(weights, self.learner.proof()))
        try:
            await self.learner.version()  # the same for its proof, which it works at while they take the weights over
            held = await loading
        finally:
            loading.cancel()
        if set(held) != {version}:
            raise RunFailed(f"the learner published version {version}, the rollout workers hold {held}")
