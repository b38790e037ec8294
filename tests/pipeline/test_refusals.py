from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError

from pipeline.knobs import Knobs
from pipeline.refusals import refusal, said


class Cat(Knobs):
    kind: Literal["cat"]
    lives: int


class Dog(Knobs):
    kind: Literal["dog"]
    tricks: tuple[str, ...] = ()


class House(Knobs):
    pets: dict[str, Annotated[Cat | Dog, Field(discriminator="kind")]] = Field(default_factory=dict)
    size: float = 1.0
    rooms: int


def line(data):
    with pytest.raises(ValidationError) as error:
        House.model_validate(data)
    return str(refusal(error.value, data, "house.yaml", {"rooms": " (count them)"}))


def test_the_path_is_the_one_that_the_user_wrote():
    """pydantic puts the union's member into the location; a key may have that very name."""
    assert line({"rooms": 1, "pets": {"cat": {"kind": "cat", "lives": "all"}}}) == (
        "house.yaml: pets.cat.lives: expected a whole number, found 'all'"
    )
    assert line({"rooms": 1, "pets": {"rex": {"kind": "dog", "tricks": ["sit", 4]}}}) == (
        "house.yaml: pets.rex.tricks.1: expected text, found 4"
    )
    assert line({"rooms": 1, "pets": {"tom": {"kind": "cat"}}}) == "house.yaml: pets.tom.lives: this key is needed"


def test_what_is_missing():
    assert line({}) == "house.yaml: rooms: this key is needed (count them)"
    assert line({"rooms": 1, "pets": {"tom": {}}}) == "house.yaml: pets.tom: this section needs the key `kind`"


def test_an_unknown_kind_is_told_with_the_nearest():
    assert line({"rooms": 1, "pets": {"tom": {"kind": "kat"}}}) == (
        "house.yaml: pets.tom: unknown kind 'kat'; did you mean 'cat'?"
    )


def test_several_mistakes_are_counted_once_each():
    wrong = {"kind": "cat", "lives": "all"}
    assert line({"rooms": 1, "pets": {"a": wrong, "b": wrong}}).endswith("found 'all'")
    assert line({"rooms": "x", "size": "y", "pets": {"a": wrong, "b": wrong}}).endswith("found 'all' (and 2 more)")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "nothing"),
        (True, "true"),
        ("x", "'x'"),
        (0.5, "0.5"),
        ([], "an empty list"),
        ([1, 2], "a list of 2"),
        ({}, "an empty section"),
        ({"a": 1, "b": 2}, "a section with a, b"),
    ],
)
def test_values_in_words(value, words):
    assert said(value) == words
