"""How one model's weights move: AdamW on the stage's schedule, gradients clipped by their norm."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from workers.types import Optimization


def learning_rate_factor(spec: Optimization, done: int) -> float:
    """What the base rate is multiplied by at update number `done` (0-based)."""
    if done < spec.warmup:
        return (done + 1) / spec.warmup
    decay_from = max(spec.warmup, round(spec.updates * (1 - spec.decay_share)))
    if spec.schedule == "constant" or done < decay_from:
        return 1.0
    left = max(0.0, 1 - (done - decay_from) / max(1, spec.updates - decay_from))
    return left if spec.schedule == "linear" else 0.5 * (1 - math.cos(math.pi * left))


class Descent:
    """One model's AdamW. The model begins to move at the stage's update number `first`, and so does its schedule."""

    def __init__(self, model: nn.Module, spec: Optimization, first: int = 0):
        self.model, self.first = model, first
        self.spec = replace(spec, updates=spec.updates - first)
        matrices = [p for p in model.parameters() if p.ndim >= 2]
        others = [p for p in model.parameters() if p.ndim < 2]
        groups = [(matrices, spec.weight_decay), (others, 0.0)]
        self.optimizer = torch.optim.AdamW(
            [{"params": params, "weight_decay": decay} for params, decay in groups],
            lr=spec.lr,
            betas=spec.betas,
            fused=True,
        )

    def zero(self) -> None:
        """Drop the gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    def clip(self) -> Tensor:
        """Clip the gradient; its norm before that."""
        return torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.spec.clip_grad_norm, foreach=True)

    def step(self, done: int) -> float:
        """Take update number `done` of the stage; the rate it was taken at."""
        lr = self.spec.lr * learning_rate_factor(self.spec, done - self.first)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        return lr

    def move_moments(self, device: torch.device) -> None:
        """Take AdamW's moments to a device."""
        for moments in self.optimizer.state.values():
            moments.update({name: x.to(device) for name, x in moments.items() if isinstance(x, Tensor)})

    def state(self) -> dict[str, Any]:
        """Weights and moments: tensors and plain values."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
