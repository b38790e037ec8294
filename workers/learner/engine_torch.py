"""The torch learner: one process, AdamW. It runs any loss it is handed and knows none by name."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from rewards.errors import RunFailed
from workers.learner.critic import ScalarLearner
from workers.learner.descent import Descent
from workers.learner.forward import to_torch, token_logprobs
from workers.learner.means import Mean, add_means
from workers.models.attention import adopt
from workers.models.load import DTYPES, load_model, load_tokenizer, save_model
from workers.ports import LossFn
from workers.types import MicroBatch, Needs, Optimization, Plan, Published, Scalar, StepReport, Update
from workers.weights.proof import publishable


class TorchLearner:
    """Holds the policy, its optimizer and, where an algorithm asks for them, a frozen reference and a critic.

    It computes in `dtype` and publishes weights of it; what it learns is kept in float32, for a bfloat16 weight would
    round every step of a usual learning rate away.
    """

    def __init__(self, model_path: str, dtype: str = "float32", device: str = "cpu"):
        self.dtype, self.device = DTYPES[dtype], torch.device(device)
        self.tokenizer = load_tokenizer(model_path)
        self.version = 0
        self.losses: tuple[LossFn, ...] = ()
        self.done = 0
        self.reference: PreTrainedModel | None = None
        self.scalar: ScalarLearner | None = None
        self.moving: dict[str, Descent] = {}
        self._take(model_path)

    def _take(self, model_path: str) -> None:
        # eval mode throughout: dropout would make the learner's log-probs differ from the rollout's.
        self.policy = adopt(load_model(model_path, "float32", self.device)).eval().requires_grad_(True)

    def begin(
        self, optimization: Optimization, losses: Sequence[LossFn], keep_reference: bool, scalar: Scalar | None = None
    ) -> None:
        """See `Learner.begin`."""
        self.spec, self.losses, self.done = optimization, tuple(losses), 0
        self.scalar, self.moving = None, {}  # the stage before's make room first
        self.reference = copy.deepcopy(self.policy).requires_grad_(False) if keep_reference else None
        # What moves, by the name of its metrics; where the stage has no losses of a policy, the policy does not.
        if losses:
            self.moving["learner"] = Descent(self.policy, optimization, scalar.warmup if scalar else 0)
        if scalar:
            self.scalar = ScalarLearner(scalar, self.policy, self.tokenizer, optimization, self.dtype)
            self.moving["critic" if losses else "learner"] = self.scalar.descent

    @torch.no_grad()
    def infer(self, batches: Sequence[MicroBatch], needs: Needs) -> list[dict[str, np.ndarray]]:
        """See `Learner.infer`."""
        if needs.logp_ref and self.reference is None:
            raise RunFailed("the learner was asked for a reference's log-probs, but keeps none in this stage")
        if needs.critic and self.scalar is None:
            raise RunFailed("the learner was asked for a critic's values, but keeps none in this stage")
        return [self._infer(to_torch(batch, self.device), needs) for batch in batches]

    def _infer(self, tensors: MicroBatch, needs: Needs) -> dict[str, np.ndarray]:
        found: dict[str, Tensor] = {}
        hidden = None
        if needs.logp_old or (needs.critic and self.scalar and self.scalar.spec.shared):
            logp, _, hidden = self._logprobs(self.policy, tensors)
            found |= {"logp_old": logp} if needs.logp_old else {}
        if needs.logp_ref and self.reference is not None:
            found["logp_ref"] = self._logprobs(self.reference, tensors)[0]
        if needs.critic and self.scalar is not None:
            found["value"] = self.scalar.numbers(tensors, hidden)
        return {name: tensor.cpu().numpy() for name, tensor in found.items()}

    def _logprobs(self, model: PreTrainedModel, tensors: MicroBatch) -> tuple[Tensor, Tensor, Tensor]:
        return token_logprobs(model, tensors, self.spec.temperature, self.dtype)

    def update(self, plan: Plan, rank: int = 0) -> StepReport:
        """See `Learner.update`. A plan without updates leaves the weights alone; the version counts all the same."""
        for descent in self.moving.values():
            descent.move_moments(self.device)
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
        for descent in self.moving.values():
            descent.zero()
        metrics, gaps = [], []
        for batch in update.shards[rank]:
            total, found, gap = self._loss(to_torch(batch, self.device))
            (total / update.denominator).backward()
            # The mean over updates of the whole loss: each micro-batch adds its part, one of them the count.
            found["learner/loss"] = Mean(total.item() / update.denominator, 1.0 if not metrics else 0.0)
            metrics.append(found)
            gaps += gap
        return metrics, gaps

    def _loss(self, tensors: MicroBatch) -> tuple[Tensor, dict[str, Mean], list[Tensor]]:
        """The sum of all losses of a micro-batch, its metrics, and the gap to the rollout."""
        total, hidden = torch.zeros((), device=self.device), None
        found: dict[str, Mean] = {}
        told: dict[str, tuple[Any, Any]] = {}
        gap: list[Tensor] = []
        if self.losses:
            with torch.set_grad_enabled(self.done >= self.moving["learner"].first):
                logp, entropy, hidden = self._logprobs(self.policy, tensors)
                for loss in self.losses:
                    value, loss_metrics = loss(tensors, logp, entropy)
                    total = total + value
                    told |= loss_metrics
            found["policy/entropy"] = Mean(entropy.sum().item(), len(logp))
            gap = [(logp.detach() - tensors.logp_rollout).abs()] if tensors.logp_rollout is not None else []
        if self.scalar is not None:
            value, loss_metrics = self.scalar.loss(tensors, hidden)
            total = total + value
            told |= loss_metrics
        found |= {name: Mean(_number(a), _number(b)) for name, (a, b) in told.items()}
        return total, found, gap

    def _step(self) -> dict[str, Mean]:
        moving = {name: descent for name, descent in self.moving.items() if self.done >= descent.first}
        norms = {name: descent.clip() for name, descent in moving.items()}
        for name, norm in norms.items():
            if not torch.isfinite(norm):
                whose = "critic's gradient" if name == "critic" else "gradient"
                raise RunFailed(
                    f"the {whose} is not finite (norm {norm.item()}) at update {self.done} of the stage; "
                    "the weights were left as they were; lower learner.lr or look at the rewards"
                )
        found: dict[str, Mean] = {}
        for name, descent in moving.items():
            lr = descent.step(self.done)
            found |= {f"{name}/grad_norm": Mean(norms[name].item(), 1), f"{name}/lr": Mean(lr, 1)}
        self.done += 1
        return found

    def sleep(self) -> None:
        """Drop the gradients and take the optimizers' moments to the host, until the next update. The weights stay,
        the reference's and the critic's too: they are read before the next update, and are two fifths of what is held
        at most."""
        for descent in self.moving.values():
            descent.zero()
            descent.move_moments(torch.device("cpu"))
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def export(self) -> Published:
        """See `publishable`; in float32 on the CPU the arrays are the weights themselves, not a copy."""
        return publishable(self.policy, self.version, self.dtype)

    def save(self, directory: Path) -> None:
        """See `Learner.save`. One file, learner.pt, of tensors and plain values."""
        state = {
            "policy": self.policy.state_dict(),
            "reference": self.reference.state_dict() if self.reference else None,
            "moving": {name: descent.state() for name, descent in self.moving.items()},
            "done": self.done,
            "version": self.version,
        }
        torch.save(state, directory / "learner.pt")

    def load(self, directory: Path) -> None:
        """See `Learner.load`; `begin` was called before, where the checkpoint lies inside a stage."""
        state = torch.load(directory / "learner.pt", map_location=self.device, weights_only=True)
        self.policy.load_state_dict(state["policy"])
        self.version = state["version"]
        if self.moving:
            self.done = state["done"]
            for name, descent in self.moving.items():
                descent.restore(state["moving"][name])
            if self.reference is not None:
                self.reference.load_state_dict(state["reference"])

    def save_model(self, directory: Path) -> None:
        """See `Learner.save_model`."""
        learned = self.scalar.model if self.scalar and not self.losses else self.policy
        assert isinstance(learned, PreTrainedModel)
        save_model(learned, self.tokenizer, directory)

    def load_model(self, directory: Path) -> None:
        """See `Learner.load_model`."""
        self._take(str(directory))


def _number(value: Tensor | float) -> float:
    return value.item() if isinstance(value, Tensor) else float(value)
