"""Lagrange multipliers: by hand, beside torch's own optimizer, and on a world whose peak is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rewards.compose.constrained import Constrained
from rewards.ports import StepOf
from rewards.types import Group, Rollout, Score, ScoredGroup, Task, Turn, Verdict

AT = StepOf(0, 10)


def scored(table, weights):
    none = np.zeros(0, np.int32)
    turn = Turn(none, none, np.zeros(0, np.float32), "", "stop", ((0, 0),))
    verdicts = [
        Verdict(0.0, {n: Score(v, weight=w) for v, (n, w) in zip(row, weights.items(), strict=True)}) for row in table
    ]
    return ScoredGroup(Group(0, Task("t", ()), tuple(Rollout(i, (turn,)) for i in range(len(table)))), tuple(verdicts))


def rewards(groups):
    return [v.reward for g in groups for v in g.verdicts]


def test_one_step_by_hand():
    combiner, memory = Constrained({"rm": 0.5}, "sigmoid"), {"l/rm": math.log(3)}  # m = 0.75
    group = scored([(1.0, 0.0), (0.0, 1.0)], {"rm": 1.0, "style": 2.0})
    out, metrics = combiner.over_steps([group], memory, AT)
    # z = +1 and -1; (1 - 0.75) is what is kept
    assert rewards(out) == pytest.approx([0.75 / 0.25, 2.0 - 0.75 / 0.25])
    assert metrics == {"reward/multiplier/rm": pytest.approx(0.75), "reward/constraint/rm": 0.0}
    assert memory["l/rm"] == math.log(3), "at its point nothing moves"
    assert [v.scores["rm"].value for v in out[0].verdicts] == [1.0, 0.0]


@pytest.mark.parametrize("kind", ["sigmoid", "tanh"])
def test_the_dual_step_is_torchs(kind):
    rng = np.random.default_rng()
    points = {"a": 0.3, "b": -0.2, "c": 5.0}
    combiner, memory = Constrained(points, kind), {}
    levels = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    theta = torch.tensor(list(points.values()), dtype=torch.float64)
    optimizer = torch.optim.SGD([levels], lr=0.1, momentum=0.1)
    for _ in range(30):
        means = rng.normal(size=3)
        combiner.step(memory, dict(zip(points, means, strict=True)))
        optimizer.zero_grad()
        squash = torch.sigmoid if kind == "sigmoid" else torch.tanh
        (squash(levels) * (torch.tensor(means) - theta)).sum().backward()
        torch.nn.utils.clip_grad_norm_([levels], 0.5)
        optimizer.step()
        np.testing.assert_allclose([memory[f"l/{n}"] for n in points], levels.detach().numpy(), rtol=1e-4, atol=1e-5)


def climb(combiner, steps=1500):
    """Gradient ascent on the mixed reward of two sources v_i = x_i, whose gold has its peak at the proxy points.

    The policy is a mean x; the step's rollouts lie around it. Returns where x was in each step.
    """
    rng, x, memory, path = np.random.default_rng(0), np.zeros(2), {}, []
    for step in range(steps):
        drawn = x + rng.normal(0, 0.3, (64, 2))
        if combiner is None:
            found = drawn.sum(axis=1)
        else:
            group = scored(drawn.tolist(), {"a": 1.0, "b": 1.0})
            out, _ = combiner.over_steps([group], memory, StepOf(step, steps))
            found = np.array(rewards(out))
        centred = (found - found.mean()) / (found.std() + 1e-6)
        x = x + 0.02 * (centred[:, None] * (drawn - x)).mean(axis=0) / 0.3
        path.append(x)
    return np.array(path)


def test_multipliers_hold_the_sources_at_their_points_and_a_plain_sum_runs_away():
    points = {"a": 0.5, "b": 1.0}
    held = climb(Constrained(points, "tanh", rate=0.1))[500:]
    np.testing.assert_allclose(held.mean(axis=0), list(points.values()), atol=0.15)  # they swing around them
    assert np.abs(held).max() < 3
    assert (climb(None)[-1] > 10).all()


def test_above_its_point_a_tanh_multiplier_turns_negative_and_a_sigmoid_one_only_small():
    for kind, low in (("tanh", -1.0), ("sigmoid", 0.0)):
        combiner, memory = Constrained({"a": 0.0}, kind), {}
        for _ in range(1000):
            combiner.step(memory, {"a": 1.0})
        [m] = [combiner.over_steps([scored([(1.0,)], {"a": 1.0})], memory, AT)[1]["reward/multiplier/a"]]
        assert low < m < 0.1 and (m < 0) == (kind == "tanh")


def test_a_proxy_point_names_a_source_that_counts():
    with pytest.raises(ValueError, match=r"points\.judgd: no source 'judgd'; did you mean 'judge'\?"):
        Constrained({"judgd": 0.5}).check({"judge": 1.0, "x": 1.0})
