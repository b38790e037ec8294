"""Tensors by name in safetensors files, written by many ranks at once and read by any number of them.

    NAME.safetensors                                                             one rank
    NAME-00001-of-00002.safetensors ..., NAME.safetensors.index.json             each rank a share of whole tensors

That is how transformers writes models as well: what lies under the name `model` it can load.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor


def write(directory: Path, name: str, tensors: Iterable[tuple[str, Tensor]], number: int = 0, of: int = 1) -> None:
    """Rank `number` of `of` keeps every `of`-th of the whole tensors that all ranks go through, and writes its file."""
    share: dict[str, Tensor] = {}
    files = [f"{name}.safetensors" if of == 1 else f"{name}-{i + 1:05d}-of-{of:05d}.safetensors" for i in range(of)]
    index: dict[str, str] = {}
    size = 0
    for place, (key, tensor) in enumerate(tensors):
        index[key] = files[place % of]
        size += tensor.nbytes
        if place % of == number:
            share[key] = tensor.detach().to("cpu", copy=True).contiguous()
    save_file(share, directory / files[number], metadata={"format": "pt"})
    if of > 1 and number == 0:
        told = {"metadata": {"total_size": size}, "weight_map": index}
        (directory / f"{name}.safetensors.index.json").write_text(json.dumps(told, indent=1))


class Saved:
    """What `write` wrote, read as it is asked for."""

    def __init__(self, directory: Path, name: str):
        index = directory / f"{name}.safetensors.index.json"
        files = set(json.loads(index.read_text())["weight_map"].values()) if index.exists() else [f"{name}.safetensors"]
        opened: list[Any] = [safe_open(directory / file, framework="pt") for file in sorted(files)]
        self._of = {key: file for file in opened for key in file.keys()}  # noqa: SIM118

    def __contains__(self, key: str) -> bool:
        return key in self._of

    def keys(self) -> set[str]:
        """The names of all tensors."""
        return set(self._of)

    def shape(self, key: str) -> tuple[int, ...]:
        """Without reading it."""
        return tuple(self._of[key].get_slice(key).get_shape())

    def __getitem__(self, key: str) -> Tensor:
        return self._of[key].get_tensor(key)
