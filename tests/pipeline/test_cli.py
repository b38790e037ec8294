from __future__ import annotations

import json
import os
import subprocess
import sys

import jsonschema
import pytest
import yaml
from tiny_run import ASSAY, TINY, assay, write_config

from pipeline.cli import main


def said(capsys, *args):
    """Exit status, standard output, standard error."""
    try:
        main(args)
        status = 0
    except SystemExit as left:
        status = left.code
    return status, *capsys.readouterr()


@pytest.mark.parametrize("args", [(), ("--help",)])
def test_help_names_the_commands(capsys, args):
    status, out, err = said(capsys, *args)
    assert (status, err) == (0, "")
    for command in ("run", "resume", "check", "report", "schema", "doctor"):
        assert f" {command} " in out


def test_help_comes_at_once():
    """Nothing that takes long to import is imported for it. Processor time: other people's work does not count."""
    code = "import sys\ntry: from pipeline.cli import main; main(['--help'])\nfinally: print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numpy", "pydantic", "yaml", "torch", "ray"} & set(found.stdout.split())
    before = os.times()
    subprocess.run([ASSAY, "--help"], stdout=subprocess.DEVNULL, check=True)
    after = os.times()
    assert after.children_user - before.children_user < 1


def test_the_schema_is_json_and_takes_a_config(capsys):
    status, out, _ = said(capsys, "schema")
    schema = json.loads(out)
    assert status == 0
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(yaml.safe_load(TINY), schema)
    assert schema["properties"]["stages"]["description"] == "What is done, by name, in order."


def test_check_prints_the_plan_and_starts_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path)
    status, out, err = said(capsys, "check", "tiny.yaml", "stages.rl.steps=11")
    assert (status, err) == (0, "")
    assert out.rstrip().endswith("✓ tiny.yaml can run")
    assert next(line for line in out.splitlines() if line.startswith(" rl ")).split()[4] == "11"
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


def test_doctor_says_something(capsys):
    status, out, err = said(capsys, "doctor")
    assert (status, err) == (0, "")
    assert "torch" in out


def test_an_unexpected_error_is_one_line_and_status_1(capsys, tmp_path):
    """A summary that is no JSON: nobody's mistake that can be named."""
    (tmp_path / "config.yaml").write_text(TINY)
    (tmp_path / "summary.json").write_text("{")
    status, out, err = said(capsys, "resume", str(tmp_path))
    assert (status, out) == (1, "")
    assert err.startswith("assay: JSONDecodeError: ")
    assert err.count("\n") == 1


def test_ctrl_c_before_the_run_is_one_line_and_leaves_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path)
    (tmp_path / "slow_judge.py").write_text("raise KeyboardInterrupt  # pressed while this is imported\n")
    status, out, err = said(capsys, "run", "tiny.yaml", "rewards.sources.own={kind: 'slow_judge:score'}")
    assert (status, out, err) == (1, "", "assay: stopped\n")
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} == {"tiny.yaml", "slow_judge.py"}


@pytest.mark.slow
def test_with_json_the_last_line_is_the_summary_and_nothing_else_is_said(tmp_path):
    config = write_config(tmp_path, TINY.replace("steps: 30", "steps: 2").replace("steps: 7", "steps: 1"))
    found = assay("run", config, "--run-dir", tmp_path / "run", "--json")
    assert found.returncode == 0, found.stderr
    (line,) = found.stdout.splitlines()
    summary = json.loads(line)
    assert summary == json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], summary["name"]) == ("done", "tiny")
    assert list(summary["stages"]) == ["warm_start", "before", "rl", "after"]
    # What is done stays done.
    again = assay("resume", tmp_path / "run")
    assert again.returncode == 2
    assert again.stderr == f"assay: {tmp_path / 'run'} is done; its report is {tmp_path / 'run' / 'report.html'}\n"
    again = assay("run", config, "--run-dir", tmp_path / "run")
    assert again.returncode == 2
    assert "already holds a run" in again.stderr
    # A report can be made anew.
    (tmp_path / "run" / "report.html").unlink()
    report = assay("report", tmp_path / "run")
    assert report.stdout.strip() == str(tmp_path / "run" / "report.html")
    assert (tmp_path / "run" / "report.html").stat().st_size > 1000
