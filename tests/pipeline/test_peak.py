"""Stopping at the peak: on curves that rise and fall, on ones that stand still, and after a resume."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from pipeline.peak import PeakRule, whole


def follow(truth, window=5, patience=3, n=26, seed=0, cut=None):
    """(steps taken, step after which the kept policy was kept, its true gold score, the rule)"""
    return asyncio.run(_follow(truth, window, patience, n, seed, cut))


async def _follow(truth, window, patience, n, seed, cut):
    rng, kept = np.random.default_rng(seed), []

    async def keep():
        kept.append(step)

    rule = PeakRule(window, patience, keep, {})
    for step, level in enumerate(truth):
        drawn = rng.random(n) < level
        metrics = {"gold/n": float(n), "gold/mean": float(drawn.mean()), "gold/std": float(drawn.std())}
        await rule.take(step, metrics)
        if step == cut:
            rule = PeakRule(window, patience, keep, dict(rule.memory))
        if rule.over:
            break
    return step + 1, kept[-1], truth[kept[-1]], rule


def hill(steps=200, top=0.75):
    """Rises over 60 steps and falls over the rest, as gold does under a proxy."""
    x = np.arange(steps) / 60
    return np.clip(0.3 + (top - 0.3) * x * np.exp(1 - x) * (2 - x).clip(-1, 1), 0.0, 1.0)


def test_a_falling_gold_score_ends_the_stage_with_the_best_policy():
    for seed in range(30):
        steps, _, level, rule = follow(hill(), seed=seed)
        assert rule.over and steps < 200
        assert level >= 0.95 * hill().max() - 0.02
        assert rule.results()["kept_step"] < steps


def test_one_that_stands_still_goes_on():
    stopped = [follow(np.full(200, 0.5), seed=seed)[3].over for seed in range(200)]
    assert np.mean(stopped) < 0.03


def test_one_that_rises_goes_on_to_the_end():
    steps, kept, _, rule = follow(np.linspace(0.1, 0.9, 100))
    assert steps == 100 and not rule.over
    assert kept >= 89


def test_patience_counts_windows_in_a_row():
    truth = np.repeat([0.9, 0.1, 0.9, 0.1, 0.1, 0.1], 5)
    assert follow(truth, patience=1)[0] == 10
    assert follow(truth, patience=2)[0] == 25
    assert follow(truth, patience=4)[0] == 30


@pytest.mark.parametrize("cut", [2, 4, 13])
def test_a_resumed_stage_goes_on_as_if_nothing_had_been(cut):
    assert follow(hill(), seed=3, cut=cut)[:3] == follow(hill(), seed=3)[:3]


def test_steps_without_gold_scores_count_for_nothing():
    async def keep():
        raise AssertionError

    rule = PeakRule(1, 1, keep, {})
    asyncio.run(rule.take(0, {"gold/n": 0.0}))
    asyncio.run(rule.take(1, {"reward/mean": 1.0}))
    assert rule.results() == {} and not rule.over


def test_what_is_kept_is_never_half_a_model(tmp_path):
    directory = tmp_path / "rl"

    async def save(path, text="first"):
        path.mkdir()
        (path / "model").write_text(text)

    asyncio.run(whole(save, directory))

    async def broken(path):
        await save(path, "second")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        asyncio.run(whole(broken, directory))
    assert (directory / "model").read_text() == "first"
    asyncio.run(whole(lambda path: save(path, "third"), directory))
    assert (directory / "model").read_text() == "third"
    assert [p.name for p in tmp_path.iterdir()] == ["rl"]
