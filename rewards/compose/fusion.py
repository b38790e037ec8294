"""RewardFusion (Shen et al., "The Trickle-down Impact of Reward (In-)consistency on RLHF", arXiv 2309.16155).

    R(x) = sum_z w_z r(z)    over z = x itself and its nearest known texts, w their similarities, summing to 1

A judge that scores like texts unlike is steadied by what it said of known ones. Neighbours come from a file of texts
with the judge's own rewards (JSONL: `text`, `reward`), five at most, of cosine similarity 0.9 or more; x counts 1. What
differs from the paper: texts are compared by the words and pairs of words in them, not by SimCSE's embeddings.
"""

from __future__ import annotations

import itertools
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt, Le

from rewards.compose.weighted import weighted_sum
from rewards.ports import Row
from rewards.types import Group

SIZE = 4096


@dataclass(frozen=True)
class Fusion:
    """The weighted sum, averaged with the known rewards of the texts that are most like the answer.

    path        a JSONL file whose lines have `text` (prompt and answer) and `reward`
    neighbours  how many texts may count
    similarity  from which cosine on they do
    """

    path: str
    neighbours: Annotated[int, Ge(1)] = 5
    similarity: Annotated[float, Gt(0), Le(1)] = 0.9

    def check(self, weights: Mapping[str, float]) -> None:
        """See `Combiner.check`."""
        known_texts(self.path)

    def combine(self, group: Group, rows: Sequence[Row]) -> Sequence[float]:
        """See `Combiner.combine`."""
        vectors, rewards = known_texts(self.path)
        prompt = "\n".join(message.content for message in group.task.messages)
        out = []
        for rollout, row in zip(group.rollouts, rows, strict=True):
            alike = vectors @ vector(f"{prompt}\n{rollout.text}")
            near = np.argsort(-alike, kind="stable")[: self.neighbours]
            near = near[alike[near] >= self.similarity]
            weights = np.append(alike[near], 1.0)
            out.append(float(weights @ np.append(rewards[near], weighted_sum(row)) / weights.sum()))
        return out


def vector(text: str) -> np.ndarray:
    """f32[SIZE], of length 1: how often each word, and each pair of words, stands in the text (hashed)."""
    words = re.findall(r"\w+|[^\w\s]", text.lower())
    counts = np.zeros(SIZE, np.float32)
    for gram in [*words, *map(" ".join, itertools.pairwise(words))]:
        counts[zlib.crc32(gram.encode()) % SIZE] += 1
    norm = float(np.linalg.norm(counts))
    return counts / norm if norm else counts


@lru_cache(maxsize=4)
def known_texts(path: str) -> tuple[np.ndarray, np.ndarray]:
    """The file's vectors f32[n, SIZE] and rewards f64[n]. Raises `ValueError` with the line that is wrong."""
    if not Path(path).is_file():
        raise ValueError(f"path: no file {path}, expected JSONL with `text` and `reward`")
    vectors, rewards = [], []
    for number, line in enumerate(Path(path).read_text().splitlines(), 1):
        try:
            row = json.loads(line)
            vectors.append(vector(row["text"]))
            rewards.append(float(row["reward"]))
        except (ValueError, KeyError, TypeError, AttributeError):
            detail = f"{path} line {number}: found {line[:60]!r}, expected an object with `text` and `reward`"
            raise ValueError(f"path: {detail}") from None
    if not rewards:
        raise ValueError(f"path: {path} is empty, expected lines with `text` and `reward`")
    return np.stack(vectors), np.array(rewards, np.float64)
