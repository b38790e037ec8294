"""The learner's arrays through vLLM's own weight-transfer interface, inside vLLM's worker processes.

vLLM loads this module in every worker that it starts (`worker_extension_cls`), which registers the transfer engine
there. The arrays come as they lie in shared memory: within one process nothing is copied on the way; to the further
processes of a tensor-parallel engine vLLM pickles them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import vllm._custom_ops as kernels
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from workers.weights.arrays import tensor_of
from workers.weights.proof import sum_of

BACKEND = "assay"

# On the CPU vLLM packs weights for oneDNN and throws the originals away: a reload says it worked and changes nothing.
kernels._supports_onednn = False


@dataclass
class Nothing(WeightTransferInitInfo):
    """There is no connection to open."""


@dataclass
class Arrays(WeightTransferUpdateInfo):
    """Parameters by their names in transformers."""

    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)


class ArrayTransfer(WeightTransferEngine[Nothing, Arrays]):
    """Loads arrays as vLLM loads a checkpoint: fused, sharded, quantized as its own layers want them."""

    init_info_cls = Nothing
    update_info_cls = Arrays

    def init_transfer_engine(self, init_info: Nothing) -> None:
        pass

    def start_weight_update(self) -> None:
        if self.device.type != "cpu":  # there, layers keep their weights as they are loaded
            initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        # Not the base class's: it waits for an accelerator, also where there is none.
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: Arrays) -> None:
        load: Any = self.model.load_weights
        load((name, tensor_of(array)) for name, array in update_info.arrays.items())

    def finish_weight_update(self) -> None:
        if self.device.type != "cpu":
            finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        pass


class Extension:
    """What vLLM's worker can answer beside its own methods."""

    def held_weights(self) -> tuple[int, set[int]]:
        """Checksum of the parameters as `workers.weights.proof` takes it, and the sizes of their numbers in bytes."""
        model: torch.nn.Module = self.get_model()  # type: ignore[attr-defined]
        parameters = [parameter.detach() for parameter in model.parameters()]
        return sum_of(parameters), {parameter.element_size() for parameter in parameters}


WeightTransferEngineFactory.register_engine(BACKEND, ArrayTransfer)
