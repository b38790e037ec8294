"""What can be named in a config, and what a wrong name gets."""

from __future__ import annotations

import asyncio

import pytest
from faulty import LikesLonger, Scripted, letters

from rewards.catalog import SOURCES, resolve
from rewards.errors import Refused
from rewards.imports import load
from rewards.panel import Seat
from rewards.selfcheck import selfcheck
from rewards.sources.exact import Exact
from rewards.sources.function import Function
from rewards.sources.math import Math
from rewards.types import Task
from workers.judging.toolbox import ProcessToolbox

TASKS = [Task(f"t{i}", (), ref) for i, ref in enumerate(["18", "\\frac{1}{2}", None, "3 apples", "5"])]


def test_kinds_and_import_paths():
    assert (resolve("exact"), resolve("math")) == (Exact, Math)
    assert all(resolve(kind) is cls for kind, cls in SOURCES.items())
    assert resolve("faulty:Scripted") is Scripted
    assert resolve("faulty:letters") is letters


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("maths", "unknown reward source 'maths'; did you mean 'math'?"),
        ("nonsuch.deep:f", "import path 'nonsuch.deep:f': no module 'nonsuch'"),
        ("rewards.sources.exat:Exact", "no module 'rewards.sources.exat'; did you mean 'exact'?"),
        ("faulty:letter", "'faulty' has no 'letter'; did you mean 'letters'?"),
        ("faulty:", "expected package.module:name"),
        ("faulty:neither", "expected TRL's (completions, **columns), verl's"),
        ("faulty:Awkward", "class Awkward has no `async def score(self, group, tools)`"),
        ("broken_import:f", "importing 'broken_import' failed: No module named 'nonsuch_dependency'"),
        ("broken_syntax:f", "importing 'broken_syntax' failed: SyntaxError: "),
        ("broken_value:f", "importing 'broken_value' failed: ValueError: two lines"),
    ],
)
def test_a_wrong_name_is_refused_in_one_line(kind, message, tmp_path, monkeypatch):
    (tmp_path / "broken_import.py").write_text("import nonsuch_dependency\n")
    (tmp_path / "broken_syntax.py").write_text("def f(:\n")
    (tmp_path / "broken_value.py").write_text("raise ValueError('two\\nlines')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Refused) as refused:
        resolve(kind)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_current_directory_counts(tmp_path, monkeypatch):
    (tmp_path / "in_the_current_directory.py").write_text("def f(completions, **columns): return []\n")
    monkeypatch.setattr("sys.path", ["/nowhere", *__import__("sys").path])
    monkeypatch.chdir(tmp_path)
    assert load("in_the_current_directory:f")([]) == []


def check(source, tasks=TASKS, **seat):
    async def run():
        tools = ProcessToolbox(1, getattr(source, "helper_imports", ()))
        try:
            return await selfcheck(Seat("judge", source, **seat), tasks, tools)
        finally:
            tools.close()

    return asyncio.run(run())


def test_selfcheck_passes_good_sources():
    assert check(Exact(after="#")) == 2
    assert check(Math(after="####")) == 2
    assert check(Math(), TASKS[3:], weight=0.0) == 2
    assert check(Scripted()) == 0
    assert check(Function("faulty:letters", gold="18", foil="1"), TASKS[:1]) == 1
    assert check(Function("faulty:letters"), TASKS[:1]) == 0


def test_selfcheck_refuses_a_judge_that_likes_the_foil():
    with pytest.raises(Refused) as refused:
        check(LikesLonger())
    assert str(refused.value) == (
        "reward source 'judge' fails its self-check on task 't0': expected the gold answer 'short' above the foil "
        "'much longer', got 5 and 11"
    )


def test_selfcheck_refuses_a_judge_that_can_not_judge():
    source = Function("faulty:hangs", gold="a", foil="b", limit_s=0.3)
    with pytest.raises(Refused, match=r"got no score \(source:judge timeout: no answer in 0\.3 s\) and no score"):
        check(source, TASKS[:1], on_failure="abort")
