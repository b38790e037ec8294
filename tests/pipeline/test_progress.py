"""The progress view in both its forms, and the table at the end."""

import io
import re
import subprocess
import sys

import pytest
from rich.console import Console

from pipeline.progress import Progress, duration, results_text, sparkline, summary_table

SUMMARY = {
    "status": "done",
    "seconds": 97.3,
    "name": "quickstart [x]",
    "stages": {
        "before": {"kind": "evaluate", "seconds": 1.23, "accuracy": 0.41, "n": 500, "interval": [0.367, 0.454]},
        "rl": {"kind": "rl", "seconds": 61.0, "steps": 60, "reward": 0.93333},
    },
}


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def shown(console):
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())


def play(progress, clock, steps=60, pace=1.0):
    with progress:
        progress.stage("before", "evaluate")
        clock.now += 2
        progress.stage_done("before", "accuracy 0.41 [0.37, 0.45]")
        progress.stage("rl", "rl", steps)
        for step in range(steps):
            clock.now += pace
            progress.step(step, {"reward/mean": step / steps, "rollout/tokens_per_s": 48_000.0, "eval/accuracy": 0.5})
            if step == 30:
                progress.note("judge 1 was restarted [/oops]")
            if progress._live:
                progress._live.refresh()
        progress.stage_done("rl", "reward 0.98")


def test_plain_lines_are_few_and_complete():
    clock, console = Clock(), Console(file=io.StringIO(), width=60)
    play(Progress(console, clock), clock)
    lines = shown(console).splitlines()
    assert "\x1b" not in console.file.getvalue()
    assert lines[:3] == [
        "before: evaluate started",
        "before: done in 2.0 s, accuracy 0.41 [0.37, 0.45]",
        "rl: rl started, 60 steps",
    ]
    assert lines[3] == "rl: 5/60  reward 0.067  accuracy 0.500  tokens/s 48,000  eta 0:55"
    assert "judge 1 was restarted [/oops]" in lines
    assert lines[-1] == "rl: done in 1:00, reward 0.98"
    assert len([line for line in lines if line.startswith("rl: ") and "/60" in line]) == 12  # one per 5 s


def test_plain_lines_of_a_quick_stage_are_its_start_and_its_end():
    clock, console = Clock(), Console(file=io.StringIO())
    play(Progress(console, clock), clock, pace=0.05)
    assert len(shown(console).splitlines()) == 5  # two stages, one note


def test_live_view_shows_where_the_run_is():
    clock, console = Clock(), Console(file=io.StringIO(), force_terminal=True, width=100, height=20, color_system=None)
    play(Progress(console, clock), clock)
    text = shown(console)
    assert re.search(r"rl .*━.* 40/60 +40\.0 s|rl .*━.* 40/60 +0:40  eta 0:20", text)
    assert "reward 0.650   accuracy 0.500   tokens/s 48,000" in text
    assert "▁" in text and "█" in text
    assert "• judge 1 was restarted [/oops]" in text
    assert re.search(r"✓ before +2\.0 s  accuracy 0\.41 \[0\.37, 0\.45\]", text)
    assert console.file.getvalue().rstrip().endswith("\x1b[?25h"), "the cursor is back"


def test_live_view_ends_when_the_run_fails():
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with pytest.raises(RuntimeError), Progress(console) as progress:
        progress.stage("rl", "rl", 3)
        raise RuntimeError
    assert "\x1b[?25h" in console.file.getvalue()


def test_eta_counts_down_between_steps():
    clock, console = Clock(), Console(file=io.StringIO())
    progress = Progress(console, clock)
    progress.stage("rl", "rl", 10)
    for step in range(5):
        clock.now += 10 if step else 100  # the first step is no measure of the others
        progress.step(step, {})
    assert progress._stage.remaining(clock()) == ["eta 0:50"]
    assert progress._stage.remaining(clock() + 20) == ["eta 0:30"]
    assert progress._stage.remaining(clock() + 200) == ["eta 0.0 s"]


def test_summary_table_has_every_stage():
    console = Console(file=io.StringIO(), width=110)
    console.print(summary_table(SUMMARY))
    text = console.file.getvalue()
    assert re.search(r"before +evaluate +1\.2 s +accuracy 0\.410 \[0\.367, 0\.454\] of 500", text)
    assert re.search(r"rl +rl +1:01 +steps 60, reward 0\.9333", text)
    assert "quickstart [x]  done  1:37" in text


def test_small_texts():
    assert [duration(s) for s in (0.04, 9.94, 59.6, 67, 7389)] == ["0.0 s", "9.9 s", "1:00", "1:07", "2:03:09"]
    assert sparkline([0, 1, float("nan"), 0.5]) in ("▁█ ▄", "▁█ ▅")
    assert sparkline([1, 1]) == "▁▁"
    assert sparkline([1]) == ""
    assert results_text({"n": 9, "accuracy": 0.5, "failed": 0}) == "accuracy 0.500 of 9"
    assert results_text({"n": 9, "accuracy": 0.5, "failed": 2}) == "accuracy 0.500 of 9, failed 2"
    assert results_text({"kind": "evaluate", "seconds": 1, "accuracy": None}) == ""


def test_importing_is_light():
    script = "import pipeline.progress, sys; assert not {'torch', 'ray', 'mlflow', 'plotly'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
