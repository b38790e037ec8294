"""Every combiner by hand, and what it promises whatever the scores are."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.compose.ensemble import Ensemble
from rewards.compose.fusion import Fusion, vector
from rewards.compose.gated import Gated
from rewards.compose.hierarchical import Hierarchical
from rewards.compose.hybrid import Hybrid
from rewards.compose.weighted import Weighted
from rewards.types import Group, Message, Rollout, Score, Task, Turn

WEIGHTS = {"exact": 1.0, "style": 0.5, "form": 2.0}
ANY = st.floats(-1e6, 1e6)


def rows(*values, weights=WEIGHTS):
    return [{n: Score(v, weight=w) for v, (n, w) in zip(row, weights.items(), strict=True)} for row in values]


def group(n, stop="stop", text="x"):
    none = np.zeros(0, np.int32)
    turn = Turn(none, none, np.zeros(0, np.float32), text, stop, ((0, 0),))
    return Group(0, Task("t", (Message("user", "How much?"),)), tuple(Rollout(i, (turn,)) for i in range(n)))


def one(combiner, *row, stop="stop", weights=WEIGHTS):
    [reward] = combiner.combine(group(1, stop), rows(row, weights=weights))
    return reward


def test_weighted():
    assert one(Weighted(), 1.0, 0.5, -1.0) == 1.0 + 0.25 - 2.0
    steps = Score(0.5, np.ones(2, np.float32), ends=np.array([1, 2], np.int32), weight=3.0)
    assert Weighted().combine(group(1), [{"exact": Score(1.0), "process": steps}]) == [1.0]


def test_hierarchical():
    combiner = Hierarchical("exact", alpha=0.5)
    assert one(combiner, 1.0, 2.0, 0.0) == pytest.approx(1 / (1 + np.exp(-0.5)))
    assert one(combiner, 0.0, 2.0, 0.0) == pytest.approx(1 / (1 + np.exp(-0.5)) - 1)
    assert one(combiner, 0.49, 0.0, 0.0) == -0.5


@given(st.lists(st.tuples(st.sampled_from([0.0, 1.0]), ANY, ANY), min_size=2, max_size=8))
def test_any_right_answer_is_above_any_wrong_one(table):
    rewards = Hierarchical("exact").combine(group(len(table)), rows(*table))
    right = [r for r, row in zip(rewards, table, strict=True) if row[0]]
    wrong = [r for r, row in zip(rewards, table, strict=True) if not row[0]]
    assert all(0 < r < 1 for r in right) and all(-1 < r < 0 for r in wrong)
    sums = {id(row): 0.5 * row[1] + 2 * row[2] for row in table}
    for reward, row in zip(rewards, table, strict=True):
        for other, against in zip(rewards, table, strict=True):
            if row[0] == against[0] and sums[id(row)] >= sums[id(against)]:
                assert reward >= other


def test_gated():
    """R1-Reward's: result (1 + 0.5 consistency) + 0.5 format."""
    combiner, weights = Gated("result", ("consistency",)), {"result": 1.0, "consistency": 0.5, "format": 0.5}
    cases = {(1, 1, 1): 2.0, (1, -1, 1): 1.0, (1, 0, 0): 1.0, (0, 1, 1): 0.5, (0, 1, 0): 0.0}
    for row, reward in cases.items():
        assert one(combiner, *map(float, row), weights=weights) == reward


@given(ANY, ANY, ANY)
def test_what_is_inside_earns_nothing_behind_a_closed_gate(style, other, form):
    combiner = Gated("exact", ("style",))
    assert one(combiner, 0.0, style, form) == one(combiner, 0.0, other, form) == 2.0 * form


def test_hybrid():
    combiner, weights = Hybrid("tests"), {"tests": 1.0, "model": 1.0}
    assert one(combiner, 1.0, 0.75, weights=weights) == 1.75
    assert one(combiner, 0.0, 0.75, weights=weights) == 0.75
    assert one(combiner, 0.0, 0.75, stop="length", weights=weights) == 0.25
    assert one(combiner, 1.0, 0.75, stop="length", weights=weights) == 1.75


@given(st.floats(0, 1), st.floats(0, 1))
def test_for_equal_scores_right_is_above_wrong_above_cut_off(score, unfinished):
    combiner, weights = Hybrid("tests", unfinished=unfinished), {"tests": 1.0, "model": 1.0}
    right, wrong = one(combiner, 1.0, score, weights=weights), one(combiner, 0.0, score, weights=weights)
    assert right > wrong >= one(combiner, 0.0, score, stop="length", weights=weights)


