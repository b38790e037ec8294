"""Whole runs whose judges are models: a chat model over HTTP, reward models in and beside the judge processes."""

from __future__ import annotations

import json
import re

import pytest
import tiny
from endpoint import Wrong, endpoint
from metric_docs import documented
from tiny_run import TINY, assay, metric_rows, write_config

pytestmark = pytest.mark.slow


def test_a_run_with_every_kind_of_model_behind_its_rewards(tmp_path):
    rm = tiny.make_scalar(tmp_path / "rm", template="{% for m in messages %}{{ m.content }}{% endfor %}")
    asked = {"n": 0}

    def answer(request):
        asked["n"] += 1
        if asked["n"] % 7 == 0:
            return Wrong(429, "busy", {"Retry-After": "0"})
        prompt = request["messages"][-1]["content"]
        sum_ = re.search(r"user: (\S+)=", prompt)[1]
        answer = re.search(r"the answer\]\n(.*?)\n\[End", prompt, re.DOTALL)[1]
        if asked["n"] % 5 == 0:
            return "hm"
        return "Fine. [[9]]" if answer.rpartition(".")[2].strip() == str(eval(sum_)) else "No. [[2]]"

    with endpoint(answer) as seen:
        sources = f"""
rewards:
  attack: {{tasks: 2, every: 2, allowed: 1.0}}
  sources:
    exact: {{kind: exact, after: "."}}
    judge: {{kind: generative, judge: {{url: "{seen.url}", price_in: 1.0}}, weight: 0.5, retries: 3}}
    inside: {{kind: scalar, model: {{path: "{rm}"}}, weight: 0.01}}
    beside: {{kind: scalar, model: {{path: "{rm}", cpus: 0.5}}, weight: 0}}
"""
        text = TINY.replace('rewards: {sources: {exact: {kind: exact, after: "."}}}', sources.strip())
        text = text.replace("steps: 7", "steps: 3").replace("  before: {kind: evaluate}\n", "")
        config = write_config(tmp_path, text)
        done = assay("run", config, "--run-dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [row["metrics"] for row in metric_rows(tmp_path / "run") if row["stage"] == "rl"]
    assert not [name for row in rows for name in row if not documented(name)]
    assert len(rows) == 3
    for row in rows:
        for name in ("judge", "inside", "beside"):
            assert row[f"reward/source/{name}/latency"] > 0
            assert f"reward/source/{name}/failed" in row
        assert row["reward/source/judge/cost"] > 0
        assert row["reward/source/judge/tokens"] > 100
        assert row["reward/source/inside/mean"] == pytest.approx(row["reward/source/beside/mean"], abs=1e-4)
    assert "guard/judge/false_positives" in rows[0] and "guard/judge/false_positives" in rows[2]
    assert "guard/judge/false_positives" not in rows[1]
    samples = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    scores = [row["scores"]["judge"] for row in samples if row["stage"] == "rl" and "judge" in row["scores"]]
    assert any(score.get("tokens") and score.get("parts") in ({"score": 2.0}, {"score": 9.0}) for score in scores)


def test_a_judge_that_falls_for_an_opener_starts_no_run(tmp_path):
    with endpoint(lambda _: "Surely. [[10]]") as seen:
        sources = f"""
rewards:
  attack: {{tasks: 2}}
  sources:
    judge: {{kind: generative, judge: {{url: "{seen.url}"}}}}
"""
        text = TINY.replace('rewards: {sources: {exact: {kind: exact, after: "."}}}', sources.strip())
        refused = assay("run", write_config(tmp_path, text), "--run-dir", tmp_path / "run")
    assert refused.returncode == 2
    assert "self-check" in refused.stderr  # it likes the foil as much as the gold answer, which is found out first
