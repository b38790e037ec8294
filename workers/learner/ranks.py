"""The learner's ranks: how its processes find each other, and what they tell each other beside gradients.

Rank 0 opens a store at its address (`invite`), all of them meet there (`join`); from then on `Ranks.here()` knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

_stores: list[Any] = []  # the one that this process holds open for the others


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process is rank `number` of `of`."""

    number: int = 0
    of: int = 1

    @classmethod
    def here(cls) -> Ranks:
        """One alone, where nobody was joined."""
        if not distributed.is_initialized():
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size())

    def gather(self, value: Any) -> list[Any]:
        """Everybody's value, by rank."""
        if self.of == 1:
            return [value]
        out: list[Any] = [None] * self.of
        distributed.all_gather_object(out, value)
        return out

    def wait(self) -> None:
        """Until all ranks are here."""
        self.gather(None)


def invite(host: str, of: int) -> tuple[str, int]:
    """Rank 0 opens the store that the others come to; where it is."""
    _stores[:] = [TCPStore(host, 0, of, is_master=True, wait_for_workers=False)]
    return host, _stores[0].port


def join(address: tuple[str, int], number: int, of: int, cuda: bool, timeout_s: float) -> None:
    """Meet the other ranks: by gloo on the CPU, by NCCL on GPUs. Every exchange with them ends after `timeout_s`."""
    limit = timedelta(seconds=timeout_s)
    store = _stores[0] if number == 0 else TCPStore(*address, of, is_master=False, timeout=limit)
    if cuda:
        torch.cuda.set_device(0)  # the only one that this process sees
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    distributed.init_process_group(backend, store=store, rank=number, world_size=of, timeout=limit)
