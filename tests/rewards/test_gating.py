"""Attributes decorrelated from verbosity and gated by the prompt, against scipy and by hand."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import tiny
from scipy.stats import spearmanr

from rewards.declared import ScalarModel
from rewards.gating import CORRELATED, GRID, decorrelated, gates, shares_of, spearman
from rewards.sources.scalar import Scalar

RM, GATE = ScalarModel("rm", labels=3), ScalarModel("gate", labels=3)


def test_spearman_as_scipy_has_it():
    rng = tiny.fresh()
    for _ in range(50):
        a, b = rng.integers(0, 8, (2, int(rng.integers(3, 40)))).astype(float)
        if len({*a}) > 1 and len({*b}) > 1:
            assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)
    assert spearman(np.ones(4), np.arange(4.0)) == 0.0


def test_after_the_shares_are_taken_off_nothing_follows_length():
    rng = tiny.fresh()
    verbose = rng.normal(size=2000)
    ratings = {"help": rng.normal(size=2000) + 0.4 * verbose, "safe": rng.normal(size=2000), "length": verbose}
    shares = shares_of(ratings, "length")
    assert set(shares) == {"help", "safe"}
    assert 0.3 < shares["help"] < 0.5
    assert shares["safe"] < 0.1
    for name, share in shares.items():
        assert spearmanr(np.array(ratings[name]) - share * verbose, verbose).statistic <= CORRELATED
        smaller = [s for s in GRID if s < share]
        assert all(spearmanr(np.array(ratings[name]) - s * verbose, verbose).statistic > CORRELATED for s in smaller)
    assert shares_of({"same": 3 * verbose, "length": verbose}, "length") == {"same": 1.0}


def test_by_hand():
    assert decorrelated({"a": 2.0, "b": 1.0, "v": 4.0}, "v", {"a": 0.25}) == {"a": 1.0, "b": 1.0, "v": 0.0}
    np.testing.assert_allclose(gates([0.0, np.log(2.0) * 5, 1e4], 5.0), [0.0, 0.0, 1.0], atol=1e-12)
    np.testing.assert_allclose(gates([0.0, np.log(2.0) * 5], 5.0), [1 / 3, 2 / 3])


class Reads:
    """Three ratings for every answer; the gate, which sees the prompt alone, all for the second attribute."""

    async def scalar(self, model, passages):
        if model is GATE:
            assert [m.role for p in passages for m in p.messages] == ["user"]
            return [np.array([[0.0, 50.0, 0.0]])]
        return [np.array([[1.0, float(len(p.messages[-1].content)), 2.0]]) for p in passages]


def test_the_source_gates_what_it_has_decorrelated(make_group):
    names = {"honest": 1.0, "long": 2.0, "verbose": 1.0}
    source = Scalar(RM, names, gate=GATE, temperature=1.0, verbosity="verbose", decorrelate={"long": 0.5})
    scores = asyncio.run(source.score(make_group(["a", "bbb"]), Reads()))
    assert [s.value for s in scores] == [pytest.approx(2 * (1 - 1)), pytest.approx(2 * (3 - 1))]
    assert scores[1].parts == {"honest": 1.0, "long": 2.0, "verbose": 0.0}


def test_names_must_be_attributes():
    with pytest.raises(ValueError, match=r"verbosity: no attribute 'lenght'; did you mean 'length'"):
        Scalar(ScalarModel("rm", labels=2), {"length": 1.0, "help": 1.0}, verbosity="lenght")
    with pytest.raises(ValueError, match=r"gate.labels: 3, expected one for each of 2 attributes"):
        Scalar(ScalarModel("rm", labels=2), {"a": 1.0, "b": 1.0}, gate=GATE)
