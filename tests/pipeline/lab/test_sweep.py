"""Which runs a sweep has, in which order they may begin, and where it refuses to begin at all."""

from __future__ import annotations

import asyncio
import copy
import io
import json

import pytest
import yaml
from rich.console import Console
from tiny_run import TINY

from pipeline.cli import main
from pipeline.lab.ablation import load_plan
from pipeline.lab.sweep import _next, check_room, open_sweep, record
from pipeline.lab.sweep_progress import SweepProgress
from rewards.errors import Refused

GRID = {
    "base": "tiny.yaml",
    "axes": {"stages.rl.learner.lr": [1e-3, 1e-2], "stages.rl.steps": [2, 3]},
    "seeds": [0, 1],
    "measure": {"accuracy": "after/accuracy"},
}


@pytest.fixture
def plan_of(tmp_path):
    def load(base=TINY, **changed):
        (tmp_path / "tiny.yaml").write_text(base)
        (tmp_path / "grid.yaml").write_text(yaml.safe_dump({"ablation": {**copy.deepcopy(GRID), **changed}}))
        return load_plan(tmp_path / "grid.yaml")

    return load


def test_runs_are_the_control_first_for_each_seed(plan_of, tmp_path):
    sweep = open_sweep(plan_of(control={"steps": 3}), tmp_path / "sweep", None)
    assert [run.label for run in sweep.runs[:2]] == ["lr 0.001, steps 3, seed 0", "lr 0.001, steps 2, seed 0"]
    assert [run.seed for run in sweep.runs] == [0] * 4 + [1] * 4
    assert all(list(run.shared) == ["warm_start", "before"] for run in sweep.runs)
    assert not (tmp_path / "sweep").exists()


async def _held(sweep, run):
    sweep.held[asyncio.create_task(asyncio.sleep(60))] = run


def test_a_run_waits_for_a_stage_that_another_is_at_work_on(plan_of, tmp_path):
    sweep = open_sweep(plan_of(), tmp_path / "sweep", None)
    record(sweep)

    async def watch():
        waiting = list(sweep.runs)
        await _held(sweep, waiting.pop(0))
        assert _next(sweep, waiting) is sweep.runs[4]  # of the other seed
        for key in sweep.runs[0].shared.values():
            (sweep.shared.folder / key).mkdir()
        assert _next(sweep, waiting) is sweep.runs[1]
        for task in sweep.held:
            task.cancel()

    asyncio.run(watch())


def test_a_sweep_directory_of_another_config_is_refused(plan_of, tmp_path):
    folder = tmp_path / "sweep"
    record(open_sweep(plan_of(), folder, None))
    open_sweep(plan_of(), folder, None)
    open_sweep(plan_of(seeds=[0, 1, 2], measure={"loss": "warm_start/loss"}), folder, None)  # more may come
    with pytest.raises(Refused, match=r"belongs to another config \(seed differs\)"):
        open_sweep(plan_of(base=TINY.replace("seed: 3", "seed: 5")), folder, None)
    with pytest.raises(Refused, match=r"another config \(stages.rl.groups_per_step differs\)"):
        open_sweep(plan_of(overrides={"stages.rl.groups_per_step": 5}), folder, None)


def test_a_run_of_another_config_in_its_place_is_refused(plan_of, tmp_path):
    sweep = open_sweep(plan_of(), tmp_path / "sweep", None)
    record(sweep)
    run = sweep.runs[0]
    run.folder.mkdir(parents=True)
    dump = run.config.model_dump(mode="json")
    (run.folder / "config.yaml").write_text(yaml.safe_dump(dump))
    open_sweep(plan_of(), tmp_path / "sweep", None)
    (run.folder / "config.yaml").write_text(yaml.safe_dump({**dump, "seed": 9}))
    with pytest.raises(Refused, match="holds a run of another config"):
        open_sweep(plan_of(), tmp_path / "sweep", None)


def test_a_directory_with_something_else_in_it_is_refused(plan_of, tmp_path):
    folder = tmp_path / "sweep"
    folder.mkdir()
    open_sweep(plan_of(), folder, None)
    (folder / "thesis.tex").write_text("")
    with pytest.raises(Refused, match="holds something else"):
        open_sweep(plan_of(), folder, None)


def test_a_budget_that_one_run_does_not_fit_into_is_refused(plan_of):
    with pytest.raises(Refused, match=r"ablation.budget.cpus: 2, but the workers of one run ask for 3"):
        check_room(plan_of(budget={"cpus": 2}), 3.0)


def test_what_is_refused_is_one_line_and_nothing_is_written(plan_of, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan_of()
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump({"ablation": {**GRID, "seeds": [1, 1]}}))
    with pytest.raises(SystemExit) as left:
        main(["ablate", "grid.yaml"])
    out, err = capsys.readouterr()
    assert (left.value.code, out, len(err.splitlines())) == (2, "", 1)
    assert not (tmp_path / "runs").exists()


def test_what_is_left_follows_from_what_the_others_took():
    now = [0.0]
    text = io.StringIO()
    progress = SweepProgress(Console(file=text, width=200), lambda: now[0])
    with progress:
        progress.begin(6, 1, 2)
        progress.started("a")
        progress.started("b")
        assert progress.left() is None
        now[0] = 60.0
        progress.ended("a", None)
        assert progress.left() == (3 * 60 + 0) / 2  # three have not begun, and b should be there any moment
        progress.started("c")
        now[0] = 80.0
        assert progress.left() == (2 * 60 + 40) / 2
        progress.ended("b", "no\nmemory")
    said = text.getvalue()
    assert "6 runs, 1 of them done before; 2 at once" in said
    assert "[2/6]  a: done in 1:00  about 1:30 left" in said
    assert "[3/6]  b: FAILED after 1:20: no" in said


def test_the_record_is_read_back(plan_of, tmp_path):
    record(open_sweep(plan_of(), tmp_path / "sweep", None))
    found = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert (found["name"], found["seeds"], len(found["cells"])) == ("grid", [0, 1], 4)
    assert found["control"] == found["cells"][0]["folder"] == "lr=0.001,steps=2"
