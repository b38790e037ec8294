"""From a YAML file and overrides to one mapping, or to a line that says where it is malformed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from pipeline.refusals import said
from rewards.errors import Refused, nearest


class Loader(yaml.SafeLoader):
    """YAML in which a key stands once and 1e-3 is a number (YAML 1.1 has it that it is text)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[str, int] = {}
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="expected a name as key", problem_mark=key_node.start_mark)
            if key_node.value in seen:
                problem = f"key {key_node.value!r} stands in line {seen[key_node.value]} already"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key_node.start_mark)
            seen[key_node.value] = key_node.start_mark.line + 1
        return super().construct_mapping(node, deep)


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(?:\.\d*)?[eE][-+]?\d+\Z"), list("-+0123456789")
)


def read_yaml(path: Path) -> dict[str, Any]:
    """The file's mapping. Raises `Refused` with file and line."""
    if path.is_dir():
        raise Refused(f"config {path} is a directory, expected a YAML file")
    if not path.is_file():
        folder = path.parent
        names = [p.name for p in folder.glob("*.y*ml")] if folder.is_dir() else []
        hint = nearest(path.name, names) if names else f"there is no YAML file in {folder}"
        raise Refused(f"config {path} does not exist; {hint}")
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader)
    except yaml.YAMLError as error:
        raise Refused(_not_yaml(path, error)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"config {path} can't be read: {error}") from None
    if not isinstance(data, dict):
        raise Refused(f"{path}: expected a mapping of keys, found {said(data)}")
    return data


def _not_yaml(path: Path, error: yaml.YAMLError) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None:
        return f"{path}: not YAML: {error}"
    problem = str(problem).replace("character '\\t' that cannot start any token", "a tab, expected spaces")
    # Where the section began is often nearer to the mistake than where the parser stumbled.
    began, context = getattr(error, "context_mark", None), getattr(error, "context", None)
    since = f" ({context} that began in line {began.line + 1})" if context and began and began.line < mark.line else ""
    return f"{path}:{mark.line + 1}: not YAML: {problem}{since}"


def override(data: dict[str, Any], assignments: Sequence[str]) -> None:
    """Apply `key.path=value` to the mapping in place; values are read as YAML."""
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not re.fullmatch(r"[\w\-]+(\.[\w\-]+)*", path):
            raise Refused(f"override {assignment!r}: expected key.path=value")
        try:
            value = yaml.load(text, Loader)
        except yaml.YAMLError as error:
            raise Refused(
                f"override {assignment!r}: the value is not YAML ({getattr(error, 'problem', error)})"
            ) from None
        assign(data, path, value, f"override {assignment!r}")


def assign(data: dict[str, Any], path: str, value: Any, where: str) -> None:
    """Set `key.path` of the mapping in place; sections that are not there yet are made."""
    *parents, last = path.split(".")
    here = data
    for i, key in enumerate(parents):
        if here.get(key) is None:
            here[key] = {}
        here = here[key]
        if not isinstance(here, dict):
            raise Refused(f"{where}: {'.'.join(parents[: i + 1])} is {said(here)}, not a section of keys")
    here[last] = value
