"""Bad input gets one line, exit status 2, no traceback; nothing is started and nothing is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from tiny_run import ASSAY, TINY, write_config

from pipeline.cli import main

PLUGS = '''
from dataclasses import dataclass

from rewards.ports import Case


def verl(data_source, solution_str, ground_truth, extra_info):
    return float(solution_str == "gold")


def neither(text):
    return 1.0


@dataclass(frozen=True)
class Backwards:
    """A source that likes its foil better.

    much    by how much
    """

    much: float = 1.0

    async def score(self, group, tools):
        from rewards.types import Score

        return [Score(self.much if "foil" in rollout.text else 0.0) for rollout in group.rollouts]

    def case(self, task):
        return Case(task, "gold", "foil")
'''
ROWS = '{"q": "1+1=", "a": "2"}\n{"q": "1+2=", "b": "3"}\n'
FILES = ["data={kind: files, path: rows.jsonl, held_out: 1, columns: {prompt: q, reference: a, demonstration: q}}"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A directory with a config that can run, a user's module and a table with a bad row."""
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path)
    (tmp_path / "plugs.py").write_text(PLUGS)
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "rows.jsonl").write_text(ROWS)
    (tmp_path / "empty.jsonl").write_text("")
    yield tmp_path
    sys.modules.pop("plugs", None)
    sys.path[:] = [entry for entry in sys.path if entry != str(tmp_path)]


def tree(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if "__pycache__" not in p.parts)


def ray_processes() -> set[int]:
    """Ray's, of this process; other people may use this machine too."""
    return {p.pid for p in psutil.Process().children(recursive=True) if p.name() in ("raylet", "gcs_server")}


def refused(capsys, *args: str) -> str:
    """The one line that `assay ARGS` says, once it is certain that it did nothing."""
    before, rays = tree(Path.cwd()), ray_processes()
    with pytest.raises(SystemExit) as left:
        main(args)
    out, err = capsys.readouterr()
    assert left.value.code == 2, err
    assert err.startswith("assay: ")
    assert err.count("\n") == 1 and err.endswith("\n")
    assert "Traceback" not in err
    assert out == ""
    assert tree(Path.cwd()) == before
    assert ray_processes() <= rays
    return err.removeprefix("assay: ").rstrip()


