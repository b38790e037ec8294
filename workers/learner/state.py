"""What a resumed run needs of the learner, as files that any number of ranks write and any other number reads.

model*.safetensors, config.json, tokenizer      the policy: a Hugging Face directory
learner*.safetensors                            reference.NAME, critic.NAME, MOVING.exp_avg.NAME ...
learner.json                                    updates done in the stage, version
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from rewards.errors import Refused
from workers.learner.ranks import Ranks
from workers.models import ModelInit
from workers.models.create import create
from workers.models.load import save_beside
from workers.models.shards import Saved, write

if TYPE_CHECKING:
    from workers.learner.engine_torch import TorchLearner


def create_once(init: ModelInit, texts: Sequence[str], directory: Path, seed: int, ranks: Ranks) -> None:
    """`workers.models.create.create` by the first rank, while the others wait; where it was done before, not again."""
    if ranks.number == 0 and not (directory / "config.json").exists():
        create(init, texts, directory, seed)
    ranks.wait()


def save_learner(learner: TorchLearner, directory: Path) -> None:
    """Of each rank its share; all of them call it together."""
    number, of = learner.ranks.number, learner.ranks.of
    write(directory, "model", learner.tensors(learner.policy), number, of)
    write(directory, "learner", _beside(learner), number, of)
    if number == 0:
        save_beside(learner.policy, learner.tokenizer, directory)
        (directory / "learner.json").write_text(json.dumps({"done": learner.done, "version": learner.version}))
    learner.ranks.wait()


def restore_learner(learner: TorchLearner, directory: Path) -> None:
    """Take up what was saved: the policy and its version, and inside a stage all that belongs to it.

    Raises `Refused` where the files are of another model.
    """
    told = json.loads((directory / "learner.json").read_text())
    _put(learner, learner.policy, Saved(directory, "model"), "", directory)
    learner.version = told["version"]
    if not learner.moving:
        return
    learner.done = told["done"]
    saved = Saved(directory, "learner")
    for name, model in _models(learner):
        _put(learner, model, saved, f"{name}.", directory)
    for name, descent in learner.moving.items():
        descent.restore(_Part(saved, f"{name}."))


def _models(learner: TorchLearner) -> Iterator[tuple[str, nn.Module]]:
    """Beside the policy."""
    if learner.reference is not None and learner.reference is not learner.policy:  # which keeps it as an adapter
        yield "reference", learner.reference
    if learner.scalar is not None:
        yield "scalar", learner.scalar.model


def _beside(learner: TorchLearner) -> Iterator[tuple[str, Tensor]]:
    for name, model in _models(learner):
        yield from ((f"{name}.{key}", tensor) for key, tensor in learner.tensors(model))
    for name, descent in learner.moving.items():
        yield from ((f"{name}.{key}", tensor) for key, tensor in descent.moments())


def _put(learner: TorchLearner, model: nn.Module, saved: Saved, prefix: str, directory: Path) -> None:
    for name, shape in learner.shapes(model):
        found: Any = saved.shape(prefix + name) if prefix + name in saved else "missing"
        if found != shape:
            raise Refused(
                f"checkpoint {directory}: holds another model: its {prefix + name} is {found}, expected {shape}; "
                "resume with the model that made it"
            )
    learner.fill(model, _Part(saved, prefix))


class _Part:
    """The tensors whose names begin with `prefix`, without it."""

    def __init__(self, saved: Saved, prefix: str):
        self.saved, self.prefix = saved, prefix

    def __contains__(self, name: object) -> bool:
        return f"{self.prefix}{name}" in self.saved

    def __getitem__(self, name: str) -> Tensor:
        return self.saved[self.prefix + name]
