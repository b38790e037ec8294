from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.tasks.arithmetic import Arithmetic, scratchpad
from rewards.errors import Refused


@pytest.mark.parametrize(
    ("task", "text"),
    [
        ("47+38", "7+8=15,4+3+1=8.85"),
        ("42+37", "2+7=9,4+3+0=7.79"),
        ("78+64", "8+4=12,7+6+1=14.142"),
        ("52-38", "12-8=4,5-3-1=1.14"),
        ("58-32", "8-2=6,5-3-0=2.26"),
        ("52-48", "12-8=4,5-4-1=0.4"),
        ("402-307", "12-7=5,10-0-1=9,4-3-1=0.95"),
        ("33-33", "3-3=0,3-3-0=0.0"),
    ],
)
def test_the_scratchpads_shown_in_the_docstring(task, text):
    operation = "+" if "+" in task else "-"
    a, b = map(int, task.split(operation))
    assert scratchpad(operation, a, b) == text


@given(st.integers(1, 6), st.sampled_from("+-"), st.data())
def test_a_sound_scratchpad_is_true_in_every_step_and_ends_in_the_answer(digits, operation, data):
    number = st.integers(10 ** (digits - 1), 10**digits - 1)
    a, b = data.draw(number), data.draw(number)
    if operation == "-":
        a, b = max(a, b), min(a, b)
    steps, answer = scratchpad(operation, a, b).rsplit(".", 1)
    assert int(answer) == (a + b if operation == "+" else a - b)
    assert answer == str(int(answer))
    equations = [step.split("=") for step in steps.split(",")]
    assert len(equations) == digits
    assert all(eval(left) == int(right) and int(right) >= 0 for left, right in equations)


def test_the_teachers_flaws():
    assert scratchpad("+", 47, 38, kept=(False,)) == "7+8=15,4+3+0=7.75"
    assert scratchpad("-", 52, 38, kept=(False,)) == "12-8=4,5-3-0=2.24"
    assert scratchpad("-", 52, 38, backwards=True) == "12-8=4,5-3-1=1.41"
    assert scratchpad("+", 42, 37, kept=(False,)) == scratchpad("+", 42, 37)


def test_sets_are_disjoint_half_and_half_and_the_same_for_the_same_seed():
    data = Arithmetic(train=2000, held_out=300)
    sets = data.load(seed=3)
    assert (len(sets.train), len(sets.held_out)) == (2000, 300)
    ids = [task.id for task in (*sets.train, *sets.held_out)]
    assert len(set(ids)) == 2300
    assert Counter(task.meta["operation"] for task in (*sets.train, *sets.held_out)) == {"+": 1150, "-": 1150}
    for task in sets.held_out:
        assert task.messages[0].content == f"{task.id}="
        assert task.reference == str(eval(task.id)) and int(task.reference) >= 0
    assert data.load(seed=3) == sets
    assert data.load(seed=4).train != sets.train


def test_flaws_come_as_often_as_they_are_set():
    right = Arithmetic(slip=0.0, reverse=0.0).load(0).train
    assert all(task.demonstration.rsplit(".", 1)[1] == task.reference for task in right)
    flawed = Arithmetic().load(0).train
    slipped = [
        task.demonstration.rsplit(".", 1)[1] != task.reference
        for task in flawed
        if task.meta == {"operation": "+", "carries": 1}
    ]
    assert sum(slipped) / len(slipped) == pytest.approx(0.8, abs=0.04)
    backwards = [
        task.demonstration.rsplit(".", 1)[1] == task.reference[::-1]
        for task in flawed
        if task.meta == {"operation": "-", "carries": 0} and task.reference != task.reference[::-1]
    ]
    assert sum(backwards) / len(backwards) == pytest.approx(0.8, abs=0.04)


def test_every_pair_there_is_can_be_asked_for_and_not_one_more():
    sets = Arithmetic(digits=1, train=80, held_out=10).load(0)
    pairs = {task.id for task in (*sets.train, *sets.held_out) if "-" in task.id}
    assert pairs == {f"{a}-{b}" for a in range(1, 10) for b in range(1, a + 1)}
    with pytest.raises(Refused, match="91 tasks, expected at most 90"):
        Arithmetic(digits=1, train=81, held_out=10).load(0)


def test_long_operands_need_no_more_memory():
    sets = Arithmetic(digits=9, train=20, held_out=5).load(0)
    assert all(len(task.id) == 19 and task.reference == str(eval(task.id)) for task in sets.train)


def test_pairs_hold_a_right_answer_and_a_wrong_one():
    tasks = Arithmetic(train=900, held_out=100, pairs=True).load(1).train
    plain = Arithmetic(train=900, held_out=100).load(1).train
    assert [replace(task, answers=()) for task in tasks] == list(plain)
    for task in tasks:
        right, wrong = task.answers
        assert right.text.rpartition(".")[2] == task.reference
        assert wrong.text.rpartition(".")[2] != task.reference
        assert (right.rating, wrong.rating) == (1.0, 0.0)
    assert sum(task.answers[1].text == task.demonstration for task in tasks) > 300


def test_flipped_pairs_are_rated_the_wrong_way_round_as_often_as_asked_and_never_held_out():
    plain, flipped = (Arithmetic(train=900, held_out=100, pairs=True, flipped=f).load(1) for f in (0.0, 0.4))
    assert flipped.held_out == plain.held_out
    wrong = []
    for task, right in zip(flipped.train, plain.train, strict=True):
        assert [one.rating for one in task.answers] == [1.0, 0.0]
        wrong.append(task.answers[0].text == right.answers[1].text)
        texts = [one.text for one in right.answers]
        assert [one.text for one in task.answers] == (texts[::-1] if wrong[-1] else texts)
    assert sum(wrong) / len(wrong) == pytest.approx(0.4, abs=0.05)
    with pytest.raises(ValueError, match=r"flipped: 0\.4 without pairs"):
        Arithmetic(flipped=0.4)
