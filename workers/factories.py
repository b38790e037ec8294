"""What makes an engine, in the process that is to hold it: plain functions that travel to a worker.

Only there are models imported. The driver sends these with their arguments, so they stand on this floor: a worker that
takes one up must not import the config, which takes seconds to build.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workers.models import ModelInit
from workers.ports import Engine

if TYPE_CHECKING:
    from workers.learner.engine_torch import TorchLearner
    from workers.rollout.renderer import Renderer
    from workers.rollout.served import Pause


def torch_learner(init: ModelInit | None, texts: Sequence[str], seed: int, path: str, **knobs: Any) -> TorchLearner:
    """`knobs` are the engine's own, so below. The model at `path` is made first where `init` says what it is."""
    from workers.learner.engine_torch import TorchLearner

    _create(init, texts, seed, path)
    return TorchLearner(path, **knobs)


def deepspeed_learner(init: ModelInit | None, texts: Sequence[str], seed: int, path: str, **knobs: Any) -> TorchLearner:
    from workers.learner.engine_deepspeed import DeepSpeedLearner

    _create(init, texts, seed, path)
    return DeepSpeedLearner(path, **knobs)


def _create(init: ModelInit | None, texts: Sequence[str], seed: int, path: str) -> None:
    from workers.learner.ranks import Ranks
    from workers.learner.state import create_once

    if init is not None:
        create_once(init, texts, Path(path), seed, Ranks.here())


def torch_engine(max_rows: int, dtype: str, device: str, pause: Pause, path: str, renderer: Renderer) -> Engine:
    from workers.rollout.torch_engine import torch_engine

    return torch_engine(path, renderer, max_rows, dtype, device, pause)


def vllm_engine(
    max_rows: int, dtype: str, engine_args: Mapping[str, Any], pause: Pause, path: str, renderer: Renderer
) -> Engine:
    from workers.rollout.vllm_engine import vllm_engine

    return vllm_engine(path, renderer, max_rows, dtype, engine_args, pause)
