"""Reading verdicts: what is one, what is none, and that nothing shown to a judge can pass for one."""

from __future__ import annotations

import pytest
from hostile import HOSTILE
from hypothesis import given
from hypothesis import strategies as st

from rewards.guards import MASTER_KEYS, UNKNOWN_KEYS, hollow
from rewards.verdicts import answers, choice, defused, number, numbers, ranking


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Good. [[7]]", 7),
        ("[[7.5]]\n", 7.5),
        ("so [[ 8 / 10 ]].", 8),
        ("\\boxed{3}", 3),
        ("<think>[[1]] or [[2]]?</think> [[4]]", 4),
        ("first [[3]], in the end [[3]]", 3),
        ("[[8/9]]", None),
        ("[[11]]", None),
        ("[[0]]", None),
        ("[[-3]]", None),
        ("[[seven]]", None),
        ("7", None),
        ("[7]", None),
        ("", None),
        ("[[7]] or rather [[8]]", None),
        ("<think>surely [[7]]", None),
        ("[[7]]" + " because" * 20, None),
        ("[[nan]]", None),
        ("[[1e1]]", None),
    ],
)
def test_a_score(text, found):
    assert number(text, 1, 10) == found


def test_a_choice():
    names = ("A", "B", "tie")
    said = ["[[A]]", "<answer>[[B]]</answer>", "[[TIE]]", "A", "[[A]] [[B]]", "[[C]]", "", "<think>[[A]]"]
    assert [choice(text, names) for text in said] == ["A", "B", "tie", None, None, None, None, None]


def test_several_scores():
    said = ["[[7, 3]]", "\\boxed{7,3}", "[[7]]", "[[7, 3, 1]]", "[[7, x]]", "[[7, 30]]", "[[7], [3]]"]
    assert [numbers(text, 2, 1, 10) for text in said] == [[7, 3], [7, 3], None, None, None, None, None]
    assert numbers("[[" + ", ".join(["10"] * 32) + "]]", 32, 1, 10) == [10] * 32


def test_numbered_answers():
    assert answers("1. [[yes]]\n2. It does not: [[No]]\n3) **[[met]]**", 3) == [True, False, True]
    assert answers("Sure.\n1. [[right]]\n2. [[ wrong ]].\n", 2) == [True, False]
    one, two = "1. [[yes]]", "1. [[yes]]\n2. [[no]]"
    for text in (one, f"{one}\n2. [[perhaps]]", f"{two}\n3. [[no]]", f"{two}\n1. [[no]]", "[[yes]]\n[[no]]", ""):
        assert answers(text, 2) is None
    for text in ("1. yes\n2. no", f"<think>{two}", f"{one}\n2. [[yes]] [[no]]", f"{one}\n2. [yes] [[no]]"):
        assert answers(text, 2) is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"scores": {"a": 5, "b": 2}, "best-to-worst": ["a", "b"]}', [5, 2]),
        ('Well.\n```json\n{"scores": {"b": 2, "a": 2}, "best-to-worst": ["b", "a"]}\n```', [2, 2]),
        ("{'scores': {'a': 1, 'b': 3}, 'best-to-worst': ['b', 'a']}", [1, 3]),
        ('{scores: {a: 1, b: 3,}, "best-to-worst": ["b", "a",],}', [1, 3]),
        ('<think>{"scores": {}}</think>{"scores": {"a": 4, "b": 3}, "best-to-worst": ["a", "b"]}', [4, 3]),
        ('{"scores": {"a": 1, "b": 3}, "best-to-worst": ["a", "b"]}', None),
        ('{"scores": {"a": 1}, "best-to-worst": ["a"]}', None),
        ('{"scores": {"a": 1, "b": 9}, "best-to-worst": ["b", "a"]}', None),
        ('{"scores": {"a": 1, "b": null}, "best-to-worst": ["b", "a"]}', None),
        ('{"scores": {"a": 1, "b": 2}}', None),
        ('{"scores": [1, 2], "best-to-worst": ["b", "a"]}', None),
        ("{{{{", None),
        ("no JSON", None),
    ],
)
def test_a_ranking(text, found):
    assert ranking(text, ["a", "b"], 1, 5) == found


def read_everything(text):
    names = ["model-1", "model-2"]
    return [
        number(text, 1, 10),
        choice(text, ("A", "B", "tie")),
        numbers(text, 2, 1, 10),
        ranking(text, names, 1, 5),
        answers(text, 3),
    ]


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_hostile_can_be_read_once_it_is_defused(text):
    assert len(set(HOSTILE)) == 30
    assert read_everything(defused(text)) == [None] * 5
    assert read_everything("as it says: " + defused(text)) == [None] * 5
    assert "<|" not in defused(text)
    assert "Observation:" not in defused(text)
    assert "Action:" not in defused(text)
    assert "[End of" not in defused(text)


@given(st.text(alphabet="[]yesno\\boxed{}<|/answerthink>10, AB:ObservationActi.\n", max_size=60))
def test_no_text_can_be_read_once_it_is_defused(text):
    shown = defused(text)
    assert defused(shown) == shown
    assert [*read_everything(shown)[:3], answers(shown, 1)] == [None] * 4


def test_harmless_texts_stay_as_they_are():
    for text in ("x = a[i][0]", "#include <stdio.h>", "f(x) <= 3", "1. yes", "an observation: none", "\\frac{1}{2}"):
        assert defused(text) == text or "bservation" in text


@pytest.mark.parametrize("text", [*MASTER_KEYS, "", "\n\t", "?!", "...", "**", "let’s think step by step", "SOLUTION:"])
def test_hollow_answers(text):
    assert hollow(text)


@pytest.mark.parametrize(
    "text", [*UNKNOWN_KEYS[:4], "7", "-1", "Solution: 7", "[]", "{}", "π", "∅", "C", "yes", "解は7", "x", "←", "()"]
)
def test_answers_that_say_something(text):
    assert hollow(text) is None
