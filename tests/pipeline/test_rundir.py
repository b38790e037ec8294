from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from tiny_run import TINY

from pipeline import rundir
from pipeline.config import load_config, parse_config
from rewards.errors import Refused
from rewards.types import Failure, Score, ScoredGroup, Verdict


@pytest.fixture(scope="module")
def config():
    return parse_config(yaml.safe_load(TINY), "tiny.yaml")


def test_a_created_directory_says_what_runs_and_where(tmp_path, config):
    run_dir = tmp_path / "deep" / "run"
    rundir.check_free(run_dir, 0)
    rundir.create(run_dir, config, "tiny")
    assert {path.name for path in run_dir.iterdir()} == {"config.yaml", "environment.json"}
    assert load_config(run_dir / "config.yaml") == config
    environment = json.loads((run_dir / "environment.json").read_text())
    assert environment["name"] == "tiny"
    assert environment["packages"].keys() >= {"ray", "torch", "transformers", "mlflow"}
    with pytest.raises(Refused, match="already holds a run"):
        rundir.check_free(run_dir, 0)
    rundir.check_holds_run(run_dir)


def test_checking_makes_nothing(tmp_path):
    rundir.check_free(tmp_path / "a" / "b", 1)
    (tmp_path / "empty").mkdir()
    rundir.check_free(tmp_path / "empty", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_what_cant_be_made_is_refused(config):
    with pytest.raises(Refused, match="run directory /proc/run can't be made: "):
        rundir.create(Path("/proc/run"), config, "tiny")


def test_more_than_the_disk_has_is_refused(tmp_path):
    with pytest.raises(Refused, match=r"free on its disk, this run needs about 1000\.0 TB"):
        rundir.check_free(tmp_path / "run", 10**15)


def test_the_default_directory_is_named_after_the_config(tmp_path):
    assert rundir.default_dir(tmp_path / "quick.yaml").as_posix().startswith("runs/quick-20")


@pytest.mark.parametrize(
    ("n", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (12_345, "12 kB"), (999_600, "1.0 MB"), (2.13e8, "213 MB")],
)
def test_bytes_for_people(n, words):
    assert rundir.size(n) == words


def test_the_best_and_the_worst_are_kept_to_be_read(make_group):
    group = make_group(["a", "b", None, "d", "e"])
    rewards = [0.5, 1.0, None, 0.0, 0.25]
    failure = Failure("rollout", "died", "the engine went away")
    verdicts = (
        Verdict(None, {}, failure=failure) if r is None else Verdict(r, {"s": Score(r, explanation=f"it is {r}")})
        for r in rewards
    )
    judged = [ScoredGroup(group, tuple(verdicts))]
    rows = rundir.sample_rows("rl", 3, judged, limit=3)
    assert [row["reward"] for row in rows] == [0.0, 0.5, None]
    assert [row["completion"] for row in rows] == ["d", "a", ""]
    assert rows[2]["failure"] == str(failure)
    assert rows[0]["scores"] == {"s": {"value": 0.0, "explanation": "it is 0.0", "failure": None}}
    assert (rows[0]["stage"], rows[0]["step"], rows[0]["index"], rows[0]["tokens"]) == ("rl", 3, 3, 1)
    assert len(rundir.sample_rows("rl", 3, judged, limit=9)) == 5
    assert rundir.sample_rows("rl", 3, judged, limit=0) == []
    assert rundir.sample_rows("rl", 3, [], limit=4) == []


def test_evaluations_of_the_same_tasks_have_samples_in_common(make_group):
    """Half of them are the same tasks', whatever the rewards are; the others are the best and the worst."""

    def rows(rewards):
        groups = [ScoredGroup(make_group(["x"], id=i), (Verdict(r, {}),)) for i, r in enumerate(rewards)]
        return rundir.evaluation_rows("after", groups, 8)

    a, b = rows([float(i) for i in range(40)]), rows([float(-i) for i in range(40)])
    first, second = ([row["task"] for row in found[:4]] for found in (a, b))
    assert first == second == ["task-0", "task-13", "task-26", "task-39"]
    places = [(row["task"], row["index"]) for row in a]
    assert len(places) == len(set(places)) <= 8
    assert {"task-0", "task-39"} <= {row["task"] for row in a}


def test_what_a_score_cost_and_is_made_of_is_there_to_be_read(make_group):
    group = make_group(["a"])
    score = Score(1.0, explanation="fine", parts={"style": 2.0}, cost=0.5, tokens=12)
    [row] = rundir.sample_rows("rl", 0, [ScoredGroup(group, (Verdict(1.0, {"s": score}),))], 4)
    told = {"value": 1.0, "explanation": "fine", "failure": None, "parts": {"style": 2.0}, "cost": 0.5, "tokens": 12}
    assert row["scores"] == {"s": told}
