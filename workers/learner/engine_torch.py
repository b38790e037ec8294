"""The torch learner: one process, or many ranks by FSDP2. It runs any loss it is handed and knows none by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from rewards.errors import RunFailed
from workers.dealing import cost, deal
from workers.learner.critic import ScalarLearner
from workers.learner.descent import Descent
from workers.learner.forward import to_torch, token_logprobs
from workers.learner.holder import Holder
from workers.learner.means import Mean, add_means
from workers.learner.state import restore_learner, save_learner
from workers.models import Lora
from workers.models.decoder import Whole
from workers.models.load import DTYPES, save_model
from workers.ports import LossFn
from workers.types import MicroBatch, Needs, Optimization, Plan, Proof, Published, Scalar, StepReport, Update
from workers.weights.arrays import arrays_of
from workers.weights.proof import learners_proof, probe_ids, probe_logprobs, publishable


class TorchLearner(Holder):
    """Holds the policy, its optimizer and, where an algorithm asks for them, a frozen reference and a critic.

    It computes in `dtype` and publishes weights of it; what it learns is kept in float32, for a bfloat16 weight would
    round every step of a usual learning rate away. Where this process was joined with others (`workers.learner.ranks`)
    all of it is spread over them, and every method is called on all of them at the same time.

    With `gradient_checkpointing` a layer keeps its inputs alone and computes the rest once more on the way back. With
    `lora` adapters learn in the policy's place.
    """

    def __init__(
        self,
        model_path: str,
        dtype: str = "float32",
        device: str = "cpu",
        gradient_checkpointing: bool = False,
        lora: Lora | None = None,
    ):
        super().__init__(model_path, torch.device(device), gradient_checkpointing, lora)
        self.dtype = DTYPES[dtype]
        self.version = 0
        self.losses: tuple[LossFn, ...] = ()
        self.done = 0
        self.exported: Published | None = None
        self.reference: PreTrainedModel | None = None
        self.scalar: ScalarLearner | None = None
        self.moving: dict[str, Descent] = {}

    def begin(
        self, optimization: Optimization, losses: Sequence[LossFn], keep_reference: bool, scalar: Scalar | None = None
    ) -> None:
        """See `Learner.begin`."""
        self.spec, self.losses, self.done = optimization, tuple(losses), 0
        self.reference, self.scalar, self.moving = None, None, {}  # the stage before's make room first
        self.reference = self.frozen() if keep_reference else None
        if scalar:
            self.scalar = ScalarLearner(scalar, self, optimization)
        # What moves, by the name of its metrics; where the stage has no losses of a policy, the policy does not.
        if losses:
            self.moving["learner"] = self.descent(self.policy, optimization, scalar.warmup if scalar else 0)
        if self.scalar:
            self.moving["critic" if losses else "learner"] = self.scalar.descent

    @torch.no_grad()
    def infer(self, batches: Sequence[MicroBatch], needs: Needs) -> list[dict[str, np.ndarray] | None]:
        """See `Learner.infer`; of many ranks each answers for its share of the batches, and None for the others."""
        if needs.logp_ref and self.reference is None:
            raise RunFailed("the learner was asked for a reference's log-probs, but keeps none in this stage")
        if needs.critic and self.scalar is None:
            raise RunFailed("the learner was asked for a critic's values, but keeps none in this stage")
        hands = deal([cost(batch.lengths.tolist()) for batch in batches], self.ranks.of)
        mine = hands[self.ranks.number]
        out: list[dict[str, np.ndarray] | None] = [None] * len(batches)
        for place in range(max(map(len, hands))):
            # All ranks compute as often, for each holds a part of the weights: who is through helps with the first.
            i = mine[place] if place < len(mine) else 0
            found = self._infer(to_torch(batches[i], self.device), needs)
            if place < len(mine):
                out[i] = found
        return out

    def _infer(self, tensors: MicroBatch, needs: Needs) -> dict[str, np.ndarray]:
        found: dict[str, Tensor] = {}
        hidden = None
        if needs.logp_old or (needs.critic and self.scalar and self.scalar.spec.shared):
            logp, _, hidden = self._logprobs(self.policy, tensors)
            found |= {"logp_old": logp} if needs.logp_old else {}
        if needs.logp_ref and self.reference is not None:
            with self.as_reference():
                found["logp_ref"] = self._logprobs(self.reference, tensors)[0]
        if needs.critic and self.scalar is not None:
            found["value"] = self.scalar.numbers(tensors, hidden)
        return {name: tensor.cpu().numpy() for name, tensor in found.items()}

    def _logprobs(self, model: PreTrainedModel, tensors: MicroBatch) -> tuple[Tensor, Tensor, Tensor]:
        run = self.runs(model)
        return token_logprobs(model, tensors, self.spec.temperature, self.dtype, self.plain_head, run)

    def update(self, plan: Plan) -> StepReport:
        """See `Learner.update`. A plan without updates leaves the weights alone; the version counts all the same."""
        for descent in self.moving.values():
            descent.move_moments(self.device)
        means: list[dict[str, Mean]] = []
        gaps: list[Tensor] = []
        for number, update in enumerate(plan.updates):
            parts, found = self._accumulate(update)
            means += [*parts, self._step()]
            # Later updates of a step move away from the rollout's policy on purpose.
            gaps += found if number == 0 else []
        self.version += 1
        told = self.ranks.gather((add_means(means), [gap.cpu() for gap in gaps]))
        metrics = {name: mean.value for name, mean in add_means([means for means, _ in told]).items()}
        if gaps := [gap for _, found in told for gap in found]:
            gap = torch.cat(gaps)
            metrics |= {"policy/logprob_gap_mean": gap.mean().item(), "policy/logprob_gap_max": gap.max().item()}
        return StepReport(self.version, metrics)

    def _accumulate(self, update: Update) -> tuple[list[dict[str, Mean]], list[Tensor]]:
        """Add up the gradients of one update; returns its metrics, and of each micro-batch the gaps f32[N] between the
        log-probs of the rollout and the learner's (none for demonstrations)."""
        for descent in self.moving.values():
            descent.zero()
        # The mean over updates of the whole loss: each micro-batch adds its part, the first rank the count.
        metrics, gaps = [{"learner/loss": Mean(0.0, float(self.ranks.number == 0))}], []
        mine, most = update.shards[self.ranks.number], max(map(len, update.shards))
        for place in range(most):
            # All ranks compute as often, for each holds a part of the weights: who is through goes along for nothing.
            idle = place >= len(mine)
            batch = min((b for s in update.shards for b in s), key=lambda b: len(b.ids)) if idle else mine[place]
            losses, found, gap = self._loss(to_torch(batch, self.device))
            share = 0.0 if idle else 1.0
            shared = {name: share * loss / update.denominator for name, loss in losses.items()}
            self.backward(shared, place == most - 1)
            if not idle:
                found["learner/loss"] = Mean(sum(loss.item() for loss in losses.values()) / update.denominator, 0.0)
                metrics.append(found)
                gaps += gap
        return metrics, gaps

    def backward(self, losses: Mapping[str, Tensor], last: bool) -> None:
        """Add the gradients of a micro-batch's losses, by the name of what they move; `last`: the update's last."""
        total: Any = sum(losses.values())
        total.backward()

    def _loss(self, tensors: MicroBatch) -> tuple[dict[str, Tensor], dict[str, Mean], list[Tensor]]:
        """The sums of a micro-batch's losses by what they move, its metrics, and the gap to the rollout."""
        losses: dict[str, Tensor] = {}
        hidden = None
        found: dict[str, Mean] = {}
        told: dict[str, tuple[Any, Any]] = {}
        gap: list[Tensor] = []
        if self.losses:
            moves = self.done >= self.moving["learner"].first
            with torch.set_grad_enabled(moves):
                logp, entropy, hidden = self._logprobs(self.policy, tensors)
                for loss in self.losses:
                    value, loss_metrics = loss(tensors, logp, entropy)
                    losses["learner"] = losses["learner"] + value if "learner" in losses else value
                    told |= loss_metrics
            found["policy/entropy"] = Mean(entropy.sum().item(), len(logp))
            gap = [(logp.detach() - tensors.logp_rollout).abs()] if tensors.logp_rollout is not None else []
        if self.scalar is not None:
            value, loss_metrics = self.scalar.loss(tensors, hidden)
            losses["critic" if self.losses else "learner"] = value
            told |= loss_metrics
        found |= {name: Mean(_number(a), _number(b)) for name, (a, b) in told.items()}
        return losses, found, gap

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

    def export(self) -> Published | None:
        """The weights; in float32 on the CPU, of one process, the arrays are the weights themselves, not a copy. Of
        many ranks the first answers with them, the others help to gather them."""
        if self.ranks.number == 0:
            arrays = arrays_of(self.plain_tensors(), self.dtype)
            self.exported = publishable(self.policy, arrays, self.version)
            return self.exported
        for _ in self.tensors(self.policy):
            pass
        return None

    def proof(self) -> Proof | None:
        """Of what was exported last, and not been proved yet; as `export`, of many ranks."""
        if self.ranks.number == 0:
            assert self.exported is not None, "export() comes first"
            exported, self.exported = self.exported, None
            return learners_proof(self.policy, exported, self.dtype)
        ids = probe_ids(self.policy.config.vocab_size)
        probe_logprobs(Whole(self.policy), ids, self.device, self.dtype)
        return None

    def save(self, directory: Path) -> None:
        """See `Learner.save`, and `workers.learner.state` for the files."""
        save_learner(self, directory)

    def load(self, directory: Path) -> None:
        """See `Learner.load`; `begin` was called before, where the checkpoint lies inside a stage."""
        restore_learner(self, directory)

    def save_model(self, directory: Path) -> None:
        """See `Learner.save_model`."""
        reward_model = self.scalar is not None and not self.losses
        learned = self.scalar.in_one_piece() if self.scalar and reward_model else self.plain()
        if self.ranks.number == 0:
            save_model(learned, self.tokenizer, directory)
        if not reward_model:
            self.save_adapter(directory)
        self.ranks.wait()

    def load_model(self, directory: Path) -> None:
        """See `Learner.load_model`."""
        self.take(str(directory))


def _number(value: Tensor | float) -> float:
    return value.item() if isinstance(value, Tensor) else float(value)
