"""The report page: complete, self-contained, safe with any text, and there for runs that never ended."""

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.lab import charts
from pipeline.lab.page import number, seconds_text
from pipeline.lab.report import MAX_SAMPLES, write_report

_spec = importlib.util.spec_from_file_location("made_run", Path(__file__).parent / "made_run.py")
made_run = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(made_run)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return write_report(made_run.make_run(tmp_path_factory.mktemp("runs") / "quickstart-0"))


def data(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


def outside_scripts(page):
    return re.sub(r"<(script|style).*?</\1>", "", page, flags=re.S)


def test_one_file_below_six_megabytes_that_asks_no_network(report):
    page = report.read_text()
    assert report.name == "report.html"
    assert not report.with_suffix(".html.part").exists()
    assert len(page.encode()) - len(json.dumps(data(page)["samples"])) < 6_000_000
    assert not re.search(r"(src|href)=[\"']?(https?:)?//|@import|url\(", page[: page.index("<script>")])
    assert not re.search(r"<(link|img|iframe)\b", outside_scripts(page))


def test_the_headline_and_the_stages(report):
    text = outside_scripts(report.read_text())
    for shown in ("quickstart", "done", "41.0%", "96.2%", "[94.1, 97.6] of 500", "014eb67d0c", " min "):
        assert shown in text
    assert re.search(r"Final reward</h3><p class=\"value\">0\.93", text)
    assert re.search(r"<b>sft</b>.*41\.8 s.*51\.\d%", text)
    assert "judge 1 did not answer within 5 s" in text
    assert "2.13.0+cpu" in text
    assert "algorithm: {kind: grpo, group_size: 8}" in text


def test_a_reward_models_accuracy_is_no_policys_and_gold_stands_on_top(tmp_path):
    run = made_run.make_run(tmp_path / "run")
    summary = json.loads((run / "summary.json").read_text())
    judge = {"kind": "reward_model", "seconds": 1.0, "n": 400, "accuracy": 0.913, "interval": [0.88, 0.94]}
    summary["stages"] = {"judge": judge, **summary["stages"]}
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in (row for row in rows if row["stage"] == "rl"):
        row["metrics"] |= {"gold/mean": 0.5 if row["step"] < 30 else 0.1}
    rows += [{**rows[0], "stage": "judge", "step": step} for step in range(3)]
    rows.append({**rows[0], "stage": "judge", "step": 3, "metrics": {"eval/accuracy": 0.913}})
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "summary.json").write_text(json.dumps(summary))
    page = outside_scripts(write_report(run).read_text())
    headline = page[page.index('class="big"') : page.index('class="intervals"')]
    assert "41.0%" in headline and "96.2%" in headline and "91.3%" not in headline
    assert "reward_model, 3 steps, 91.3% [88.0, 94.0] right on 400 held out" in page
    assert re.search(r"Gold score</h3><p class=\"value\">0\.1.*0\.500 at its highest, mean of 5 steps", page)


def test_an_evaluation_of_many_samples_shows_its_best_of_n(tmp_path):
    run = made_run.make_run(tmp_path / "run")
    summary = json.loads((run / "summary.json").read_text())
    points = [{"n": n, "d": n / 10, "proxy": n / 2, "gold": 0.4 + n / 100} for n in (1, 2, 4)]
    law = {"reason": "no peak can be named: 2 distances above 0, expected 5 or more"}
    summary["stages"]["after"] |= {"best_of_n": points, "best_of_n_law": law}
    (run / "summary.json").write_text(json.dumps(summary))
    page = write_report(run).read_text()
    shown = data(page)["sections"][-1]["gold"]
    assert shown["d"] == [0.1, 0.2, 0.4] and shown["gold"] == [0.41, 0.42, 0.44] and shown["law"]["x"] == []
    assert "<h3>Best of n</h3>" in page and "expected 5 or more." in outside_scripts(page)


def test_curves_are_those_that_the_stage_has(report):
    sft, rl = data(report.read_text())["sections"]
    assert [chart["title"] for chart in sft["charts"]] == [
        "Loss",
        "Gradient norm",
        "Learning rate",
        "Tokens learned from",
    ]
    by_title = {chart["title"]: chart for chart in rl["charts"]}
    assert {series["name"] for series in by_title["Reward by source"]["series"]} == {"exact", "format"}
    assert {series["name"] for series in by_title["Log-prob gap"]["series"]} == {"max", "mean"}
    assert by_title["Accuracy"]["series"][0]["x"] == [9, 19, 29, 39, 49, 59]
    assert len(by_title["Accuracy"]["band"]) == 2
    assert [chart["title"] for chart in rl["charts"] if chart["flat"]] == ["Clipped", "Learning rate"]
    assert [chart["title"] for chart in rl["rest"]] == ["curriculum/difficulty"]
    assert [part["name"] for part in rl["timing"]["parts"]] == [
        t for t in charts.TIMES if t not in ("transport", "checkpoint")
    ]
    assert sum(part["share"] for part in rl["timing"]["parts"]) == pytest.approx(1)
    assert [m["title"] for m in rl["maps"]] == ["Rewards", "Lengths"]


