"""Clip and Delta by hand, and what they promise whatever the steps are."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
from faulty import Constant, Scripted
from hypothesis import given
from hypothesis import strategies as st

from rewards.panel import Panel, Seat
from rewards.shaping.clip import Clip, clip
from rewards.shaping.delta import Delta, delta

TOOLS: Any = None
STEPS = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=30).map(lambda values: np.array(values, np.float32))


def shaped(group, *shapers, weight=1.0):
    seats = Seat("process", Scripted(), weight), Seat("outcome", Constant(1.0))
    named = {type(shaper).__name__.lower(): shaper for shaper in shapers}
    [verdict] = asyncio.run(Panel(seats, shapers=named).judge(group, TOOLS)).verdicts
    return verdict


def test_by_hand(make_group):
    group = make_group(["steps:0.5:0.75:0.25:1"])
    raw, clipped, deltas, both = (
        shaped(group, *shapers) for shapers in ((), (Clip(0.5),), (Delta(),), (Clip(0.5), Delta()))
    )
    assert raw.steps.tolist() == [0.5, 0.75, 0.25, 1.0]
    assert (raw.reward, raw.unshaped, raw.total, raw.shaped) == (1.0, 1.0, 3.5, {})
    assert clipped.steps.tolist() == [0.0, 0.0, -0.25, 0.0]
    assert clipped.shaped == {"clip": -2.75} and clipped.total == 0.75
    assert deltas.steps.tolist() == [-0.25, 0.5, 0.25, 0.0]
    assert deltas.shaped == {"delta": -2.0}
    assert both.steps.tolist() == [0.0, 0.25, -0.25, 0.0]
    assert both.shaped == {"clip": -2.75, "delta": 0.25}
    assert [v.reward for v in (clipped, deltas, both)] == [1.0] * 3
    assert both.unshaped == 1.0


def test_the_weight_comes_on_top_of_clip(make_group):
    verdict = shaped(make_group(["steps:0.5:0.25"]), Clip(0.5), weight=0.5)
    assert verdict.steps.tolist() == [0.0, -0.125]


def test_one_step(make_group):
    assert shaped(make_group(["steps:0.25"]), Delta()).steps.tolist() == [0.0]
    assert shaped(make_group(["steps:0.25"]), Clip(0.5)).steps.tolist() == [-0.25]


@given(STEPS)
def test_delta_telescopes(steps):
    """What is to come from step k on is r_k; so the return is bounded, however many steps there are."""
    to_come = np.cumsum(delta(steps)[::-1])[::-1]
    np.testing.assert_allclose(to_come, np.append(steps[:-1], 0.0), atol=1e-6)
    assert np.abs(to_come).max() <= 1 + 1e-6


@given(STEPS, st.integers(1, 20))
def test_more_of_the_same_step_earns_nothing_under_delta(steps, more):
    longer = np.concatenate([steps[:1]] * more + [steps])
    np.testing.assert_allclose(delta(longer).sum(), delta(np.concatenate([steps[:1], steps])).sum(), atol=1e-6)


@given(STEPS, st.floats(0, 1), st.floats(0.01, 5))
def test_clip_pays_nothing_and_more_steps_never_pay(steps, eta, weight):
    clipped = clip(steps * np.float32(weight), eta, weight)
    assert (clipped <= 0).all() and (clipped >= -weight * eta - 1e-6).all()
    np.testing.assert_allclose(clipped, weight * np.minimum(steps.astype(np.float64) - eta, 0), atol=1e-6)
    assert clipped.sum() <= clipped[:-1].sum() + 1e-12


@given(STEPS, st.floats(0, 1))
def test_clip_delta_telescopes_to_the_clipped_step(steps, eta):
    clipped = clip(steps, eta)
    np.testing.assert_allclose(np.cumsum(delta(clipped)[::-1])[::-1][:-1], clipped[:-1], atol=1e-6)
