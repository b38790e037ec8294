"""ConvexDA (Shen et al., "The Trickle-down Impact of Reward (In-)consistency on RLHF", arXiv 2309.16155).

A reward model that scores like texts unlike is shown texts that are alike: each worse answer is misspelt several times,
all versions are laid out on the two axes along which they differ most (PCA), and those on the border of what they cover
(the vertices of their convex hull) are worse answers too. A step has as many tasks as before. What differs from the
paper: texts are compared by the words and pairs of words in them, not by SimCSE's embeddings.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt, Le

from pipeline.streams import stream
from pipeline.tasks.types import TaskSets
from rewards.compose.fusion import vector
from rewards.types import Task


@dataclass(frozen=True, slots=True)
class Convex:
    """Worse answers again, misspelt.

    copies  misspelt versions of each, of which those on the border are learned from
    words   share of its words that are misspelt, one at least
    """

    copies: Annotated[int, Ge(1), Le(50)] = 5
    words: Annotated[float, Gt(0), Le(1)] = 0.05


def augmented(sets: TaskSets, convex: Convex, seed: int) -> TaskSets:
    """The training tasks with more of their worse answers; held-out ones stay as they are."""
    return TaskSets(tuple(_more(task, convex, seed) for task in sets.train), sets.held_out)


def _more(task: Task, convex: Convex, seed: int) -> Task:
    rng = stream(seed, "tasks.convex", task.id)
    found = list(task.answers)
    for one in task.answers[1:]:
        texts = list(dict.fromkeys([one.text, *(misspelt(one.text, convex.words, rng) for _ in range(convex.copies))]))
        found += [replace(one, text=texts[i], steps=(), ends=()) for i in border(texts) if i]
    return replace(task, answers=tuple(sorted(found, key=lambda one: -one.rating)))


def misspelt(text: str, share: float, rng: np.random.Generator) -> str:
    """With that share of its words, one at least, written with two letters exchanged, one left out, or one twice."""
    words = list(re.finditer(r"\w{2,}", text))
    n = min(len(words), max(1, round(share * len(words))))
    for place in sorted(rng.choice(len(words), n, replace=False).tolist(), reverse=True) if words else ():
        start, word = words[place].start(), words[place].group()
        i, way = int(rng.integers(len(word) - 1)), int(rng.integers(3))
        written = (word[:i] + word[i + 1] + word[i] + word[i + 2 :], word[:i] + word[i + 1 :], word[: i + 1] + word[i:])
        text = text[:start] + written[way] + text[start + len(word) :]
    return text


def border(texts: list[str]) -> list[int]:
    """Which of the texts lie on the border of what all of them cover, on their two main axes; ascending."""
    if len(texts) < 3:
        return list(range(len(texts)))
    from scipy.spatial import ConvexHull, QhullError  # takes a second to import

    vectors = np.stack([vector(text) for text in texts]).astype(np.float64)
    left, sizes, _ = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    points = left[:, :2] * sizes[:2]
    try:
        return sorted(ConvexHull(points).vertices.tolist())
    except QhullError:  # all on one line, or on one point
        return sorted({int(points[:, 0].argmin()), int(points[:, 0].argmax())})