def test_completions_are_text_never_markup(report):
    page = report.read_text()
    assert "<img src=x" not in page
    hostile = [row for row in data(page)["samples"] if row["completion"] == made_run.HOSTILE]
    assert len(hostile) == 1
    assert hostile[0]["scores"]["exact"]["explanation"] == made_run.HOSTILE
    assert "# &lt;b&gt;not bold&lt;/b&gt;" in page


def test_samples_are_capped_evenly_over_steps(tmp_path):
    run = made_run.make_run(tmp_path / "run")
    rows = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    long = [{**row, "completion": "a" * 20_000 + "END"} for row in rows]
    (run / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in long))
    shown = data(write_report(run).read_text())["samples"]
    assert len(shown) <= MAX_SAMPLES < len(rows)
    assert len(json.dumps(shown)) < 3_300_000
    assert {(row["stage"], row["step"]) for row in shown} == {(row["stage"], row["step"]) for row in rows}
    assert all(row["completion"].endswith("aEND") and "characters …]" in row["completion"] for row in shown)


def test_runs_that_did_not_end_have_a_page(tmp_path):
    run = made_run.make_run(tmp_path / "cut", rl_steps=7)
    for name in ("summary.json", "environment.json", "samples.jsonl", "config.yaml"):
        (run / name).unlink()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "rl", "step": 7, "time": 1.0, "metrics": {"reward/mean": null}}\n{"stage": "rl", "st')
    text = outside_scripts(write_report(run).read_text())
    assert "unfinished" in text
    assert re.search(r"<b>sft</b>.*41\.\d s", text)
    assert 'id="samples"' not in text
    (tmp_path / "empty").mkdir()
    assert "unfinished" in write_report(tmp_path / "empty").read_text()


def test_distributions_are_shares_of_each_step():
    rows = [{"step": s, "reward": r, "tokens": 10 + 7 * s + i} for s in range(90) for i, r in enumerate((0, 0, 0, 1.0))]
    rewards, lengths = charts.distributions(rows)
    assert rewards["y"] == ["0", "1"]
    assert rewards["z"] == [[0.75] * 30, [0.25] * 30]
    assert (rewards["x"][0], rewards["x"][-1]) == ("0–2", "87–89")
    assert [sum(column) for column in zip(*lengths["z"], strict=True)] == pytest.approx([1] * 30, abs=1e-4)
    assert lengths["labels"][-1].endswith("to 636")
    assert charts.distributions(rows[:12]) == []
    assert charts.distributions([{**row, "reward": None} for row in rows])[0]["title"] == "Lengths"


def test_long_curves_are_thinned_and_keep_their_ends():
    found = charts.curves({"step": s, "metrics": {"learner/loss": s / 3}} for s in range(10_000))
    series = charts.charts(found)[0][0]["series"][0]
    assert len(series["x"]) == charts.MAX_POINTS
    assert (series["x"][0], series["x"][-1], series["y"][1]) == (0, 9999, 2.33333)


def test_numbers_read_well():
    values = (None, float("nan"), 0.0, 500.0, 0.41234, 12.3456, 19711.2, 2.7e-6, 0.004, -0.0054321, 3e8)
    texts = ["–", "–", "0", "500", "0.412", "12.35", "19,711", "2.70e-06", "0.004", "-0.00543", "3.00e+08"]
    assert [number(value) for value in values] == texts
    assert [seconds_text(s) for s in (0.834, 41.8, 67.2, 7389)] == ["0.83 s", "41.8 s", "1 min 07 s", "2 h 03 min"]


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs the program chromium to run the page's script")
def test_the_page_comes_alive_in_a_browser(report, tmp_path):
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
    command += ["--virtual-time-budget=5000", "--dump-dom", report.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert dom.count('class="plot-container') == 4 + 15 + 2 + 1  # sft, rl without its flat ones, maps, timing
    assert dom.count('class="card sample"') == 12
    assert "<title>quickstart · Assay</title>" in dom, "no script of a completion ran"
    assert "600 of 1,160 logged, evenly over steps</small>" in dom
