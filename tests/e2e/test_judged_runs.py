"""A whole run whose judges are models: a chat model that Assay serves by vLLM, reward models in and beside the judges'
processes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
import tiny
from metric_docs import documented
from rote import make_judge
from tiny_run import assay, metric_rows

from pipeline.config import load_config
from pipeline.panels import panel_of
from pipeline.tasks.arithmetic import Arithmetic
from rewards.declared import Reply
from rewards.types import Group

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
JUDGES = ("critique", "rubric", "calculates", "compares")


class Tutor:
    """A toolbox whose model knows what to say, and notes down what it was asked and what it said."""

    def __init__(self):
        self.lessons = {}

    async def chat(self, model, messages, **more):
        asked = "\n".join(message.content for message in messages)
        self.lessons[asked] = said = _said(asked)
        return Reply(said)

    async def call(self, function, *args, limit_s):
        return function(*args)


def _said(asked):
    if "Observation:" in asked:
        return "[[9]]"
    if "The tools:" in asked:
        return "Action: calculator\nAction Input: 2 + 2"
    if "The criteria:" in asked:
        return "1. [[yes]]\n2. [[yes]]\n3. [[no]]"
    return "[[A]]" if "Compare two answers" in asked else "Fine. [[8]]"


def lessons(rewards):
    """What the config's judges would ask about some answers, and what is to be said."""
    tasks = Arithmetic().load(1).train[:2]
    groups = [Group.written(i, task, [task.demonstration, f"{i}+1=2.{i}"]) for i, task in enumerate(tasks)]
    panel, tutor = panel_of(rewards), Tutor()
    for group in groups:
        asyncio.run(panel.judge(group, tutor))
    return tutor.lessons


def test_a_run_with_every_kind_of_model_behind_its_rewards(tmp_path, monkeypatch):
    """The config of configs/rewards/ itself, a few steps of it."""
    monkeypatch.chdir(ROOT)
    config = ROOT / "configs/rewards/judges.yaml"
    judge = make_judge(tmp_path / "judge", lessons(load_config(config).rewards), steps=60)
    served = f"{{host: {judge}, price_in: 1.0, request_s: 120, serve_args: [--enforce-eager, --max-model-len, '2048']}}"
    rm = tiny.make_scalar(tmp_path / "rm", template="{% for m in messages %}{{ m.content }}{% endfor %}")
    given = [f"rewards.sources.{name}.judge={served}" for name in JUDGES]
    given += [f"rewards.sources.{name}.max_tokens=32" for name in JUDGES]
    given += [f"rewards.sources.inside={{kind: scalar, model: {{path: {rm}}}, weight: 0.01}}"]
    given += [f"rewards.sources.beside={{kind: scalar, model: {{path: {rm}, cpus: 0.5}}, weight: 0}}"]
    given += ["rewards.attack={tasks: 1, every: 2, allowed: 1.0}", "stages.warm_start.steps=30"]
    given += ["stages.rl.steps=3", "stages.rl.groups_per_step=2", "stages.rl.algorithm.group_size=3"]
    given += ["data.held_out=20", "tracking.mlflow=false", "cluster.cpus=6"]
    done = assay("run", config, *given, "--run-dir", tmp_path / "run", timeout=400)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [row["metrics"] for row in metric_rows(tmp_path / "run") if row["stage"] == "rl"]
    assert not [name for row in rows for name in row if not documented(name)]
    assert len(rows) == 3
    for row in rows:
        assert all(row[f"reward/source/{name}/latency"] > 0 for name in (*JUDGES, "exact", "inside", "beside"))
        assert all(0 <= row[f"reward/source/{name}/failed"] <= 1 for name in (*JUDGES, "inside", "beside"))
        assert all(row[f"reward/source/{name}/tokens"] > 100 for name in JUDGES[:3])
        assert all(row[f"reward/source/{name}/cost"] > 0 for name in JUDGES[:3])
        assert row["reward/source/inside/mean"] == pytest.approx(row["reward/source/beside/mean"], abs=1e-4)
    assert [any(f"guard/{name}/false_positives" in row for name in JUDGES) for row in rows] == [True, False, True]
    samples = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    scores = [row["scores"] for row in samples if row["stage"] == "rl"]
    judged = {name: [score[name] for score in scores if name in score] for name in JUDGES}
    assert any(score.get("value") is not None and score.get("tokens") for score in judged["critique"])
    failures = [str(score["failure"]) for name in JUDGES for score in judged[name] if score.get("failure")]
    assert all(" abstained: " in failure for failure in failures)
    page = (tmp_path / "run" / "report.html").read_text()
    assert all(f"reward/source/{name}/{what}" in page for name in JUDGES for what in ("mean", "failed", "latency"))
