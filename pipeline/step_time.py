"""How long a step of reinforcement learning would take at most: FLOPs and bytes over a device's rates.

    generate   each token reads weights and cached keys once for all rows at once, or multiplies by the weights for
               each row, whichever is slower; prompts are multiplications alone. All completions are as long as they
               may be.
    learn      6 FLOPs per weight and token for an update (8 with gradient checkpointing), 2 for each model that only
               infers; attention adds 12 x layers x width x length per token to the 6.
    publish    the weights once over the network

Devices reach a share of what their data sheets say: `MFU` of the products when learning, `PREFILL` for prompts, `READ`
of the bandwidth when generating. The shares are what is usual on GPUs, not measured here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.config import Config, RlStage
from pipeline.memory import BYTES, Longest
from pipeline.spec import Device

if TYPE_CHECKING:
    from workers.models.create import ModelSizes

MFU, PREFILL, READ = 0.4, 0.5, 0.6


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of a step's parts, one after the other; where generating may run ahead, the longer one counts."""

    generate: float
    learn: float
    publish: float
    overlap: bool

    @property
    def whole(self) -> float:
        rest = self.learn + self.publish
        return max(self.generate, rest) if self.overlap else self.generate + rest


@dataclass(frozen=True, slots=True)
class Rates:
    """What the devices do of one rollout process, and of all of the learner; bytes a second between nodes."""

    rollout: Device
    rollout_devices: int
    learner: Device
    learner_devices: int
    network: float


def step_time(config: Config, stage: RlStage, sizes: ModelSizes, longest: Longest, rates: Rates) -> StepTime:
    """At most, for a step whose completions are all as long as they may be."""
    samples, new = stage.groups_per_step * stage.algorithm.group_size, stage.rollout.max_new_tokens
    needs = stage.algorithm.build().needs
    whole = longest.prompt + new
    tokens = samples * whole
    infers = needs.logp_old + needs.logp_ref + (needs.critic is not None)
    moves = 1 + (needs.critic is not None and not needs.critic.shared)
    updates = 8 if getattr(config.learner, "gradient_checkpointing", False) else 6
    products = 2 * infers + updates * moves
    attention = 2 * sizes.layers * sizes.hidden * whole * products / 6
    flops = tokens * (products * sizes.parameters + attention)
    learn = flops / (rates.learner_devices * rates.learner.flops * MFU)
    publish = sizes.parameters * BYTES[config.learner.dtype] / rates.network
    return StepTime(
        _generating(config, samples, longest.prompt, new, sizes, rates), learn, publish, stage.max_staleness > 0
    )


def _generating(config: Config, samples: int, prompt: int, new: int, sizes: ModelSizes, rates: Rates) -> float:
    rollout, width = config.rollout, BYTES[config.rollout.dtype]
    share = -(-samples // rollout.workers)
    rows = min(share, rollout.max_rows)
    flops, bandwidth = rates.rollout_devices * rates.rollout.flops, rates.rollout_devices * rates.rollout.bandwidth
    keys = rows * (prompt + new / 2) * sizes.layers * 2 * sizes.kv_width * width
    reads = (sizes.parameters * width + keys) / (bandwidth * READ)
    multiplies = 2 * sizes.parameters * rows / (flops * PREFILL)
    prompts = 2 * sizes.parameters * share * prompt / (flops * PREFILL)
    return new * max(reads, multiplies) * (share / rows) + prompts
