"""Judges of steps beside labelled steps, counted by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pipeline.lab.labelled import read_labelled
from pipeline.lab.stepcard import step_card
from rewards.errors import Refused
from rewards.types import Score

STEPS = ["2+2=4\n", "4+1=6\n", "6."]


def rows(tmp_path, *answers):
    path = tmp_path / "steps.jsonl"
    path.write_text(json.dumps({"prompt": "2+2+1=", "answers": list(answers)}))
    return read_labelled(path)


def judged(values, ends=(6, 12, 14)):
    return Score(float(np.mean(values)), np.array(values, np.float32), ends=np.array(ends, np.int32))


def test_an_answer_is_its_steps_and_as_good_as_the_worst_of_them(tmp_path):
    [row] = rows(tmp_path, {"steps": STEPS, "step_labels": [1, 0, False]}, {"text": "5", "label": 1})
    assert row.texts == ("2+2=4\n4+1=6\n6.", "5") and row.labels == (0.0, 1.0)
    assert row.steps == ((1, 0, 0), ()) and row.ends == ((6, 12, 14), ())
    [row] = rows(tmp_path, {"steps": STEPS, "step_labels": [1, 1, 1], "label": 0.25})
    assert row.labels == (0.25,)


def test_the_card_is_what_was_counted(tmp_path):
    labels = [1, 0, 0], [1, 1, 1], [1, 1, 0], [1, 1, 1]
    given = rows(tmp_path, *({"steps": STEPS, "step_labels": one} for one in labels))
    scores = [judged([0.9, 0.2, 0.8]), judged([0.9, 0.8, 0.7]), judged([0.9, 0.3, 0.1]), judged([0.6, 0.4, 0.9])]
    found = step_card(given, [scores], (0.0, 1.0))
    assert found is not None
    assert (found["answers"], found["steps"], found["elsewhere"]) == (4, 12, 0)
    assert found["right"]["value"] == pytest.approx(9 / 12)
    assert found["first_wrong"]["value"] == 1 / 2  # the third answer's is named too early
    assert found["none_wrong"]["value"] == 1 / 2
    assert found["f1"] == pytest.approx(1 / 2)
    good, bad = [0.9, 0.9, 0.8, 0.7, 0.9, 0.3, 0.6, 0.4, 0.9], [0.2, 0.8, 0.1]
    above = np.mean([(g > b) + 0.5 * (g == b) for g in good for b in bad])
    assert found["auc"]["value"] == pytest.approx(above)


def test_without_a_middle_only_the_auc_is_said(tmp_path):
    given = rows(tmp_path, {"steps": STEPS, "step_labels": [1, 0, 0]})
    found = step_card(given, [[judged([3.0, -1.0, -2.0])]], None)
    assert found is not None and found["auc"]["value"] == 1.0
    assert found["right"] is found["f1"] is None


def test_steps_that_end_elsewhere_are_counted_not_compared(tmp_path):
    given = rows(tmp_path, {"steps": STEPS, "step_labels": [1, 0, 0]})
    found = step_card(given, [[judged([0.9, 0.9], ends=(6, 14))]], (0.0, 1.0))
    assert found is not None and (found["answers"], found["elsewhere"], found["auc"]) == (0, 1, None)
    assert step_card(given, [[Score(0.5)]], (0.0, 1.0)) is None, "no judge of steps"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"steps": STEPS}, ":1: answer 1 has no `step_labels`: expected one for each of its steps"),
        ({"steps": STEPS, "step_labels": [1]}, ":1: answer 1: 3 steps in column 'steps', but 1 labels"),
        (
            {"steps": STEPS, "step_labels": [1, 2, 1]},
            "label 2 in column 'step_labels', expected 0 (wrong) to 1 (right)",
        ),
        ({"steps": STEPS, "step_labels": [1, 1, 1], "label": "good"}, ":1: answer 1 has no label"),
        ({}, ":1: answer 1: expected `text` and `label`, or `steps` and `step_labels`, found an empty section"),
    ],
)
def test_steps_without_labels_are_refused_in_one_line(tmp_path, answer, said):
    with pytest.raises(Refused) as refused:
        rows(tmp_path, answer)
    assert said in str(refused.value)
