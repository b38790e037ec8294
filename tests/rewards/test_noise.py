"""Noise: realised as asked for, drawn the same however a run is cut, and never without the clean score beside it."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from faulty import Constant, Scripted
from scipy.stats import binomtest, kstest

from rewards.errors import Refused, RunFailed
from rewards.noise import Delay, Dropout, Flip, Gaussian, Noise, Place, Quantise, Random
from rewards.panel import Panel, Seat
from rewards.sources.exact import Exact
from rewards.types import Group, Score, ScoredGroup

TOOLS: Any = None
SURE = 1 - 1e-9  # of the intervals: the tests draw 3,000 numbers from fixed seeds


def scores(values: Sequence[float]) -> list[Score]:
    return [Score(float(value)) for value in values]


def place(group: Group, seed: int = 5, source: str = "s", bounds=(0.0, 1.0), timeout_s: float = 60.0) -> Place:
    return Place(seed, source, bounds, timeout_s, group)


def applied(noise: Noise, groups: Sequence[Group], values: Sequence[Sequence[float]], **where) -> list[list[Score]]:
    return [noise.apply(place(g, **where), scores(v)) for g, v in zip(groups, values, strict=True)]


@pytest.fixture
def visits(make_group):
    """500 visits to 100 tasks, 6 rollouts each, and their 0 and 1."""
    rng = np.random.default_rng(1)
    made = [replace(make_group(["x"] * 6, id=i % 100), id=i) for i in range(500)]
    return made, rng.integers(0, 2, (500, 6)).astype(float)


def within(changed: np.ndarray, rate: float) -> bool:
    interval = binomtest(int(changed.sum()), changed.size).proportion_ci(SURE)
    return interval.low <= rate <= interval.high


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.4, 1.0])
@pytest.mark.parametrize("scope", ["sample", "prompt", "task"])
def test_flips_come_at_the_rate_asked_for(visits, rate, scope):
    groups, clean = visits
    noisy = np.array([[s.value for s in row] for row in applied(Flip(rate=rate, scope=scope), groups, clean)])
    changed = noisy != clean
    assert np.array_equal(noisy[changed], 1 - clean[changed])
    if scope == "sample":
        assert within(changed, rate)
        return
    assert (changed == changed[:, :1]).all(), "the group is flipped as a whole"
    visited = changed[:, 0].reshape(5, 100)
    if scope == "prompt":
        assert within(visited, rate)
        assert rate in (0.0, 1.0) or not (visited == visited[0]).all(), "every visit has a draw of its own"
    else:
        assert (visited == visited[0]).all(), "every visit has the same draw"
        assert within(visited[0], rate)


def test_a_verifiers_two_errors_are_apart(visits):
    groups, clean = visits
    noise = Flip(false_positive=0.3, false_negative=0.05)
    noisy = np.array([[s.value for s in row] for row in applied(noise, groups, clean)])
    changed = noisy != clean
    assert within(changed[clean == 0], 0.3)
    assert within(changed[clean == 1], 0.05)
    only = applied(Flip(false_negative=1.0), groups, clean)
    assert {s.value for row in only for s in row} == {0.0}, "no rate given: none"


def test_a_flip_mirrors_within_the_bounds(make_group):
    flip = Flip(rate=1.0, low=-2.0, high=4.0)
    found = flip.apply(place(make_group(["a"] * 3), bounds=None), scores([-2, 1, 3.5]))
    assert [s.value for s in found] == [4, 1, -1.5]
    assert [s.clean for s in found] == [-2, 1, 3.5]


def test_a_draw_depends_on_run_source_task_visit_and_place_alone(make_group, visits):
    groups, _ = visits
    noise = Gaussian(std=1.0)

    def drawn(group: Group, n: int = 6, **where) -> list[float]:
        cut = replace(group, rollouts=group.rollouts[:n])
        return [float(s.value or 0) for s in noise.apply(place(cut, **where), scores([0.0] * n))]

    whole = [drawn(group) for group in groups[:20]]
    assert [drawn(group) for group in groups[:20]] == whole, "again, in any order"
    assert [drawn(group, 3) for group in groups[:20]] == [row[:3] for row in whole], "however large its group is"
    others = [
        drawn(groups[0], seed=6),
        drawn(groups[0], source="t"),
        drawn(replace(groups[0], id=1000)),
        drawn(replace(groups[0], task=replace(groups[0].task, id="other"))),
    ]
    assert all(not set(row) & set(whole[0]) for row in others)


def test_gaussian_errors_have_the_size_asked_for(visits):
    groups, clean = visits
    noisy = np.array([[s.value for s in row] for row in applied(Gaussian(std=0.3), groups, clean)])
    assert kstest((noisy - clean).ravel() / 0.3, "norm").pvalue > 1e-6


def test_quantise_rounds_to_the_grid(make_group):
    found = Quantise(step=0.5).apply(place(make_group(["a"] * 4)), scores([0.24, 0.26, -0.8, 1.0]))
    assert [s.value for s in found] == [0, 0.5, -1, 1]


def test_the_control_knows_nothing_of_the_answer(visits):
    groups, clean = visits
    noisy = np.array([[s.value for s in row] for row in applied(Random(share=0.2), groups, clean)])
    assert within(noisy[clean == 1], 0.2)
    assert within(noisy[clean == 0], 0.2)


def test_what_drops_out_is_missing_not_zero(visits):
    groups, clean = visits
    found = [s for row in applied(Dropout(rate=0.25), groups, clean) for s in row]
    gone = np.array([s.value is None for s in found])
    assert within(gone, 0.25)
    assert {str(s.failure) for s in found if s.value is None} == {"source:s dropped: by rewards.noise"}
    assert np.array_equal([s.clean for s in found], clean.ravel())


def test_a_late_score_counts_its_wait_and_never_comes_beyond_the_limit(visits):
    groups, clean = visits
    found = [s for row in applied(Delay(seconds=2.0), groups, clean, timeout_s=4.0) for s in row]
    late = np.array([s.value is None for s in found])
    assert within(late, np.exp(-2))
    waits = np.array([s.latency for s in found])
    assert waits[~late].max() < 4.0 == waits[late].min()
    assert {s.failure.kind for s in found if s.failure} == {"timeout"}


def test_a_missing_score_stays_missing(make_group):
    from rewards.failures import abstained

    missing = abstained("no idea")
    for noise in (Flip(rate=1.0), Random(), Gaussian(), Quantise(), Dropout(rate=1.0), Delay()):
        first, second = noise.apply(place(make_group(["a", "b"])), [missing, Score(1.0)])
        assert first is missing
        assert second.clean == 1.0


def judge(panel: Panel, group: Group) -> ScoredGroup:
    return asyncio.run(panel.judge(group, TOOLS))


def test_the_panel_keeps_the_clean_reward_beside_the_noisy_one(make_group):
    group = make_group(["1", "0", "abstain", None])
    seats = (Seat("a", Scripted(), 2.0), Seat("b", Constant(3.0)), Seat("watches", Constant(1.0), 0.0))
    noise = Flip(rate=1.0, low=0.0, high=1.0, sources=("a",))
    clean, noisy = judge(Panel(seats), group).verdicts, judge(Panel(seats, noise, 1), group).verdicts
    assert [v.clean for v in clean] == [None] * 4
    assert [v.clean for v in noisy] == [v.reward for v in clean] == [5, 3, None, None]
    assert [v.reward for v in noisy] == [3, 5, None, None]
    assert [v.failure for v in noisy] == [v.failure for v in clean]
    assert [v.scores["b"].clean for v in noisy] == [None] * 4
    assert pickle.loads(pickle.dumps(noisy)) == noisy


def test_all_sources_that_reward_are_disturbed_where_none_is_named(make_group):
    seats = Seat("a", Scripted()), Seat("watches", Constant(1.0), 0.0)
    verdict = judge(Panel(seats, Flip(rate=1.0, low=0, high=1)), make_group(["1"])).verdicts[0]
    assert {name: score.value for name, score in verdict.scores.items()} == {"a": 0, "watches": 1}


def test_a_dropped_score_takes_its_policy_along(make_group):
    seat = Seat("a", Scripted(), on_failure="drop_group")
    verdicts = judge(Panel((seat,), Dropout(rate=0.5), 3), make_group(["1"] * 8)).verdicts
    assert {v.reward for v in verdicts} == {None}
    assert {v.clean for v in verdicts} == {1.0}


def test_a_value_outside_of_the_bounds_ends_the_run(make_group):
    with pytest.raises(RunFailed, match=r"source 'a' gave 7, and a flip needs values within \[0, 1\]"):
        judge(Panel((Seat("a", Scripted()),), Flip(rate=0.5, low=0, high=1)), make_group(["7"]))


def test_a_flip_needs_bounds():
    Flip(rate=0.5).check("exact", Exact.bounds)
    Flip(rate=0.5, low=0, high=9).check("mine", None)
    Gaussian().check("mine", None)
    with pytest.raises(Refused, match=r"source 'mine' names none; give `low` and `high`, or kind: gaussian"):
        Flip(rate=0.5).check("mine", None)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "neither of `rate`"),
        ({"rate": 0.1, "false_positive": 0.1}, "both of `rate`"),
        ({"rate": 0.1, "low": 0.0}, "go together"),
        ({"rate": 0.1, "low": 1.0, "high": 0.0}, "low: 1 is not below high: 0"),
    ],
)
def test_keys_that_contradict_each_other(given, said):
    with pytest.raises(ValueError, match=said):
        Flip(**given)
