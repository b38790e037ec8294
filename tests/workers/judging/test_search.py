"""Search over a local file."""

from __future__ import annotations

import asyncio

import pytest

from rewards.declared import Corpus
from rewards.errors import Refused
from workers.judging.live import LiveToolbox


def search(path, query, k=2):
    async def go():
        tools = LiveToolbox(1)
        return await tools.search(Corpus(str(path)), query, k)

    return asyncio.run(go())


def test_the_best_passages_come_first(tmp_path):
    path = tmp_path / "facts.txt"
    path.write_text("The Danube flows through Vienna.\n\nThe Rhine flows through Basel.\nOn the Seine.\nMoss.\n")
    assert search(path, "which river flows through Basel?", 1) == ["The Rhine flows through Basel."]
    assert search(path, "flows", 9) == ["The Danube flows through Vienna.", "The Rhine flows through Basel."]
    assert search(path, "zzz") == []


def test_jsonl_and_what_is_no_corpus(tmp_path):
    path = tmp_path / "facts.jsonl"
    path.write_text('{"title": "Basel", "text": "On the Rhine."}\n{"text": "Vienna lies on the Danube."}\n')
    assert search(path, "Basel") == ["Basel\nOn the Rhine."]
    path.write_text('{"text": "one"}\n{"txt": "two"}\n')
    with pytest.raises(Refused, match="line 2: expected an object with `text`"):
        search(path, "one")
    path.write_text("\n")
    with pytest.raises(Refused, match="has no passage"):
        search(path, "one")
    with pytest.raises(Refused, match="can't be read"):
        search(tmp_path / "none", "one")
