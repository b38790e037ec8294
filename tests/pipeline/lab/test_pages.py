"""`assay report` of several runs, and what it says to directories that are no runs; which samples are worth reading."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest

from pipeline.cli import main
from pipeline.lab import charts
from pipeline.lab.compare import differences, labels
from pipeline.lab.gold_chart import gold_chart
from pipeline.lab.pages import write
from pipeline.lab.reading import compared
from rewards.errors import Refused

_spec = importlib.util.spec_from_file_location("made_run", Path(__file__).parent / "made_run.py")
made_run = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(made_run)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [made_run.make_run(folder / name, steps) for name, steps in (("first", 30), ("second", 40))]


def test_several_runs_lie_over_each_other(runs, tmp_path):
    text = (runs[1] / "config.yaml").read_text()
    (runs[1] / "config.yaml").write_text(text.replace("group_size: 8", "group_size: 16"))
    page = write(runs, tmp_path / "both.html").read_text()
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])
    sft, rl = data["sections"]
    reward = next(chart for chart in rl["charts"] if chart["title"] == "Reward")
    assert [(s["name"], s["colour"], len(s["x"])) for s in reward["series"]] == [("first", 0, 30), ("second", 1, 40)]
    assert {chart["title"] for chart in sft["charts"]} >= {"Loss", "Gradient norm"}
    assert "reward/source/format/mean" in {chart["title"] for chart in rl["charts"]}
    outside = re.sub(r"<(script|style).*?</\1>", "", page, flags=re.S)
    assert "stages.rl.algorithm.group_size" in outside
    assert "stages.rl.algorithm.kind" not in outside
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", page[: page.index("<script>")])


def test_what_is_no_run_is_refused_and_nothing_is_written(runs, tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        main(["report", str(runs[0]), str(tmp_path / "none"), "--to", str(tmp_path / "x.html")])
    err = capsys.readouterr().err
    assert (left.value.code, len(err.splitlines())) == (2, 1)
    assert "does not exist" in err
    assert not (tmp_path / "x.html").exists()


@pytest.mark.parametrize(
    ("pick", "said"),
    [
        (lambda runs, sweep: [runs[0], runs[0]], "is named twice"),
        (lambda runs, sweep: [runs[0], sweep], "is a sweep, which has a page of its own"),
    ],
)
def test_a_mistake_is_one_line(runs, tmp_path, pick, said):
    (tmp_path / "sweep.json").write_text("{}")
    with pytest.raises(Refused, match=said):
        write(pick(runs, tmp_path), tmp_path / "x.html")


def test_labels_are_as_short_as_tells_them_apart():
    assert labels([Path("/a/x"), Path("/a/y")]) == ["x", "y"]
    assert labels([Path("/a/lr=1/seed-0"), Path("/a/lr=2/seed-0")]) == ["lr=1/seed-0", "lr=2/seed-0"]


def test_differences_are_by_key():
    a, b = {"seed": 0, "x": {"y": 1, "z": [1, 2]}}, {"seed": 1, "x": {"y": 1}, "tracking": {"uri": "u"}}
    assert differences([a, b]) == [("seed", ["0", "1"]), ("x.z", ["[1, 2]", "–"])]


def row(stage, task, completion, reward, gold=None):
    scores = {} if gold is None else {"gold": {"value": gold, "explanation": "", "failure": None}}
    return {"stage": stage, "task": task, "index": 0, "completion": completion, "reward": reward, "scores": scores}


def test_where_proxy_and_gold_are_furthest_apart():
    rows = [row("rl", str(i), "", reward, gold) for i, (reward, gold) in enumerate([(0, 0), (9, 9), (9, 0), (0, 9)])]
    found = compared([*rows, row("rl", "5", "", None, 1.0), row("rl", "6", "", 1.0)], [])
    assert [r.get("disagreeing") for r in found] == [0, 0, 2, 2, None, None]


def test_what_changed_most_between_the_last_two_evaluations():
    first = [row("untrained", "a", "zzz", 0.0), row("before", "a", "1+1=3", 0.0), row("before", "b", "same", 1.0)]
    last = [row("after", "a", "1+1=2", 1.0), row("after", "b", "same", 1.0), row("after", "c", "new", None)]
    found = compared([*first, *last], ["untrained", "before", "after"])
    assert [r.get("changed") for r in found] == [None, None, None, pytest.approx(1.2), 0.0, None]
    assert found[3]["before"] == {"stage": "before", "completion": "1+1=3", "reward": 0.0}


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("abcdefg", 0.0),
        ("abc", 0.0),
        ("aaaaaaaa", 4 / 5),
        ("the cat sat on the mat and the cat sat on it", 1 / 9),
    ],
)
def test_repetition(text, share):
    assert charts.repeated(text) == pytest.approx(share)


def test_gold_is_drawn_over_the_distance_with_its_law():
    found = {"gold/kl_sqrt": ([0, 2], [0.0, 1.5]), "gold/mean": ([0, 1, 2], [0.1, 0.2, 0.3])}
    assert gold_chart(found) is None
    found["reward/mean"] = ([0, 1, 2], [1.0, 2.0, 3.0])
    chart = gold_chart(found)
    assert (chart["d"], chart["gold"], chart["proxy"]) == ([0.0, 1.5], [0.1, 0.3], [1.0, 3.0])
    assert chart["law"]["x"] == []
    assert "no peak can be named" in chart["law"]["text"]
    d = np.linspace(0.05, 4.0, 60)
    exact = 0.4 + d * (0.5 - 0.3 * np.log(d))  # peaks at exp(2 / 3)
    steps = list(range(60))
    found = {
        "gold/kl_sqrt": (steps, d.tolist()),
        "gold/mean": (steps, exact.tolist()),
        "reward/mean": (steps, [1.0] * 60),
    }
    law = gold_chart(found)["law"]
    assert "gold peaks at d 1.95 [1.95, 1.95]" in law["text"]
    assert max(law["y"]) == pytest.approx(0.4 + 0.3 * np.exp(2 / 3), abs=1e-3)
