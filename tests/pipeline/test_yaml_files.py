from __future__ import annotations

import pytest

from pipeline.yaml_files import override, read_yaml
from rewards.errors import Refused


def read(folder, text):
    path = folder / "a.yaml"
    path.write_text(text)
    return read_yaml(path)


def test_numbers_with_an_exponent_are_numbers(tmp_path):
    assert read(tmp_path, "a: 1e-3\nb: -2E6\nc: 1.5e3\nd: 4.0e-3\ne: 1e\nf: e3\n") == {
        "a": 1e-3,
        "b": -2e6,
        "c": 1.5e3,
        "d": 4e-3,
        "e": "1e",
        "f": "e3",
    }


def test_a_key_stands_once_in_its_section(tmp_path):
    assert read(tmp_path, "a: {x: 1}\nb: {x: 2}\n") == {"a": {"x": 1}, "b": {"x": 2}}
    with pytest.raises(Refused, match=r"a\.yaml:4: not YAML: key 'x' stands in line 2 already"):
        read(tmp_path, "a:\n  x: 1\n  y: 2\n  x: 3\n")
    with pytest.raises(Refused, match=r"a\.yaml:1: not YAML: key 'x' stands in line 1 already"):
        read(tmp_path, "a: {x: 1, x: 2}\n")


def test_the_line_says_where_the_section_began(tmp_path):
    with pytest.raises(Refused, match=r"a\.yaml:3: not YAML: .* that began in line 1\)"):
        read(tmp_path, "a: [1,\n  2\nb: 3\n")


def test_anchors_work(tmp_path):
    found = read(tmp_path, "base: &base {x: 1}\na: *base\n")
    assert found["a"] == {"x": 1}


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("a.x=5", {"a": {"x": 5}, "b": None}),
        ("a.y.z=[1, two]", {"a": {"x": 1, "y": {"z": [1, "two"]}}, "b": None}),
        ("b.c=1e-3", {"a": {"x": 1}, "b": {"c": 1e-3}}),
        ("a=", {"a": None, "b": None}),
        ("a.x=k=v", {"a": {"x": "k=v"}, "b": None}),
        ("a={x: 2}", {"a": {"x": 2}, "b": None}),
        ("n-1.x_2='3'", {"a": {"x": 1}, "b": None, "n-1": {"x_2": "3"}}),
    ],
)
def test_an_override_sets_one_key(assignment, expected):
    data = {"a": {"x": 1}, "b": None}
    override(data, [assignment])
    assert data == expected


def test_later_overrides_win():
    data = {}
    override(data, ["a.x=1", "a={y: 1}", "a.x=2"])
    assert data == {"a": {"y": 1, "x": 2}}


@pytest.mark.parametrize("assignment", ["", "a", "=1", ".a=1", "a.=1", "a b=1", "a.x.y=1", "a={"])
def test_what_is_no_override(assignment):
    with pytest.raises(Refused, match="override"):
        override({"a": {"x": 1}}, [assignment])