def test_ensemble():
    weights = {"a": 1.0, "b": 2.0, "c": 1.0}
    assert one(Ensemble("mean"), 1.0, 1.0, 3.0, weights=weights) == 2.0
    assert one(Ensemble("min"), 1.0, 1.0, 3.0, weights=weights) == 1.0
    assert one(Ensemble("uncertainty", k=0.5), 1.0, 1.0, 3.0, weights=weights) == pytest.approx(
        2 - 0.5 * np.sqrt(2 / 3)
    )


@given(st.lists(ANY, min_size=2, max_size=6), st.floats(0, 3), st.randoms(use_true_random=False))
def test_ensembles_are_ordered_and_know_no_order(values, k, random):
    def by(kind, row):
        return one(Ensemble(kind, k), *row, weights={f"m{i}": 1.0 for i in range(len(row))})

    least, mean, careful = (by(kind, values) for kind in ("min", "mean", "uncertainty"))
    assert least <= mean + 1e-6 and careful <= mean + 1e-6
    mixed = random.sample(values, len(values))
    for kind in ("min", "mean", "uncertainty"):
        assert by(kind, mixed) == pytest.approx(by(kind, values), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(
    ("combiner", "weights", "message"),
    [
        (Hierarchical("exat"), WEIGHTS, "right: no source 'exat'; did you mean 'exact'?"),
        (Hierarchical("exact"), {"exact": 0.0, "b": 1.0}, "right: source 'exact' has weight 0 and only watches"),
        (Hierarchical("exact"), {"exact": 1.0, "b": 0.0}, "right: 'exact' is the only source that counts"),
        (Gated("exact", ("exact",)), WEIGHTS, "inside: 'exact' is the gate itself"),
        (Gated("exact", ("stile",)), WEIGHTS, "inside: no source 'stile'; did you mean 'style'?"),
        (Hybrid("exat"), WEIGHTS, "right: no source 'exat'"),
        (Ensemble(), {"a": 1.0, "b": 0.0}, "kind: ensemble of 1 source, expected two or more"),
        (Ensemble(), {"a": 1.0, "b": -1.0}, "kind: ensemble with 'b' of weight -1, expected above 0"),
        (Fusion("/nowhere.jsonl"), WEIGHTS, "path: no file /nowhere.jsonl"),
    ],
)
def test_what_contradicts_itself_is_refused(combiner, weights, message):
    with pytest.raises(ValueError) as refused:
        combiner.check(weights)
    assert message in str(refused.value)


def test_fusion(tmp_path):
    path = tmp_path / "known.jsonl"
    known = {"How much?\nit is four hundred apples in all": -1.0, "something else entirely": 5.0}
    path.write_text("".join(json.dumps({"text": t, "reward": r}) + "\n" for t, r in known.items()))
    combiner, weights = Fusion(str(path), similarity=0.7), {"model": 1.0}
    combiner.check(weights)
    answer = "it is four hundred apples in total"
    alike = float(vector(f"How much?\n{answer}") @ vector(next(iter(known))))
    assert 0.7 < alike < 1
    [reward] = combiner.combine(group(1, text=answer), rows((2.0,), weights=weights))
    assert reward == pytest.approx((2.0 - alike) / (1 + alike), rel=1e-6)
    assert combiner.combine(group(1, text="a b c"), rows((2.0,), weights=weights)) == [2.0]
    assert vector("") @ vector("x") == 0
    few = replace(combiner, neighbours=1, similarity=1e-9)
    [reward] = few.combine(group(1, text=answer), rows((2.0,), weights=weights))
    assert reward == pytest.approx((2.0 - alike) / (1 + alike), rel=1e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ('{"text": "a"}\n', 'line 1: found \'{"text": "a"}\''),
        ("nonsense\n", "line 1: found 'nonsense'"),
    ],
)
def test_a_file_of_known_texts_that_is_none_is_refused(tmp_path, text, message):
    (tmp_path / "bad.jsonl").write_text(text)
    with pytest.raises(ValueError, match="expected"):
        Fusion(str(tmp_path / "bad.jsonl")).check(WEIGHTS)
    with pytest.raises(ValueError) as refused:
        Fusion(str(tmp_path / "bad.jsonl")).check(WEIGHTS)
    assert message in str(refused.value)
