"""A run's numbers as they are asked for: out of its summary, or out of the course of a metric."""

from __future__ import annotations

import json

import pytest
from metric_docs import documented

from pipeline.lab.measures import Measure, _names, course, value_of


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    stages = {"after": {"kind": "evaluate", "accuracy": 0.75}, "rl": {"kind": "rl", "reward": 0.5}}
    (folder / "summary.json").write_text(json.dumps({"status": "done", "stages": stages}))
    rows = [("sft", 0, 9.0), *(("rl", step, value) for step, value in enumerate([0.0, 1.0, 0.0, 2.0, None, 4.0]))]
    lines = [{"stage": stage, "step": step, "metrics": {"reward/mean": value}} for stage, step, value in rows]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ({"metric": "after/accuracy"}, 0.75),
        ({"metric": "rl/reward"}, 0.5),
        ({"metric": "rl/reward/mean"}, 4.0),
        ({"metric": "rl/reward/mean", "over": "first"}, 0.0),
        ({"metric": "rl/reward/mean", "over": "mean"}, 7 / 5),
        ({"metric": "rl/reward/mean", "over": "max", "window": 2}, 3.0),
        ({"metric": "rl/reward/mean", "over": "reaches", "level": 1.0}, 2.0),
        ({"metric": "rl/reward/mean", "over": "reaches", "level": 1.0, "window": 2}, 4.0),
        ({"metric": "rl/reward/mean", "over": "reaches", "level": 5.0}, None),
        ({"metric": "rl/reward/max"}, None),
        ({"metric": "later/accuracy"}, None),
    ],
)
def test_values(run_dir, given, value):
    found = value_of(run_dir, Measure.model_validate(given))
    assert found is None if value is None else found == pytest.approx(value)


def test_a_moving_mean_ends_with_its_step(run_dir):
    assert course(run_dir, Measure(metric="rl/reward/mean", window=3)) == ([2, 3, 5], pytest.approx([1 / 3, 1, 2]))


def test_no_run_no_value(tmp_path):
    assert value_of(tmp_path, Measure(metric="after/accuracy")) is None


def test_the_metrics_that_may_be_measured_are_those_that_are_explained():
    assert len(_names()) > 40
    assert all(documented(name) for name in _names())
