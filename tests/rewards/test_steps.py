"""Where steps end, and what a judge of steps may answer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.steps import Steps, step_score


@pytest.mark.parametrize(
    ("steps", "text", "texts"),
    [
        (Steps(), "a\n\nb\nc", ["a\n\n", "b\n", "c"]),
        (Steps(), "\n a\n \nb\n", ["\n a\n", " \nb\n"]),
        (Steps(tail=False), "a\nb", ["a\n"]),
        (Steps(), "", []),
        (Steps(), " \n ", []),
        (Steps("regex", "[,.]"), "7+8=15,4+3+1=8.85", ["7+8=15,", "4+3+1=8.", "85"]),
        (Steps("regex", "[,.]", tail=False), "7+8=15,4+3+1=8.85", ["7+8=15,", "4+3+1=8."]),
        (Steps("regex", "[,.]"), ",,1,", [",,1,"]),
        (
            Steps("tag", "step"),
            "so <step>a</step> and <step>b\nc</step> d",
            ["so <step>a</step>", " and <step>b\nc</step>"],
        ),
        (Steps("tag", "step"), "<step>a", []),
    ],
)
def test_steps_by_hand(steps, text, texts):
    assert steps.texts(text) == texts
    assert steps.ends(text).tolist() == np.cumsum([len(t) for t in texts], dtype=int).tolist()


@given(st.text(alphabet="ab,. \n<step>/", max_size=60), st.sampled_from(["line", "regex", "tag"]), st.booleans())
def test_steps_are_ascending_and_lie_in_the_text(text, by, tail):
    at = {"line": "", "regex": "[,.]", "tag": "step"}[by]
    ends = Steps(by, at, tail).ends(text)
    assert ends.dtype == np.int32
    assert (np.diff(ends) > 0).all()
    assert not len(ends) or (ends[0] > 0 and ends[-1] <= len(text))
    assert all(step.strip() for step in Steps(by, at, tail).texts(text))


@pytest.mark.parametrize(
    ("by", "at", "message"),
    [
        ("line", "x", "expected by: regex or by: tag"),
        ("regex", "", "needs `at`, the pattern"),
        ("tag", "", "needs `at`, the name of the tag"),
        ("regex", "(", "is no regular expression"),
        ("regex", "x*", "matches the empty text"),
    ],
)
def test_a_splitter_that_can_not_split_is_refused(by, at, message):
    with pytest.raises(ValueError, match=message):
        Steps(by, at)


def test_what_a_judge_of_steps_answers():
    ends = np.array([3, 7], np.int32)
    score = step_score([0.5, 1.0], ends, "first is vague")
    assert (score.value, score.explanation) == (0.75, "first is vague")
    assert score.steps is not None and score.steps.tolist() == [0.5, 1.0] and score.steps.dtype == np.float32
    assert score.ends is ends
    assert str(step_score([], ends[:0]).failure) == "source abstained: no step found in the answer"
    assert str(step_score([1.0], ends).failure) == "source malformed: 1 step rewards for 2 steps"
    assert str(step_score([1.0, np.nan], ends).failure) == "source malformed: a step reward is not finite"
