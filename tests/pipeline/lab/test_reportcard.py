"""Report cards: figures against scikit-free oracles, and warnings that fire as often as they say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pipeline.lab.clustered import share
from pipeline.lab.reportcard import LEVEL, Answers, card, partial, warnings


def answers(rng, tasks=300, per_task=2, knows=1.0, likes_length=0.0, failed=0.0):
    """Half of each task's answers are good; scores know the label, like length, or are noise."""
    n = tasks * per_task
    label = np.tile(np.arange(per_task) % 2, tasks).astype(float)
    length = rng.integers(20, 400, n).astype(float) + 60 * label  # good answers are longer: no bias of the source
    score = knows * label + likes_length * length / 100 + rng.normal(size=n)
    score[rng.random(n) < failed] = np.nan
    marks = rng.poisson(1.0, n).astype(float)
    return Answers(np.repeat(np.arange(tasks), per_task), ["all"] * tasks, label, length, marks, score)


def test_accuracy_is_what_was_counted():
    rng = np.random.default_rng(1)
    made = answers(rng)
    found = card(made)["pairs"]
    assert found["value"] == np.mean(made.score[1::2] > made.score[::2])
    assert found["n"] == 300


def test_easy_pairs_are_those_whose_better_answer_is_the_more_embellished_one():
    """Three good and three bad answers a task, plain to embellished; the source counts embellishment alone."""
    style, label = np.tile([0, 1, 2, 0, 1, 2], 50), np.tile([1.0, 1, 1, 0, 0, 0], 50)
    none = np.ones(300)
    task = np.repeat(np.arange(50), 6)
    found = card(Answers(task, ["chat"] * 50, label, none, none, style.astype(float), style))["styles"]
    assert {name: (one["value"], one["n"]) for name, one in found.items()} == {
        "easy": (1.0, 150), "normal": (0.0, 150), "hard": (0.0, 150)
    }  # fmt: skip
    assert card(answers(np.random.default_rng(0)))["styles"] is None


def test_partial_correlation_is_that_of_the_residuals():
    made = answers(np.random.default_rng(3), per_task=4, likes_length=0.3)

    def residual(x):
        tasks = np.eye(300)[made.task]
        design = np.column_stack([tasks, made.label, made.marks])
        return x - design @ np.linalg.lstsq(design, x, rcond=None)[0]

    found = partial(made, made.length, made.marks)
    assert found is not None
    assert found["r"] == pytest.approx(np.corrcoef(residual(made.score), residual(made.length))[0, 1])


def test_who_likes_length_alone_is_not_said_to_like_what_long_answers_have():
    """Long answers are the more formatted ones; a source that counts letters is length-biased and nothing else."""
    rng = np.random.default_rng(5)
    made = answers(rng, per_task=4)
    marks = np.round(made.length / 40 + rng.normal(size=len(made.length)))
    counts = Answers(made.task, made.subset, made.label, made.length, marks, made.length.copy())
    assert {w.what for w in warnings(card(counts))} == {"length_bias"}
    fancy = Answers(made.task, made.subset, made.label, made.length, marks, marks + 5 * rng.normal(size=len(marks)))
    assert {w.what for w in warnings(card(fancy))} == {"format_bias"}


def test_a_source_that_likes_length_is_warned_of_and_a_random_one_is_no_better_than_chance():
    rng = np.random.default_rng(4)
    biased = {warning.what for warning in warnings(card(answers(rng, likes_length=0.8)))}
    assert biased == {"length_bias"}
    random = {warning.what for warning in warnings(card(answers(rng, knows=0.0)))}
    assert random == {"chance"}
    failing = {warning.what for warning in warnings(card(answers(rng, failed=0.2)))}
    assert failing == {"failures"}


@pytest.mark.parametrize("per_task", [2, 4])
def test_warnings_fire_on_unbiased_sources_no_more_often_than_they_say(per_task):
    """200 sources that know something and prefer nothing."""
    fired = {"length_bias": 0, "format_bias": 0, "chance": 0, "failures": 0}
    for seed in range(200):
        made = answers(np.random.default_rng([seed, per_task]), tasks=120, per_task=per_task, knows=1.0, failed=0.03)
        for warning in warnings(card(made)):
            fired[warning.what] += 1
            assert warning.false_positive_rate <= 0.35
    for name, count in fired.items():
        assert stats.binom.sf(count - 1, 200, LEVEL) > 1e-3, f"{name} fired on {count} of 200"


def test_empty_answers_are_warned_of_no_more_often_than_said():
    """200 sources, each fooled by each of seven keys on 5% of 200 tasks; and one that a single key opens."""
    rng, tasks, fired = np.random.default_rng(6), np.arange(200), 0
    nothing: dict = dict.fromkeys(("pairs", "length_bias", "format_bias", "failed"))
    for _ in range(200):
        keys = {str(k): share(rng.random(200) < 0.05, tasks) for k in range(7)}
        fired += len(warnings(nothing | {"keys": keys}))
    assert stats.binom.sf(fired - 1, 200, LEVEL) > 1e-3, f"fired on {fired} of 200"
    opened = {"a": share(tasks < 150, tasks), "b": share(tasks < 5, tasks), "c": share(tasks < 60, tasks), "d": None}
    [warned] = warnings(nothing | {"keys": opened})
    assert warned.text == "takes empty answers for right: 'a' on 75%, 'c' on 30% of 200 tasks"


def test_many_pairs_of_one_task_are_no_proof():
    """Nine pairs of six answers that are scored at random; taken for 540 draws, one such source in eight would pass."""
    warned = 0
    for seed in range(200):
        made = answers(np.random.default_rng([seed, 9]), tasks=60, per_task=6, knows=0.0)
        warned += "chance" in {warning.what for warning in warnings(card(made))}
    assert warned >= 195


def test_calibration_of_probabilities_by_hand():
    label = np.array([1.0, 0.0, 1.0, 1.0])
    score = np.array([0.95, 0.95, 0.15, 0.15])
    found = card(Answers(np.arange(4), ["a"] * 4, label, label, label, score), (0.0, 1.0))["calibration"]
    assert found["ece"] == pytest.approx((2 * abs(0.95 - 0.5) + 2 * abs(0.15 - 1.0)) / 4)
    assert [b["n"] for b in found["bins"]] == [2, 2]


def test_ties_count_as_wrong():
    made = Answers(np.zeros(2, int), ["a"], np.array([1.0, 0.0]), np.ones(2), np.ones(2), np.ones(2))
    found = card(made)
    assert found["pairs"]["value"] == 0 and found["ties"]["value"] == 1
