"""Numbers from a transformer: a decoder's trunk with a head where the vocabulary was. Critics and reward models.

    model = on_trunk(policy)                        a copy of the policy's trunk, a new head that says 0 everywhere
    model = load_scalar(directory)                  one that was saved: any AutoModelForSequenceClassification
    numbers = scalars(model, batch, positions, dtype)       f32[N, K], with gradient
    save_model(model, tokenizer, directory)         as a policy is (`workers.models.load`)

`batch` is a `MicroBatch` of tensors (`workers.learner.forward.to_torch`); `positions` i64[N] are places in its T packed
tokens: `batch.own - 1` for the value of the state that an own token is drawn in, `batch.lengths.cumsum(0) - 1` for the
last token of each sequence. K is the number of heads (`heads`; 1 for a critic), config key `num_labels`.

The head is `score`: linear and without bias, as in transformers, or (`depth` 2 or 3) layers of the hidden size with
SiLU between them, config key `head_depth`; its last layer starts at 0. Config key `peers` counts models side by side
that share nothing, each a trunk with a head: K numbers of the first, then K of the next. Only a single model with a
head of depth 1 is loaded by `AutoModelForSequenceClassification`. Weights are float32, in evaluation mode, attention
through `attention.adopt`.

The learner trains one beside the policy (PPO's critic), or in a stage without policy losses alone (a reward model):
see `workers.types.Scalar` and `workers/learner/critic.py`.
"""

from __future__ import annotations

import copy
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

from rewards.errors import Refused
from workers.models.attention import Packed, adopt
from workers.models.load import load_config, quiet, refusing
from workers.types import MicroBatch


def scalar_head(hidden: int, heads: int = 1, depth: int = 1, seed: int = 0) -> nn.Module:
    """f[..., hidden] -> f[..., heads], zero everywhere until it learns. `seed` draws the layers before the last."""
    entropy = np.random.SeedSequence([seed, zlib.crc32(b"models.scalar")])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(entropy.generate_state(1, np.uint64)[0] >> 1))
        before = [layer for _ in range(depth - 1) for layer in (nn.Linear(hidden, hidden), nn.SiLU())]
        last = nn.Linear(hidden, heads, bias=False)
    nn.init.zeros_(last.weight)
    return nn.Sequential(*before, last) if before else last


def on_trunk(policy: PreTrainedModel, heads: int = 1, depth: int = 1, seed: int = 0, peers: int = 1) -> PreTrainedModel:
    """A scalar model on a copy of the policy's trunk as it stands, on its device; every peer has a copy of its own.

    Raises `Refused` for an architecture that transformers has no sequence classifier for.
    """
    config = copy.deepcopy(policy.config)
    config.num_labels, config.head_depth, config.head_seed = heads, depth, seed
    if peers > 1:
        config.peers = peers
    model: Any = blank(config)
    trunk: Any = policy.base_model
    for own, _ in model.parts():
        own.load_state_dict(trunk.state_dict())
    return _ready(model.to(policy.device))


def blank(config: PreTrainedConfig) -> PreTrainedModel:
    """A scalar model of that config, on the host; its weights are anything until they are written over."""
    with quiet(), torch.random.fork_rng(devices=[]):
        return _class_of(config)(config)


def load_scalar(path: str | Path, device: str | torch.device = "cpu") -> PreTrainedModel:
    """The scalar model of a directory or hub name. Raises `Refused` where there is none, or it has another head."""
    config = load_config(path)
    with quiet(), refusing(path), torch.random.fork_rng(devices=[]):
        loaded: Any = _class_of(config).from_pretrained(
            path, config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    model, report = loaded
    wrong = {*report["missing_keys"], *(str(key[0]) for key in report["mismatched_keys"])}
    wrong |= {key for key in report["unexpected_keys"] if key.startswith("score.")}
    if any(key.startswith("score.") for key in wrong):
        raise Refused(f"model {str(path)!r}: no head of numbers ({min(wrong)} does not fit), expected a reward model")
    if wrong:
        raise Refused(f"model {str(path)!r}: {len(wrong)} weights missing or of another shape, {min(wrong)} for one")
    return _ready(model.to(device))


def scalars(
    model: PreTrainedModel, batch: MicroBatch, positions: Tensor, dtype: torch.dtype, run: Any = None
) -> Tensor:
    """f32[N, K] (K for each peer): the heads' numbers at these positions of the packed micro-batch, with gradient.

    The trunk computes in `dtype`, the head in what it is kept in: eight bits are too few for a value. `run` is called
    in the model's place, where something is wrapped around it.
    """
    with torch.autocast(batch.ids.device.type, dtype, enabled=dtype != torch.float32, cache_enabled=False):
        attend = Packed(batch.lengths)
        return (run or model)(
            batch.ids[None], position_ids=batch.position[None], attend=attend, use_cache=False, places=positions
        )


def apply_head(head: nn.Module, hidden: Tensor) -> Tensor:
    """The head outside of autocast. f[N, hidden] -> f[N, heads] in the head's own number format."""
    with torch.autocast(hidden.device.type, enabled=False):
        return head(hidden.to(next(head.parameters()).dtype))


def _ready(model: PreTrainedModel) -> PreTrainedModel:
    whole: Any = model
    for trunk, _ in whole.parts():
        adopt(trunk)
    return model.eval().requires_grad_(True)


def _class_of(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """transformers' sequence classifier for this config, with the head that the config describes."""
    base: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(config), None)
    if base is None:
        raise Refused(f"transformers has no sequence classifier for {config.model_type}, so no head of numbers either")

    class Scalar(base):
        def __init__(self, config: Any):
            super().__init__(config)
            depth, seed, peers = (getattr(config, key, 1) for key in ("head_depth", "head_seed", "peers"))
            head = partial(scalar_head, config.get_text_config().hidden_size, config.num_labels, depth)
            self.score = head(seed)
            trunk: Any = type(self.base_model)
            self.peers = nn.ModuleList(
                nn.ModuleDict({"trunk": trunk(config), "score": head(seed + number)}) for number in range(1, peers)
            )

        def parts(self) -> list[tuple[Any, nn.Module]]:
            """Trunk and head of each of the models side by side."""
            peers: Any = self.peers
            return [(self.base_model, self.score), *((peer["trunk"], peer["score"]) for peer in peers)]

        def forward(self, input_ids: Any = None, places: Tensor | None = None, **kwargs: Any) -> Any:
            if places is None:
                return super().forward(input_ids, **kwargs)
            read = ((head, trunk(input_ids, **kwargs).last_hidden_state[0]) for trunk, head in self.parts())
            return torch.cat([apply_head(head, hidden[places]) for head, hidden in read], -1)

    Scalar.__name__ = Scalar.__qualname__ = base.__name__  # what transformers writes down as the architecture
    return Scalar
