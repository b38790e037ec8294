"""Fixtures for all floors."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from rewards.types import Failure, Group, Message, Rollout, Task, Turn

sys.path.insert(0, str(Path(__file__).parent / "support"))  # modules that worker processes import as well


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data; skips where there is none."""
    if "ASSAY_DATA" not in os.environ:
        pytest.skip("ASSAY_DATA is not set: no real data here")
    return Path(os.environ["ASSAY_DATA"])


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One Ray cluster of 4 logical CPUs for all tests of this session."""
    from workers.ray_actors import start_ray, stop_ray

    start_ray(4)
    yield
    stop_ray()


@pytest.fixture(scope="session")
def make_group() -> Callable[..., Group]:
    """`make_group(texts, reference=..., meta=...)`; a None among the texts is a rollout that failed."""

    def make(texts: list[str | None], reference: str | None = None, meta: dict | None = None, id: int = 0) -> Group:
        task = Task(f"task-{id}", (Message("user", "How much?"),), reference, meta=meta or {})
        return Group(id, task, tuple(_rollout(i, text) for i, text in enumerate(texts)))

    return make


def _rollout(index: int, text: str | None) -> Rollout:
    if text is None:
        return Rollout(index, (), Failure("rollout", "died", "the engine went away"))
    n = len(text)
    turn = Turn(np.zeros(2, np.int32), np.arange(n, dtype=np.int32), np.zeros(n, np.float32), text, "stop", ((0, 0),))
    return Rollout(index, (turn,))
