"""Every metric that a run logs is explained in pipeline/README.md."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import metric_docs
import pytest
from metric_docs import documented

from pipeline.metrics import group_metrics
from rewards.types import Score, ScoredGroup, Verdict

ROOT = Path(__file__).parents[2]
NAME = re.compile(r"(?:reward|gold|rollout|policy|critic|learner|time|eval|judge)/[a-z0-9_]+")


def test_the_names_that_the_code_writes_out_are_explained():
    files = [path for floor in ("pipeline", "workers") for path in (ROOT / floor).rglob("*.py")]
    nodes = [node for path in files for node in ast.walk(ast.parse(path.read_text()))]
    written = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    names = sorted(text for text in written if NAME.fullmatch(text))
    assert {"reward/mean", "time/overhead_share", "eval/accuracy"} <= set(names)
    assert not [name for name in names if not documented(name)]


def test_the_names_made_of_a_sources_name_are_explained(make_group):
    group = make_group(["a", "b"])
    scores = [{"proxy": Score(1.0, cost=0.1)}, {"proxy": Score(0.0)}]
    judged = ScoredGroup(group, tuple(Verdict(s["proxy"].value, s) for s in scores))
    names = [name for name in group_metrics([judged]) if "proxy" in name]
    assert len(names) == 4
    assert not [name for name in names if not documented(name)]


@pytest.fixture
def readme(tmp_path, monkeypatch):
    path = tmp_path / "README.md"
    path.write_text(
        "Metrics like `time/else`:\n\n| name | unit | meaning |\n|---|---|---|\n| `a/b`, `a/c` | s | not `x/y` |\n"
        "| `reward/source/NAME/mean` | 1 | mean |\n"
    )
    monkeypatch.setattr(metric_docs, "README", path)
    metric_docs._patterns.cache_clear()
    yield
    metric_docs._patterns.cache_clear()


@pytest.mark.usefixtures("readme")
def test_only_what_a_row_begins_with_is_explained():
    assert documented("a/b")
    assert documented("a/c")
    assert documented("reward/source/exact/mean")
    wrong = ["x/y", "time/else", "a/bb", "reward/source/exact/std", "reward/source/a/b/mean", "reward/source/mean"]
    assert not [name for name in wrong if documented(name)]
