"""How one model's weights move: AdamW on the stage's schedule, gradients clipped by their norm."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from workers.learner.sharding import put, whole
from workers.types import Optimization

MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's names for them


class Saved(Protocol):
    """Tensors by name, read when they are asked for."""

    def __contains__(self, name: object) -> bool: ...
    def __getitem__(self, name: str) -> Tensor: ...


def learning_rate_factor(spec: Optimization, done: int) -> float:
    """What the base rate is multiplied by at update number `done` (0-based)."""
    if done < spec.warmup:
        return (done + 1) / spec.warmup
    decay_from = max(spec.warmup, round(spec.updates * (1 - spec.decay_share)))
    if spec.schedule == "constant" or done < decay_from:
        return 1.0
    left = max(0.0, 1 - (done - decay_from) / max(1, spec.updates - decay_from))
    return left if spec.schedule == "linear" else 0.5 * (1 - math.cos(math.pi * left))


def adamw(model: nn.Module, spec: Optimization) -> torch.optim.AdamW:
    """Over what of the model moves; weight decay on matrices only."""
    moving = [p for p in model.parameters() if p.requires_grad]
    groups = [([p for p in moving if p.ndim >= 2], spec.weight_decay), ([p for p in moving if p.ndim < 2], 0.0)]
    return torch.optim.AdamW(
        [{"params": params, "weight_decay": decay} for params, decay in groups if params],
        lr=spec.lr,
        betas=spec.betas,
        fused=True,
    )


class Descent:
    """One model's AdamW. The model begins to move at the stage's update number `first`, and so does its schedule."""

    def __init__(self, model: nn.Module, spec: Optimization, first: int = 0):
        self.model, self.first = model, first
        self.spec = replace(spec, updates=spec.updates - first)
        self.optimizer = adamw(model, spec)

    def zero(self) -> None:
        """Drop the gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    def clip(self) -> Tensor:
        """Clip the gradient; its norm before that, over all ranks."""
        return whole(clip_grad_norm_(self.model.parameters(), self.spec.clip_grad_norm, foreach=True))

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

    def moments(self) -> Iterator[tuple[str, Tensor]]:
        """What AdamW remembers, by parameter: (name, whole tensor). All ranks go through them together."""
        for name, parameter in self.model.named_parameters():
            for key, moment in self.optimizer.state.get(parameter, {}).items():
                yield f"{key}.{name}", whole(moment)

    def restore(self, saved: Saved) -> None:
        """Take up what `moments` gave; nothing, where there were none."""
        for name, parameter in self.model.named_parameters():
            if f"{MOMENTS[0]}.{name}" not in saved:
                continue
            state = self.optimizer.state[parameter]
            for key in MOMENTS:
                state[key] = torch.zeros_like(parameter)
                put(state[key], saved[f"{key}.{name}"])
            state["step"] = saved[f"step.{name}"].to(parameter.device)
