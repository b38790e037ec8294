"""Rows with answers to compare: every form they come in, and what is wrong with one, with its file and line."""

import json

import pytest

from pipeline.tasks.files import Columns, Files
from rewards.errors import Refused
from rewards.types import Message, Rated

WHOLE = Columns(chosen="good", rejected="bad")
PAIR = Columns(prompt="q", chosen="good", rejected="bad")


def jsonl(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def load(tmp_path, columns, *rows, **keys):
    return Files(jsonl(tmp_path / "pairs.jsonl", *rows), columns, **keys).load(0).train


def refusal(tmp_path, columns, *rows):
    with pytest.raises(Refused) as refused:
        load(tmp_path, columns, *rows)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def chat(*turns):
    return [{"role": role, "content": content} for role, content in turns]


def test_answers_beside_their_prompt(tmp_path):
    rows = [{"q": "1+1?", "good": "2", "bad": "3", "n": 7}, {"q": "x", "good": chat(("assistant", "y")), "bad": "z"}]
    first, second = load(tmp_path, PAIR, *rows)
    assert first.messages == (Message("user", "1+1?"),)
    assert first.answers == (Rated("2", 1.0), Rated("3", 0.0))
    assert first.demonstration == "2"
    assert first.meta == {"n": 7}
    assert second.answers == (Rated("y", 1.0), Rated("z", 0.0))


def test_answers_after_messages(tmp_path):
    columns = Columns(messages="m", chosen="good", rejected="bad", chosen_rating="g", rejected_rating="b")
    row = {
        "m": chat(("user", "hi"), ("assistant", "yes?"), ("user", "1+1?")),
        "good": "2",
        "bad": "3",
        "g": 4,
        "b": "-1",
    }
    (task,) = load(tmp_path, columns, row, system="Be brief.")
    assert [message.role for message in task.messages] == ["system", "user", "assistant", "user"]
    assert task.answers == (Rated("2", 4.0), Rated("3", -1.0))


def test_whole_conversations(tmp_path):
    start = [("system", "s"), ("user", "1+1?")]
    row = {"good": chat(*start, ("assistant", "2")), "bad": chat(*start, ("assistant", "3"))}
    (task,) = load(tmp_path, WHOLE, row)
    assert task.messages == (Message("system", "s"), Message("user", "1+1?"))
    assert task.answers == (Rated("2", 1.0), Rated("3", 0.0))


@pytest.mark.parametrize(
    ("good", "bad", "prompt"),
    [
        ("Human: a?\n\nAssistant: yes it is", "Human: a?\n\nAssistant: no", "Human: a?\n\nAssistant:"),
        ("Human: a?\n\nAssistant: I am", "Human: a?\n\nAssistant: It is", "Human: a?\n\nAssistant:"),
        ("Human: a?\n\nAssistant: the end", "Human: a?\n\nAssistant: the", "Human: a?\n\nAssistant: the"),
        ("Human: a?\n\nAssistant:", "Human: a?\n\nAssistant: no", "Human: a?\n\nAssistant:"),
        ("q\nyes", "q\nno", "q\n"),
    ],
)
def test_whole_texts_share_their_beginning(tmp_path, good, bad, prompt):
    (task,) = load(tmp_path, WHOLE, {"good": good, "bad": bad})
    assert task.messages == (Message("user", prompt),)
    assert [prompt + answer.text for answer in task.answers] == [good, bad]


def test_single_answers_with_their_rating(tmp_path):
    columns = Columns(prompt="q", demonstration="a", rating="ok")
    rows = [{"q": "?", "a": "x", "ok": ok} for ok in (True, False, 0.5, "true", "-2")]
    assert [task.answers for task in load(tmp_path, columns, *rows)] == [
        (Rated("x", rating),) for rating in (1.0, 0.0, 0.5, 1.0, -2.0)
    ]


GOOD = {"q": "?", "good": "a", "bad": "b"}


@pytest.mark.parametrize(
    ("columns", "row", "said"),
    [
        (PAIR, {**GOOD, "bad": "a"}, "the chosen and the rejected answer are equal ('a'), expected two"),
        (PAIR, {**GOOD, "bad": None}, "column 'bad' (data.columns.rejected) is null, expected text"),
        (PAIR, {**GOOD, "bad": " "}, "column 'bad' (data.columns.rejected) is empty"),
        (PAIR, {"q": "?", "good": "a", "bda": "b"}, "no column 'bad' (data.columns.rejected), did you mean 'bda'?"),
        (PAIR, {**GOOD, "good": chat(("user", "a"))}, "column 'good' (data.columns.chosen) is a list of 1, expected"),
        (PAIR, {**GOOD, "good": []}, "column 'good' (data.columns.chosen) is an empty list, expected messages"),
        (WHOLE, {"good": "yes", "bad": "no"}, "columns 'good' and 'bad' have no common beginning"),
        (WHOLE, {"good": "q a", "bad": "q a"}, "the chosen and the rejected answer are equal"),
        (
            WHOLE,
            {"good": "q a", "bad": chat(("user", "q"))},
            "column 'good' is text and 'bad' a list, expected both alike",
        ),
        (
            WHOLE,
            {"good": chat(("user", "q"), ("assistant", "a")), "bad": chat(("user", "p"), ("assistant", "b"))},
            "columns 'good' and 'bad' differ before their last message, expected one prompt",
        ),
        (
            WHOLE,
            {"good": chat(("user", "q"), ("assistant", "a")), "bad": chat(("user", "q"))},
            "column 'bad' ends with no message of the assistant's, expected the answer",
        ),
        (
            Columns(prompt="q", chosen="good", rejected="bad", chosen_rating="g", rejected_rating="b"),
            {**GOOD, "g": 1, "b": 2},
            "the chosen answer is rated 1 and the rejected one 2, expected the chosen one's rating above the other's",
        ),
        (
            Columns(prompt="q", demonstration="good", rating="r"),
            {**GOOD, "r": "fine"},
            "column 'r' (data.columns.rating) is 'fine', expected a number or true/false",
        ),
    ],
)
def test_a_row_that_is_no_pair_is_refused_with_its_line(tmp_path, columns, row, said):
    fine = {"q": "?", "good": "q a", "bad": "q b", "g": 2, "b": 1, "r": 1}
    message = refusal(tmp_path, columns, fine, row)
    assert message.startswith(f"{tmp_path}/pairs.jsonl:2: {said}")


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (Columns(prompt="q", chosen="good"), "data.columns.chosen: given without data.columns.rejected"),
        (Columns(prompt="q", rejected="bad"), "data.columns.rejected: given without data.columns.chosen"),
        (Columns(prompt="q", messages="m", chosen="good", rejected="bad"), "data.columns: both of prompt and messages"),
        (Columns(prompt="q", chosen="g", rejected="b", demonstration="d"), "data.columns.demonstration: given with"),
        (Columns(prompt="q", chosen_rating="g", rejected_rating="b"), "data.columns.chosen_rating: given without"),
        (Columns(prompt="q", chosen="g", rejected="b", chosen_rating="r"), "data.columns.chosen_rating: given without"),
    ],
)
def test_columns_that_contradict_each_other_are_refused(tmp_path, columns, said):
    assert refusal(tmp_path, columns, GOOD).startswith(said)


def test_a_rating_of_nothing_is_refused(tmp_path):
    message = refusal(tmp_path, Columns(prompt="q", rating="r"), {"q": "?", "r": 1})
    assert message.endswith("nothing that data.columns.rating rates; name data.columns.demonstration")


def test_hh_rlhf_pairs(data_dir):
    files = Files(
        f"{data_dir}/hh_rlhf/harmless_base.jsonl.gz", Columns(chosen="chosen", rejected="rejected"), held_out=400
    )
    sets = files.load(0)
    assert (len(sets.train), len(sets.held_out)) == (1228, 400)
    for task in (*sets.train, *sets.held_out):
        assert task.messages[0].content.lstrip().startswith("Human:")
        assert "\n\nHuman:" not in task.answers[0].text + task.answers[1].text
