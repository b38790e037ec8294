"""The learner by DeepSpeed: ZeRO stages 0 to 3, the optimizer on the host where asked. What it learns, and from which
losses, is the torch learner's affair; here stands how a model is spread, and what moves it.

    stage 0  every rank holds everything; 1: a share of the moments; 2: of the gradients too; 3: of the weights too

DeepSpeed averages gradients over ranks; losses here are sums over a denominator that all ranks share, so they are
multiplied by the number of ranks first.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn
from transformers import PreTrainedModel

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read when DeepSpeed is imported

import deepspeed
from deepspeed.utils import (
    safe_get_full_grad,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
)

from workers.learner.descent import MOMENTS, Descent, Saved, adamw, learning_rate_factor
from workers.learner.engine_torch import TorchLearner
from workers.learner.holder import Values
from workers.learner.ranks import invite, join
from workers.learner.sharding import named_tensors, put, recompute
from workers.models import Lora
from workers.ports import LossFn
from workers.types import Optimization, Scalar

BUCKET = 5 * 10**8  # numbers that are reduced at once, DeepSpeed's own default


class DeepSpeedLearner(TorchLearner):
    """As `TorchLearner`, with ZeRO `stage`; `offload` keeps AdamW's moments, and its work, on the host."""

    persist = 10_000  # smaller parameters are never given away in stage 3: norms

    def __init__(
        self,
        model_path: str,
        dtype: str = "float32",
        device: str = "cpu",
        gradient_checkpointing: bool = False,
        lora: Lora | None = None,
        stage: int = 2,
        offload: bool = False,
    ):
        self.stage, self.offload = stage, offload
        self.engines: dict[int, Any] = {}  # by the id of the model they hold
        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        if not distributed.is_initialized():
            join(invite("127.0.0.1", 1), 0, 1, device == "cuda", 600)
        if device == "cpu":
            # Else it would compile an exchange by shared memory at its first start, which only inference uses.
            setattr(deepspeed.ops, "__compatible_ops__", {})  # noqa: B010 - a name of theirs that only they spell so
        os.environ.setdefault("LOCAL_RANK", "0")  # each rank sees one device
        deepspeed.init_distributed(dist_backend=distributed.get_backend(), auto_mpi_discovery=False, verbose=False)
        super().__init__(model_path, dtype, device, gradient_checkpointing, lora)

    def begin(
        self, optimization: Optimization, losses: Sequence[LossFn], keep_reference: bool, scalar: Scalar | None = None
    ) -> None:
        """See `Learner.begin`. An engine lives for a stage: the next one gets the weights as they stand."""
        self.policy = self.in_one_piece()
        for engine in self.engines.values():
            engine.destroy()
        self.engines.clear()
        super().begin(optimization, losses, keep_reference, scalar)

    def spread(self, model: Any) -> Any:
        """What is to move waits for its optimizer; what is frozen is spread in stage 3 alone."""
        model = model.to(self.device)
        moves = any(p.requires_grad for p in model.parameters())
        if self.gradient_checkpointing and moves:
            recompute(model)
        if self.stage == 3 and not moves:
            self.initialize(model, None)
        return model

    def descent(self, model: nn.Module, optimization: Optimization, first: int = 0) -> Descent:
        """See `Holder.descent`."""
        return ZeroDescent(self, model, optimization, first)

    def initialize(self, model: Any, optimizer: torch.optim.Optimizer | None, clip: float = 0.0) -> Any:
        """DeepSpeed's engine around the model."""
        size = max(1, min(BUCKET, sum(p.numel() for p in model.parameters())))
        zero = {
            "stage": self.stage,
            "reduce_bucket_size": size,
            "allgather_bucket_size": size,
            "stage3_param_persistence_threshold": self.persist,
            "overlap_comm": self.device.type == "cuda" and self.stage > 0,
        }
        if self.offload and optimizer is not None:
            zero["offload_optimizer"] = {"device": "cpu", "pin_memory": self.device.type == "cuda"}
        config = {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": clip,
            "zero_optimization": zero,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "torch_autocast": {"enabled": self.dtype != torch.float32, "dtype": str(self.dtype).split(".")[1]},
            "steps_per_print": 10**9,
        }
        engine = deepspeed.initialize(model=model, optimizer=optimizer, config=config, dist_init_required=False)[0]
        model.eval()
        self.engines[id(model)] = engine
        return engine

    def runs(self, model: nn.Module) -> Any:
        """See `Holder.runs`."""
        return self.engines.get(id(model))

    def backward(self, losses: Mapping[str, Tensor], last: bool) -> None:
        """See `TorchLearner.backward`."""
        for name, loss in losses.items():
            if loss.requires_grad:
                engine = self.moving[name].engine  # type: ignore[attr-defined]
                engine.set_gradient_accumulation_boundary(last)
                engine.backward(loss * self.ranks.of)

    def tensors(self, model: nn.Module) -> Iterator[tuple[str, Tensor]]:
        """See `Holder.tensors`."""
        for name, tensor in named_tensors(model):
            with deepspeed.zero.GatheredParameters([tensor], enabled=hasattr(tensor, "ds_id")):
                value = tensor.detach()
                yield name, value.clone() if hasattr(tensor, "ds_id") else value

    def shapes(self, model: nn.Module) -> Iterator[tuple[str, tuple[int, ...]]]:
        """See `Holder.shapes`."""
        return ((name, tuple(getattr(tensor, "ds_shape", tensor.shape))) for name, tensor in named_tensors(model))

    def gradient(self, parameter: nn.Parameter) -> Tensor:
        """See `Holder.gradient`."""
        found = safe_get_full_grad(parameter) if self.stage else parameter.grad
        shape = getattr(parameter, "ds_shape", parameter.shape)
        return torch.zeros(shape) if found is None else found.view(shape)

    def fill(self, model: nn.Module, values: Values) -> None:
        """See `Holder.fill`."""
        for name, tensor in named_tensors(model):
            value = values[name]
            with deepspeed.zero.GatheredParameters([tensor], modifier_rank=0, enabled=hasattr(tensor, "ds_id")):
                put(tensor, value)
            if self.stage and tensor.requires_grad and id(model) in self.engines:
                safe_set_full_fp32_param(tensor, value.to(self.device))

    def in_one_piece(self) -> PreTrainedModel:
        """See `Holder.in_one_piece`: itself, where no engine holds it."""
        if id(self.policy) not in self.engines:
            return self.policy
        model = self._fresh()
        for (_, to), (_, tensor) in zip(named_tensors(model), self.tensors(self.policy), strict=True):
            put(to, tensor)
        return model


