"""The torch learner: one process, AdamW. It runs any loss it is handed and knows none by name."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rewards.errors import RunFailed
from workers.learner.forward import to_torch, token_logprobs
from workers.models.attention import adopt
from workers.models.load import DTYPES, load_model, load_tokenizer, save_model
from workers.ports import LossFn
from workers.types import Mean, MicroBatch, Needs, Optimization, Plan, Published, StepReport, Update, add_means
from workers.weights.proof import publishable


def learning_rate_factor(spec: Optimization, done: int) -> float:
    """What the base rate is multiplied by at update number `done` (0-based)."""
    if done < spec.warmup:
        return (done + 1) / spec.warmup
    decay_from = max(spec.warmup, round(spec.updates * (1 - spec.decay_share)))
    if spec.schedule == "constant" or done < decay_from:
        return 1.0
    left = max(0.0, 1 - (done - decay_from) / max(1, spec.updates - decay_from))
    return left if spec.schedule == "linear" else 0.5 * (1 - math.cos(math.pi * left))


class TorchLearner:
    """Holds the policy, its optimizer and, where an algorithm asks for it, a frozen reference.

    It computes in `dtype` and publishes weights of it; what it learns is kept in float32, for a bfloat16 weight would
    round every step of a usual learning rate away.
    """

    def __init__(self, model_path: str, dtype: str = "float32", device: str = "cpu"):
        self.dtype, self.device = DTYPES[dtype], torch.device(device)
        self.tokenizer = load_tokenizer(model_path)
        self.version = 0
        self.reference: torch.nn.Module | None = None
        self._take(model_path)

    def _take(self, model_path: str) -> None:
        # eval mode throughout: dropout would make the learner's log-probs differ from the rollout's.
        self.policy = adopt(load_model(model_path, "float32", self.device)).eval().requires_grad_(True)

    def begin(self, optimization: Optimization, losses: Sequence[LossFn], keep_reference: bool) -> None:
        """See `Learner.begin`."""
        self.spec, self.losses, self.done = optimization, tuple(losses), 0
        self.reference = copy.deepcopy(self.policy).requires_grad_(False) if keep_reference else None
        self._new_optimizer()

    def _new_optimizer(self) -> None:
        matrices = [p for p in self.policy.parameters() if p.ndim >= 2]
        others = [p for p in self.policy.parameters() if p.ndim < 2]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": self.spec.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=self.spec.lr,
            betas=self.spec.betas,
            fused=True,
        )

    @torch.no_grad()
    def infer(self, batches: Sequence[MicroBatch], needs: Needs) -> list[dict[str, np.ndarray]]:
        """See `Learner.infer`."""
        models: dict[str, torch.nn.Module] = {"logp_old": self.policy} if needs.logp_old else {}
        if needs.logp_ref:
            if self.reference is None:
                raise RunFailed("the learner was asked for a reference's log-probs, but keeps none in this stage")
            models["logp_ref"] = self.reference
        return [
            {name: self._logprobs(model, tensors)[0].cpu().numpy() for name, model in models.items()}
            for tensors in (to_torch(batch, self.device) for batch in batches)
        ]

    def _logprobs(self, model: torch.nn.Module, tensors: MicroBatch) -> tuple[Tensor, Tensor]:
        return token_logprobs(model, tensors, self.spec.temperature, self.dtype)

    def update(self, plan: Plan, rank: int = 0) -> StepReport:
        """See `Learner.update`. A plan without updates leaves the weights alone; the version counts all the same."""
        self._move_moments(self.device)
        means: list[dict[str, Mean]] = []
        gaps: list[Tensor] = []
        for number, update in enumerate(plan.updates):
            parts, found = self._accumulate(update, rank)
            means += [*parts, self._step()]
            # Later updates of a step move away from the rollout's policy on purpose.
            gaps += found if number == 0 else []
        self.version += 1
        metrics = {name: mean.value for name, mean in add_means(means).items()}
        if gaps:
            gap = torch.cat(gaps)
            metrics |= {"policy/logprob_gap_mean": gap.mean().item(), "policy/logprob_gap_max": gap.max().item()}
        return StepReport(self.version, metrics)

    def _accumulate(self, update: Update, rank: int) -> tuple[list[dict[str, Mean]], list[Tensor]]:
        """Add up the gradients of one update; returns its metrics, and of each micro-batch the gaps f32[N] between the
        log-probs of the rollout and the learner's (none for demonstrations)."""
        self.optimizer.zero_grad(set_to_none=True)
        metrics, gaps = [], []
        for batch in update.shards[rank]:
            tensors = to_torch(batch, self.device)
            logp, entropy = self._logprobs(self.policy, tensors)
            n = len(logp)
            found: dict[str, Mean] = {"policy/entropy": Mean(entropy.sum().item(), n)}
            total = torch.zeros((), device=self.device)
            for loss in self.losses:
                value, loss_metrics = loss(tensors, logp, entropy)
                total = total + value
                found |= {name: Mean(_number(a), _number(b)) for name, (a, b) in loss_metrics.items()}
            (total / update.denominator).backward()
            if tensors.logp_rollout is not None:
                gaps.append((logp.detach() - tensors.logp_rollout).abs())
            # The mean over updates of the whole loss: each micro-batch adds its part, one of them the count.
            found["learner/loss"] = Mean(total.item() / update.denominator, 1.0 if not metrics else 0.0)
            metrics.append(found)
        return metrics, gaps

    def _step(self) -> dict[str, Mean]:
        norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.spec.clip_grad_norm, foreach=True)
        if not torch.isfinite(norm):
            raise RunFailed(
                f"the gradient is not finite (norm {norm.item()}) at update {self.done} of the stage; "
                "the weights were left as they were; lower learner.lr or look at the rewards"
            )
        lr = self.spec.lr * learning_rate_factor(self.spec, self.done)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.done += 1
        return {"learner/grad_norm": Mean(norm.item(), 1), "learner/lr": Mean(lr, 1)}

    def sleep(self) -> None:
        """Drop the gradients and take the optimizer's moments to the host, until the next update. The weights stay, and
        the reference: they are read before the next update, and are two fifths of what is held at most."""
        if hasattr(self, "optimizer"):
            self.optimizer.zero_grad(set_to_none=True)
            self._move_moments(torch.device("cpu"))
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _move_moments(self, device: torch.device) -> None:
        for moments in self.optimizer.state.values():
            moments.update({name: x.to(device) for name, x in moments.items() if isinstance(x, Tensor)})

    def export(self) -> Published:
        """See `publishable`; in float32 on the CPU the arrays are the weights themselves, not a copy."""
        return publishable(self.policy, self.version, self.dtype)

    def save(self, directory: Path) -> None:
        """See `Learner.save`. One file, learner.pt, of tensors and plain values."""
        state = {
            "policy": self.policy.state_dict(),
            "reference": self.reference.state_dict() if self.reference else None,
            "optimizer": self.optimizer.state_dict() if hasattr(self, "optimizer") else None,
            "done": getattr(self, "done", 0),
            "version": self.version,
        }
        torch.save(state, directory / "learner.pt")

    def load(self, directory: Path) -> None:
        """See `Learner.load`; `begin` was called before, where the checkpoint lies inside a stage."""
        state = torch.load(directory / "learner.pt", map_location=self.device, weights_only=True)
        self.policy.load_state_dict(state["policy"])
        self.version = state["version"]
        if hasattr(self, "optimizer") and state["optimizer"] is not None:
            self.optimizer.load_state_dict(state["optimizer"])
            self.done = state["done"]
            if self.reference is not None:
                self.reference.load_state_dict(state["reference"])

    def save_model(self, directory: Path) -> None:
        """See `Learner.save_model`."""
        save_model(self.policy, self.tokenizer, directory)

    def load_model(self, directory: Path) -> None:
        """See `Learner.load_model`."""
        self._take(str(directory))


def _number(value: Tensor | float) -> float:
    return value.item() if isinstance(value, Tensor) else float(value)