# What the user changes in a config that can run, and what the line has to say.
OVERRIDES = [
    ("learner.lrr=1", ["tiny.yaml: learner: unknown key 'lrr'", "did you mean 'lr'?"]),
    ("stagse=1", ["unknown key 'stagse'", "did you mean 'stages'?"]),
    ("stages.rl.algorithm.groupsize=4", ["stages.rl.algorithm: unknown key", "did you mean 'group_size'?"]),
    ("data.hold_out=4", ["data: unknown key 'hold_out'", "did you mean 'held_out'?"]),
    ("rewards.sources.exact.wieght=1", ["rewards.sources.exact: unknown key", "did you mean 'weight'?"]),
    ("model.init.config.hiden_size=4", ["model.init.config.hiden_size", "qwen3", "did you mean 'hidden_size'?"]),
    ("stages.rl.steps=many", ["stages.rl.steps: expected a whole number, found 'many'"]),
    ("stages.rl.steps=2.5", ["stages.rl.steps: expected a whole number, found 2.5"]),
    ("stages.rl.steps=0", ["stages.rl.steps: expected a number above 0, found 0"]),
    ("stages.rl.steps=true", ["stages.rl.steps: expected a number, found true"]),
    ("stages.rl.steps=", ["stages.rl.steps: expected a whole number, found nothing"]),
    ("seed=-1", ["seed: expected a number of at least 0, found -1"]),
    ("rollout.top_p=2", ["rollout.top_p: expected a number of at most 1, found 2"]),
    ("rewards.sources.exact.kind=plugs:verl", ["rewards.sources.exact: unknown key 'after'", "expected one of: kind"]),
    ("learner.lr=.inf", ["learner.lr: expected a finite number"]),
    ("tracking.mlflow=perhaps", ["tracking.mlflow: expected true or false, found 'perhaps'"]),
    ("rollout.stop=x", ["rollout.stop: expected a list, found 'x'"]),
    ("learner=3", ["learner: expected a section of keys, found 3"]),
    ("stages={}", ["stages: expected 1 or more entries, found an empty section"]),
    ("stages=[]", ["stages: expected a section of keys, found an empty list"]),
    ("stages.rl=", ["stages.rl: expected a section of keys, found nothing"]),
    ("learner.schedule=cosin", ["learner.schedule: found 'cosin'", "did you mean 'cosine'?"]),
    ("rewards.sources.exact.on_failure=ignore", ["on_failure: found 'ignore'", "expected one of: abort, drop_group"]),
    ("stages.rl.kind=rll", ["stages.rl: unknown kind 'rll'", "did you mean 'rl'?"]),
    ("stages.rl.algorithm.kind=grpoo", ["stages.rl.algorithm: unknown kind 'grpoo'", "did you mean 'grpo'?"]),
    ("data.kind=arithmetics", ["data: unknown kind 'arithmetics'", "did you mean 'arithmetic'?"]),
    ("rewards.sources.exact.kind=exakt", ["rewards.sources.exact: unknown kind", "did you mean 'exact'?"]),
    ("rewards.sources.new={weight: 1}", ["rewards.sources.new: this section needs the key `kind`"]),
    ("stages.rl={kind: rl, algorithm: {kind: grpo}, steps: 1}", ["stages.rl.groups_per_step: this key is needed"]),
    ("stages.rl={kind: rl}", ["stages.rl: these keys are needed: steps, groups_per_step, algorithm"]),
    ("data=", ["stages.warm_start.data: this key is needed (here, or at the top of the config"]),
    ("stages.rl.start=warmstart", ["stages.rl.start", "'warmstart'", "did you mean 'warm_start'?"]),
    ("stages.warm_start.start=rl", ["stages.warm_start.start: no earlier stage 'rl'", "no stage before it does"]),
    ("stages.after.start=before", ["stages.after.start: no earlier stage 'before' makes a policy"]),
    ("stages.a/b={kind: evaluate}", ["override 'stages.a/b={kind: evaluate}': expected key.path=value"]),
    ("stages={a/b: {kind: evaluate}}", ["stages: name 'a/b', expected letters, digits, _ and - only"]),
    ("rewards.sources.exact.weight=0", ["rewards: every source has weight 0"]),
    ("stages.rl.rollout.temperature=0", ["stages.rl.rollout.temperature: 0 draws nothing to learn from"]),
    ("model.path=here", ["model: both of `path` and `init` given, expected one"]),
    ("model={path: nowhere}", ["model 'nowhere': no such directory"]),
    ("model={}", ["model: neither of `path` and `init` given"]),
    ("model.init.tokenizer.kind=words", ["model.init.tokenizer: unknown kind 'words'", "bpe, chars"]),
    ("model.init.config.num_attention_heads=three", ["model.init.config", "num_attention_heads"]),
    ("data={kind: files, path: empty.jsonl, columns: {prompt: q}}", ["empty.jsonl: no rows, expected at least one"]),
    ("data={kind: files, path: row.jsonl, columns: {prompt: q}}", ["row.jsonl: no such file", "'rows.jsonl'"]),
    ("data={kind: files, path: rows.jsonl, columns: {}}", ["data.columns: neither of prompt and messages"]),
    ("data={kind: files, path: rows.jsonl, columns: {prompt: q}}", ["stages.warm_start.data", "no demonstration"]),
    (FILES[0], ["rows.jsonl:2: no column 'a' (data.columns.reference)"]),
    ("data.train=100", ["data.train + data.held_out: 120 tasks, expected at most 90"]),
    (
        "rewards.sources.exact={kind: 'plug:verl'}",
        ["import path 'plug:verl'", "no module 'plug'", "did you mean 'plugs'?"],
    ),
    ("rewards.sources.exact={kind: 'plugs:vrl'}", ["'plugs' has no 'vrl'", "did you mean 'verl'?"]),
    ("rewards.sources.exact={kind: 'broken:score'}", ["importing 'broken' failed: ZeroDivisionError"]),
    ("rewards.sources.exact={kind: 'plugs:neither'}", ["takes (text)", "expected TRL's", "verl's"]),
    (
        "rewards.sources.exact={kind: 'plugs:Backwards'}",
        ["reward source 'exact' fails its self-check", "'gold' above the foil 'foil', got 0 and 1"],
    ),
    (
        "rewards.sources.exact={kind: 'plugs:verl', params: {gold: silver, foil: gold}}",
        ["reward source 'exact' fails its self-check on task", "'silver'", "got 0 and 1"],
    ),
    ("rewards.sources.exact={kind: 'plugs:verl', params: {god: gold}}", ["exact.params", "'god'", "'gold'"]),
    ("learner.lr", ["override 'learner.lr': expected key.path=value"]),
    ("learner..lr=1", ["override 'learner..lr=1': expected key.path=value"]),
    ("learner.lr=[1", ["override 'learner.lr=[1': the value is not YAML"]),
    ("seed.x=1", ["override 'seed.x=1': seed is 3, not a section of keys"]),
]


@pytest.mark.parametrize(("assignment", "parts"), OVERRIDES, ids=[name for name, _ in OVERRIDES])
def test_a_config_that_cant_run(capsys, assignment, parts):
    line = refused(capsys, "run", "tiny.yaml", assignment)
    assert not [part for part in parts if part not in line], line
    assert len(line) < 400
    assert "more)" not in line, "each of these is one mistake"