class ZeroDescent(Descent):
    """One model's AdamW under ZeRO, which clips and steps in one go."""

    def __init__(self, learner: DeepSpeedLearner, model: nn.Module, spec: Optimization, first: int):
        super().__init__(model, spec, first)
        self.stage, clip = learner.stage, spec.clip_grad_norm if learner.stage else 0.0
        self.optimizer = adamw(model, self.spec)
        self.engine = learner.initialize(model, self.optimizer, clip)
        if self.stage:
            self._make_moments()

    def _make_moments(self) -> None:
        """Else they come with the first step, of the first group of parameters alone, and could not be restored."""
        zero = self.engine.optimizer
        groups = [flat for group in self.optimizer.param_groups for flat in group["params"]]
        for flat in zero.fp32_partitioned_groups_flat if self.stage == 3 else groups:
            moments = {key: torch.zeros_like(flat) for key in MOMENTS}
            self.optimizer.state[flat] = {"step": torch.zeros((), device=flat.device), **moments}
        if self.stage < 3:
            zero._lazy_init_hp_params_optimizer_state()

    def _count(self, steps: Tensor) -> None:
        for state in self.optimizer.state.values():
            state["step"].copy_(steps)

    def zero(self) -> None:
        """See `Descent.zero`."""
        self.engine.optimizer.zero_grad()

    def clip(self) -> Tensor:
        """The gradient's norm; in stage 0 it is clipped as well, else in `step`."""
        if self.stage == 0:
            return super().clip()
        if self.stage == 3:
            return torch.linalg.vector_norm(torch.stack(self.engine.optimizer._get_norm_groups()))
        return self.engine.optimizer.scaled_global_norm()

    def step(self, done: int) -> float:
        """See `Descent.step`."""
        lr = self.spec.lr * learning_rate_factor(self.spec, done - self.first)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = lr
        self.engine.step()
        return lr

    def move_moments(self, device: torch.device) -> None:
        """They stay where DeepSpeed has them."""

    def moments(self) -> Iterator[tuple[str, Tensor]]:
        """See `Descent.moments`."""
        if self.stage == 0:
            yield from super().moments()
            return
        steps = next(state["step"] for state in self.optimizer.state.values())
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                shape = getattr(parameter, "ds_shape", parameter.shape)
                for key in MOMENTS:
                    found: Any = safe_get_full_optimizer_state(parameter, key)
                    yield f"{key}.{name}", found.view(shape)
                yield f"step.{name}", steps

    def restore(self, saved: Saved) -> None:
        """See `Descent.restore`."""
        if self.stage == 0:
            super().restore(saved)
            return
        for name, parameter in self.model.named_parameters():
            if f"{MOMENTS[0]}.{name}" in saved:
                for key in MOMENTS:
                    safe_set_full_optimizer_state(parameter, saved[f"{key}.{name}"].to(parameter.device), key)
                self._count(saved[f"step.{name}"])
