"""The scalar source: what it shows to the model, and what it makes of the numbers."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from rewards.declared import ScalarModel
from rewards.sources.scalar import Scalar


class Counts:
    """Gives the number of characters, and of digits; can't read more than 40 characters."""

    def __init__(self):
        self.seen = []

    async def scalar(self, model, passages):
        self.seen += passages
        texts = [p.text or "|".join(m.content for m in p.messages) for p in passages]
        numbers = [[len(text), sum(map(str.isdigit, text))][: model.labels] for text in texts]
        return [None if len(t) > 40 else np.array([n], np.float32) for t, n in zip(texts, numbers, strict=True)]


def score(source, group):
    tools = Counts()
    return asyncio.run(source.score(group, tools)), tools.seen


def test_the_number_is_the_value(make_group):
    scores, seen = score(Scalar(ScalarModel("rm")), make_group(["1", "22", "3" * 40]))
    assert [s.value for s in scores] == [len("How much?|1"), len("How much?|22"), None]
    assert scores[2].failure.kind == "abstained"
    assert [(m.role, m.content) for m in seen[0].messages] == [("user", "How much?"), ("assistant", "1")]


def test_attributes_are_weighed_and_told(make_group):
    source = Scalar(ScalarModel("rm", labels=2), {"long": -0.5, "digits": 2.0})
    [scored], _ = score(source, make_group(["123"]))
    assert scored.value == -0.5 * 13 + 2 * 3
    assert scored.parts == {"long": 13.0, "digits": 3.0}


def test_with_a_reference(make_group):
    source = Scalar(ScalarModel("rm"), reference=True, split="<s>", end="<r>")
    _, seen = score(source, make_group(["12"], reference="7"))
    assert seen[0].text == "How much?\n7<s>How much?\n12<r>"
    [missing], _ = score(source, make_group(["12"]))
    assert missing.failure.kind == "abstained"


def test_names_and_labels_must_agree():
    with pytest.raises(ValueError, match=r"attributes: 1 named, model.labels is 2"):
        Scalar(ScalarModel("rm", labels=2), {"a": 1.0})
    with pytest.raises(ValueError, match="expected `attributes`"):
        Scalar(ScalarModel("rm", labels=2))