FILES_OF_YAML = [
    ("seed: 1\nseed: 2\n", ["bad.yaml:2: not YAML", "'seed' stands in line 1 already"]),
    ("model: {path: x\nseed: 1\n", ["bad.yaml:2: not YAML"]),
    ("seed: 1\n\tmodel: 2\n", ["bad.yaml:2: not YAML: found a tab, expected spaces"]),
    ("- 1\n- 2\n", ["bad.yaml: expected a mapping of keys, found a list of 2"]),
    ("", ["bad.yaml: expected a mapping of keys, found nothing"]),
    ("{[1]: 2}\n", ["bad.yaml:1: not YAML: expected a name as key"]),
    ("seed: !!python/object:os.system {}\n", ["bad.yaml:1: not YAML", "python/object"]),
]


@pytest.mark.parametrize(("text", "parts"), FILES_OF_YAML)
@pytest.mark.parametrize("command", ["run", "check"])
def test_a_file_that_is_no_config(capsys, here, command, text, parts):
    (here / "bad.yaml").write_text(text)
    line = refused(capsys, command, "bad.yaml")
    assert not [part for part in parts if part not in line], line


def test_a_config_that_isnt_there(capsys, here):
    assert "config tinny.yaml does not exist; did you mean 'tiny.yaml'?" in refused(capsys, "run", "tinny.yaml")
    assert "there is no YAML file in no/such" in refused(capsys, "check", "no/such/tiny.yaml")
    assert f"config {here} is a directory" in refused(capsys, "check", str(here))
    (here / "latin.yaml").write_bytes(b"seed: 1 # \xe9\n")
    assert "config latin.yaml can't be read" in refused(capsys, "check", "latin.yaml")


def test_a_run_directory_that_is_taken(capsys, here):
    (here / "file").write_text("")
    (here / "full").mkdir()
    (here / "full" / "notes.txt").write_text("")
    (here / "held").mkdir()
    (here / "held" / "config.yaml").write_text(TINY)
    expected = {
        "file": "run directory file: " + str(here / "file") + " is a file, expected a directory",
        "file/below": "run directory file/below: " + str(here / "file") + " is a file",
        "full": "run directory full is not empty; name a new one",
        "held": "run directory held already holds a run; `assay resume held` continues it",
        "/proc/run": "run directory /proc/run: 0 B free on its disk",
    }
    for run_dir, line in expected.items():
        assert line in refused(capsys, "run", "tiny.yaml", "--run-dir", run_dir)


def test_a_disk_that_is_too_small(capsys, here):
    small = here / "small"
    small.mkdir()
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=8M", "tmpfs", small], capture_output=True, check=False
        ).returncode
    )
    if not mounted:
        pytest.skip("mounting a small disk needs root")
    try:
        line = refused(capsys, "run", "tiny.yaml", "--run-dir", "small/run")
        assert "run directory small/run: 8.4 MB free on its disk, this run needs about 201 MB" in line
        assert "checkpoints.keep" in line
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_model_without_weights_or_tokenizer(capsys, here):
    model = here / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    assert "model 'model': can't be loaded" in refused(capsys, "run", "tiny.yaml", "model={path: model}")
    assert "did you mean 'model'?" in refused(capsys, "check", "tiny.yaml", "model={path: modle}")


def test_a_command_line_that_makes_no_sense(capsys):
    assert "No such command 'rum'" in refused(capsys, "rum")
    assert "No such option: --run-dri" in refused(capsys, "run", "tiny.yaml", "--run-dri", "x")
    assert "Missing argument 'CONFIG'" in refused(capsys, "check")


def test_resuming_or_reporting_what_isnt_there(capsys, here):
    (here / "empty").mkdir()
    (here / "runs" / "one").mkdir(parents=True)
    (here / "runs" / "one" / "config.yaml").write_text(TINY)
    for command in ("resume", "report"):
        assert "empty holds no run (no config.yaml in it)" in refused(capsys, command, "empty")
        assert "runs/onne does not exist; did you mean 'one'?" in refused(capsys, command, "runs/onne")
        assert f"nowhere does not exist; no run lies in {here}" in refused(capsys, command, "nowhere")


def test_resuming_what_is_done(capsys, here):
    (here / "config.yaml").write_text(TINY)
    (here / "summary.json").write_text('{"status": "done"}')
    assert f"{here} is done; its report is {here}/report.html" in refused(capsys, "resume", str(here))


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (["run", "tiny.yaml", "learner.lrr=1"], "did you mean 'lr'?"),
        (["run", "tiny.yaml", "model={path: nowhere}"], "model 'nowhere': no such directory"),
        (["resume", "nowhere"], "nowhere does not exist"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_the_console_script_says_the_same(here, args, part):
    before = tree(here)
    child = subprocess.Popen([ASSAY, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out, err = child.communicate(timeout=120)
    assert child.returncode == 2
    assert err.startswith("assay: ")
    assert err.count("\n") == 1
    assert part in err
    assert out == ""
    assert tree(here) == before
    assert not list(Path("/tmp/ray").glob(f"session_*_{child.pid}")), "Ray was started"
