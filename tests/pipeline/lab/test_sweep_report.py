"""What a sweep's directory says: cells, comparisons, the files for a paper, and the page."""

from __future__ import annotations

import csv
import json
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from pipeline.lab.results import read_results, table_tex, tex
from pipeline.lab.sweep_report import write_sweep_report

MEASURES = {"accuracy": {"metric": "after/accuracy"}, "reward": {"metric": "rl/reward/mean", "over": "max"}}


def make_sweep(folder, rates=(0.0, 0.2, 0.5), scopes=("sample", "prompt"), seeds=(0, 1, 2), style="auto"):
    """A sweep whose accuracy falls with the rate, for one scope faster; one run failed, one is not there."""
    cells = []
    for rate in rates:
        for scope in scopes:
            name = f"rate={rate},scope={scope}"
            cells.append({"values": {"rate": rate, "scope": scope}, "label": name.replace("=", " "), "folder": name})
            for seed in seeds:
                draw = np.random.default_rng([seed, int(10 * rate), len(scope)])
                run = folder / "runs" / name / f"seed-{seed}"
                if (rate, scope, seed) == (0.5, "prompt", 2):
                    run.parent.mkdir(parents=True, exist_ok=True)
                    run.with_name("seed-2.failed.txt").write_text("the gradient is not finite & <so> on\n")
                    continue
                if (rate, scope, seed) == (0.5, "prompt", 1):
                    continue
                run.mkdir(parents=True)
                right = 0.97 - rate * (1 if scope == "sample" else 1.5) + draw.normal(0, 0.01)
                stages = {"after": {"kind": "evaluate", "accuracy": right}}
                summary = {"status": "done", "seconds": 60.0, "stages": stages}
                (run / "summary.json").write_text(json.dumps(summary))
                rows = [{"stage": "rl", "step": i, "metrics": {"reward/mean": right * i / 9}} for i in range(10)]
                (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sweep = {
        "name": "flips & <more>",
        "config": "flips.yaml",
        "axes": {"rate": list(rates), "scope": list(scopes)},
        "cells": cells,
        "control": cells[0]["folder"],
        "seeds": list(seeds),
        "measures": {name: {"over": "last", "window": 1, "level": None, **m} for name, m in MEASURES.items()},
        "style": style,
        "base": {"seed": 0},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sweep.json").write_text(json.dumps(sweep))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = make_sweep(tmp_path_factory.mktemp("sweep"))
    write_sweep_report(made)
    return made


def test_cells_are_compared_with_the_control_by_seed(folder):
    results = read_results(folder)
    assert (results.count("done"), results.count("failed"), results.count("missing")) == (16, 1, 1)
    control, worst = results.cells[results.control], results.cells[-1]
    assert control.differences["accuracy"] is None
    assert (worst.means["accuracy"].n, worst.differences["accuracy"].p) == (1, None)
    half = next(cell for cell in results.cells if cell.values == {"rate": 0.5, "scope": "sample"})
    assert half.differences["accuracy"].value == pytest.approx(-0.5, abs=0.04)
    # Four cells have a p: the smallest was multiplied by four.
    smallest = min(
        (c for c in results.cells if c.ps["accuracy"] is not None), key=lambda c: c.differences["accuracy"].p
    )
    assert smallest.ps["accuracy"] == pytest.approx(4 * smallest.differences["accuracy"].p)


def test_the_files_for_a_paper(folder):
    rows = list(csv.DictReader((folder / "table.csv").open()))
    assert len(rows) == 12
    first = rows[0]
    assert (first["rate"], first["scope"], first["measure"], first["n"]) == ("0.0", "sample", "accuracy", "3")
    assert float(first["low"]) < float(first["mean"]) < float(first["high"])
    assert len(list(csv.DictReader((folder / "runs.csv").open()))) == 18
    table = table_tex(read_results(folder))
    lines = table.splitlines()
    assert lines[1] == r"\begin{tabular}{llrr}"
    assert all(line.count(" & ") == 3 for line in lines if line.endswith(r"\\"))
    assert lines[0].startswith("% flips & <more>")


def test_latex_reads_every_character_as_it_is():
    assert tex("a_b 50% & {x} \\ ~^#$") == (
        r"a\_b 50\% \& \{x\} \textbackslash{} \textasciitilde{}\textasciicircum{}\#\$"
    )


def test_figures_are_svg_and_always_the_same(folder, tmp_path):
    figures = sorted(path.name for path in (folder / "figures").iterdir())
    assert figures == ["accuracy.svg", "reward.svg", "reward_course.svg"]
    again = make_sweep(tmp_path / "again")
    write_sweep_report(again)
    for name in figures:
        text = (folder / "figures" / name).read_text()
        ET.fromstring(text)
        assert "scope sample" in text  # words, not outlines
        assert (again / "figures" / name).read_text() == text


def test_the_page_holds_all_of_it_and_asks_no_network(folder):
    page = (folder / "report.html").read_text()
    assert "flips &amp; &lt;more&gt;" in page
    assert "16 of 18 runs done, 1 failed" in page
    assert "the gradient is not finite &amp; &lt;so&gt; on" in page
    assert page.count("<svg") == 3
    assert "var(--c0)" in page
    links = re.findall(r'(?:src|href)="([^"#][^"]*)"', page)
    assert links[0] == "runs/rate%3D0.0%2Cscope%3Dsample/seed-0/report.html"
    assert all(link.startswith("runs/") for link in links)
    assert len(links) == 16


def test_cells_without_an_axis_of_numbers_are_rows_of_dots(tmp_path):
    made = make_sweep(tmp_path, rates=(0.0, 0.2))
    write_sweep_report(made)
    assert "rate 0.2,scope sample" in (made / "figures" / "accuracy.svg").read_text()


def test_one_seed_has_no_interval(tmp_path):
    made = make_sweep(tmp_path, seeds=(0,))
    results = write_sweep_report(made)
    assert all(p is None for cell in results.cells for p in cell.ps.values())
    assert "95% interval" not in (made / "report.html").read_text()
