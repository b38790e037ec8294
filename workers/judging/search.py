"""Search over a local file of passages, by Okapi BM25."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
from rank_bm25 import BM25Okapi

from rewards.declared import Corpus
from rewards.errors import Refused

_WORD = re.compile(r"\w+")


class Index:
    """A corpus in memory."""

    def __init__(self, corpus: Corpus) -> None:
        """Raises `Refused` where the file can't be read, or has no passage."""
        self._passages = _passages(Path(corpus.path))
        self._words = [set(_words(passage)) for passage in self._passages]
        self._ranks = BM25Okapi([_words(passage) for passage in self._passages])

    def search(self, query: str, k: int) -> list[str]:
        """See `Toolbox.search`. Equally good ones in the order of the file."""
        words = _words(query)
        scores = self._ranks.get_scores(words)
        best = np.argsort(-scores, kind="stable")
        return [self._passages[i] for i in best if self._words[i].intersection(words)][:k]


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _passages(path: Path) -> list[str]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"corpus {str(path)!r}: can't be read: {error}") from None
    out = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if path.suffix == ".jsonl":
            try:
                row = json.loads(line)
                line = "\n".join(filter(None, [row.get("title"), row["text"]]))
            except (ValueError, KeyError, AttributeError, TypeError):
                raise Refused(f"corpus {str(path)!r}, line {number}: expected an object with `text`") from None
        out.append(line)
    if not any(_words(line) for line in out):
        raise Refused(f"corpus {str(path)!r}: has no passage")
    return out
