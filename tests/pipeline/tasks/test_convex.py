"""ConvexDA: what is misspelt, what lies on the border, and what a task looks like afterwards."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from tiny_run import TINY

from pipeline.assemble import tasks_of
from pipeline.config import parse_config
from pipeline.tasks import TaskSets
from pipeline.tasks.convex import Convex, augmented, border, misspelt
from rewards.types import Message, Rated, Task

TEXT = "the quick brown fox jumps over the lazy dog and runs away from all of it at once because it can"


def test_as_many_words_are_misspelt_as_asked_each_by_one_letter():
    for seed in range(50):
        written = misspelt(TEXT, 0.25, np.random.default_rng(seed)).split()
        changed = [(a, b) for a, b in zip(TEXT.split(), written, strict=True) if a != b]
        assert 1 <= len(changed) <= 5  # of 20; two letters that are exchanged may be the same
        for before, after in changed:
            assert abs(len(before) - len(after)) <= 1 and set(after) <= set(before)
    assert misspelt("? !", 1.0, np.random.default_rng(0)) == "? !"
    assert len({misspelt("word", 0.01, np.random.default_rng(seed)) for seed in range(20)}) > 3


def test_the_border_is_the_hull_on_the_two_main_axes():
    """Texts in a plane: counts of two words; one in the middle of the others is left out."""
    corners = [" ".join(["a"] * x + ["b"] * y) for x, y in ((9, 0), (0, 9))]
    assert border([*corners, "c c c c c c c c c", "a a a b b b c c c"]) == [0, 1, 2]
    assert border(["a", "b"]) == [0, 1] and border(["a"]) == [0]
    assert len(border(["x a", "x b", "x c", "x d"])) >= 3
    assert border(["same"] * 4) == [0], "one point"


def test_worse_answers_come_again_and_rank_as_they_did():
    answers = (Rated("right at last, no doubt", 3.0), Rated(TEXT, 1.0), Rated("no idea", 0.0))
    task = Task("t", (Message("user", "q"),), answers=answers)
    sets = TaskSets((task,), (task,))
    found = augmented(sets, Convex(), 7)
    assert found.held_out == sets.held_out and found == augmented(sets, Convex(), 7)
    assert found.train != augmented(sets, Convex(), 8).train
    texts = [one.text for one in found.train[0].answers]
    ratings = [one.rating for one in found.train[0].answers]
    assert texts[0] == answers[0].text and ratings == sorted(ratings, reverse=True)
    assert ratings.count(3.0) == 1 and 2 <= ratings.count(1.0) <= 6 and ratings.count(0.0) >= 2
    assert len(set(texts)) == len(texts) and {TEXT, "no idea"} <= set(texts)


def test_a_config_can_ask_for_it():
    data = yaml.safe_load(TINY)
    stage = {"kind": "reward_model", "steps": 1, "groups_per_step": 2, "data": data["data"] | {"pairs": True}}
    plain = stage | {"algorithm": {"kind": "bradley_terry"}}
    data["stages"] = {
        "plain": plain,
        "more": stage | {"algorithm": {"kind": "bradley_terry", "augment": {"copies": 3}}},
    }
    found = tasks_of(parse_config(data, "tiny.yaml"))
    assert all(len(task.answers) == 2 for task in found["plain"].train)
    assert np.mean([len(task.answers) for task in found["more"].train]) > 3
    assert found["more"].held_out == found["plain"].held_out
    with pytest.raises(Exception, match="copies"):
        parse_config(
            data | {"stages": {"more": stage | {"algorithm": {"kind": "bradley_terry", "augment": {"copies": 0}}}}}, "x"
        )
