from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import pytest
from annotated_types import Gt
from pydantic import ValidationError

from pipeline.knobs import Knobs, PlugKnobs, knobs_from


@dataclass(frozen=True)
class Inner:
    """What is inside.

    depth  how deep,
           in metres
    """

    depth: Annotated[int, Gt(0)] = 3


@dataclass(frozen=True)
class Plug:
    """A thing that plugs in; it has
    a second line.

    size, weight  how much of it
    mode          slow or fast
    nothing here

    Not a table:  this is text.
    """

    size: int
    weight: float = 0.5
    mode: Literal["slow", "fast"] = "slow"
    inner: Inner = field(default_factory=Inner)


PLUG = knobs_from(Plug, kind="plug")


def test_a_plug_in_is_built_from_its_keys():
    section = PLUG.model_validate({"kind": "plug", "size": 4, "inner": {"depth": 7}})
    assert section.build() == Plug(4, 0.5, "slow", Inner(7))
    assert PLUG.model_validate({"kind": "plug", "size": 4}).build() == Plug(4)


def test_keys_are_described_by_the_docstrings_table():
    fields = PLUG.model_fields
    assert PLUG.__doc__ == "A thing that plugs in; it has a second line."
    assert fields["kind"].description == PLUG.__doc__
    assert fields["size"].description == fields["weight"].description == "how much of it"
    assert fields["mode"].description == "slow or fast"
    assert fields["inner"].description == "What is inside."
    assert knobs_from(Inner).model_fields["depth"].description == "how deep, in metres"


@pytest.mark.parametrize(
    ("given", "type_", "message"),
    [
        ({"kind": "plug"}, "missing", "Field required"),
        ({"kind": "plug", "size": 1, "sise": 2}, "unknown_key", "unknown key 'sise'; did you mean 'size'?"),
        ({"kind": "plug", "size": 1, 3: 2}, "unknown_key", "unknown key 3; expected one of"),
        ({"kind": "plug", "size": True}, "bool_as_number", "expected a number, found true"),
        ({"kind": "plug", "size": 1, "weight": False}, "bool_as_number", "expected a number, found false"),
        ({"kind": "plug", "size": 1, "weight": float("nan")}, "finite_number", "finite"),
        ({"kind": "plug", "size": 1, "inner": {"depth": 0}}, "greater_than", "greater than 0"),
    ],
)
def test_what_a_section_does_not_take(given, type_, message):
    with pytest.raises(ValidationError) as refused:
        PLUG.model_validate(given)
    (error,) = refused.value.errors()
    assert error["type"] == type_
    assert message in error["msg"]


def test_true_and_false_stay_where_they_belong():
    class Section(Knobs):
        on: bool = False
        share: float | None = None

    assert Section.model_validate({"on": True}).on is True
    with pytest.raises(ValidationError):
        Section.model_validate({"share": True})


def test_a_base_adds_its_keys_but_not_to_what_is_built():
    class Seat(PlugKnobs):
        chair: str = "wood"

    section = knobs_from(Plug, Seat, "plug").model_validate({"kind": "plug", "size": 1, "chair": "steel"})
    assert section.chair == "steel"
    assert section.build() == Plug(1)


@dataclass(frozen=True)
class Heavy(Plug):
    """A plug-in that is mostly another.

    load  what it carries
    """

    weight: float = 9.0
    load: int = 1

    def __post_init__(self) -> None:
        if self.load > self.weight:
            raise ValueError(f"load: {self.load}, expected at most weight, {self.weight:g}")


def test_what_a_plug_in_has_from_another_stands_there():
    heavy = knobs_from(Heavy, kind="heavy")
    made = heavy.model_validate({"kind": "heavy", "size": 4, "inner": {"depth": 7}})
    assert made.build() == Heavy(4, 9.0, "slow", Inner(7), 1)
    own = [key for key, field in heavy.model_fields.items() if key in heavy.__annotations__]
    assert sorted(own) == ["kind", "load", "weight"]
    assert heavy.model_fields["weight"].description == "how much of it"
    assert heavy.model_fields["load"].description == "what it carries"
    light = knobs_from(Plug, kind="plug")
    assert heavy.__mro__[1].model_fields.keys() == light.model_fields.keys() - {"kind"}


def test_keys_that_contradict_each_other_are_refused_as_the_plug_in_says():
    with pytest.raises(ValidationError, match="load: 10, expected at most weight, 9"):
        knobs_from(Heavy, kind="heavy").model_validate({"kind": "heavy", "size": 4, "load": 10})
