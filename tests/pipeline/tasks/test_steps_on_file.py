"""Answers with labels by step, and with several ratings: from files and from the laptop world."""

from __future__ import annotations

import json

import pytest

from pipeline.tasks.arithmetic import STEPS, Arithmetic, scratchpad
from pipeline.tasks.files import Columns, Files
from rewards.errors import Refused

ROW = {"q": "1+1=", "parts": ["one and one ", "is 2"], "good": [True, 0.5]}
COLUMNS = Columns(prompt="q", steps="parts", step_labels="good")


def load(folder, columns, *rows):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Files(str(path), columns).load(0).train


def test_the_steps_are_the_answer(tmp_path):
    (task,) = load(tmp_path, COLUMNS, ROW)
    (one,) = task.answers
    assert task.demonstration == one.text == "one and one is 2"
    assert (one.rating, one.steps, one.ends) == (0.5, (1.0, 0.5), (12, 16))
    assert task.meta == {}


def test_several_ratings(tmp_path):
    columns = Columns(prompt="q", demonstration="a", rating=("worth", "clear", "short"))
    (task,) = load(tmp_path, columns, {"q": "?", "a": "x", "worth": 4, "clear": 2, "short": True, "id": 7})
    (one,) = task.answers
    assert (one.rating, one.attributes) == (4.0, {"clear": 2.0, "short": 1.0})
    assert task.meta == {"id": 7}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"good": [1]}, "rows.jsonl:1: 2 steps in column 'parts', but 1 labels in 'good'"),
        ({"parts": "one"}, "rows.jsonl:1: column 'parts' (data.columns.steps) is text, expected a list"),
        ({"parts": []}, "rows.jsonl:1: column 'parts' (data.columns.steps) is an empty list"),
        ({"good": [1, "yes"]}, "rows.jsonl:1, step 2: column 'good' (data.columns.step_labels) is 'yes'"),
        ({"good": [1, -1]}, "rows.jsonl:1, step 2: label -1 in column 'good', expected 0 (wrong) to 1 (right)"),
        ({"parts": ["a", " "]}, "rows.jsonl:1, step 2: column 'parts' (data.columns.steps) is empty, expected text"),
    ],
)
def test_labels_that_contradict_their_steps_are_refused(tmp_path, change, line):
    with pytest.raises(Refused) as refused:
        load(tmp_path, COLUMNS, ROW | change)
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (Columns(prompt="q", steps="parts"), "data.columns.steps: given without data.columns.step_labels"),
        (Columns(prompt="q", steps="parts", step_labels="good", demonstration="q"), "with data.columns.demonstration"),
        (Columns(prompt="q", rating=("a", "b")), "nothing that data.columns.rating rates"),
    ],
)
def test_columns_that_do_not_go_together_are_refused(tmp_path, columns, line):
    with pytest.raises(Refused, match=line):
        load(tmp_path, columns, ROW)


def test_the_laptop_worlds_labels_are_arithmetics_truth():
    plain, labelled = Arithmetic(train=200, held_out=5).load(3), Arithmetic(train=200, held_out=5, steps=True).load(3)
    found = set()
    for before, task in zip(plain.train, labelled.train, strict=True):
        assert before.demonstration == task.demonstration
        (one,) = task.answers
        assert one.text == task.demonstration
        a, operation, b = (int(task.id[:2]), task.id[2], int(task.id[3:]))
        right = scratchpad(operation, a, b)
        assert len(one.steps) == len(one.ends) == 3
        wanted = [float(mine == truth) for mine, truth in zip(STEPS.texts(one.text), STEPS.texts(right), strict=True)]
        # After a wrong step nothing is right any more, whatever it says.
        wanted = [min(wanted[: k + 1]) for k in range(3)]
        assert list(one.steps) == wanted
        assert one.rating == float(one.text == right)
        assert one.attributes == {"steps": pytest.approx(sum(wanted) / 3)}
        found.add(one.steps)
    assert found == {(1, 1, 1), (1, 0, 0), (1, 1, 0)}


def test_of_a_pair_both_have_labels():
    for task in Arithmetic(train=50, held_out=5, pairs=True, steps=True).load(0).train:
        good, bad = task.answers
        assert min(good.steps) == 1 and min(bad.steps) == 0
