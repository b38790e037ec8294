"""The ground that the config stands on: strict models, models made from plug-in dataclasses, and one-line refusals.

A plug-in (a reward source, an algorithm, a data kind) is a plain frozen dataclass; its fields become config keys by
`knobs_from`, so that adding one needs no second class. Light: imports neither torch nor Ray.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, create_model, model_validator
from pydantic_core import PydanticCustomError

from rewards.errors import Refused, nearest


class Knobs(BaseModel):
    """A section of the config: frozen, typed, and without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, given: Any) -> Any:
        if isinstance(given, Mapping):
            for key in given:
                if key not in cls.model_fields:
                    context = {"key": repr(key), "hint": nearest(str(key), cls.model_fields)}
                    raise PydanticCustomError("unknown_key", "unknown key {key}; {hint}", context)
        return given


class PlugKnobs(Knobs):
    """The config of a plug-in; `build` makes the plug-in itself."""

    def build(self) -> Any:
        plug = _PLUGS[type(self)]
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(plug)}
        return plug(**{name: v.build() if isinstance(v, PlugKnobs) else v for name, v in values.items()})


_PLUGS: dict[type, type] = {}


def knobs_from(plug: type, base: type[Knobs] = PlugKnobs, kind: str | None = None) -> type[Any]:
    """A config model with the dataclass's fields, and a literal `kind` where one is given."""
    hints = typing.get_type_hints(plug, include_extras=True)
    fields: dict[str, Any] = {"kind": (typing.Literal[kind], ...)} if kind else {}
    for field in dataclasses.fields(plug):
        hint = hints[field.name]
        default: Any = ...
        if field.default is not dataclasses.MISSING:
            default = field.default
        elif field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if dataclasses.is_dataclass(hint):
            hint = knobs_from(typing.cast(type, hint))
            default = hint() if default is not ... else ...
        fields[field.name] = (hint, default)
    bases = base if issubclass(base, PlugKnobs) else (base, PlugKnobs)
    model = create_model(plug.__name__, __base__=bases, __doc__=inspect.getdoc(plug), **fields)
    _PLUGS[model] = plug
    return model


def read_yaml(path: Path) -> dict[str, Any]:
    """The file's mapping. Raises `Refused` with file and line."""
    if not path.is_file():
        folder = path.parent if path.parent.is_dir() else Path()
        names = [p.name for p in folder.glob("*.y*ml")]
        hint = nearest(path.name, names) if names else f"no YAML file in {folder}"
        raise Refused(f"config {path} does not exist; {hint}")
    try:
        data = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise Refused(f"{where}: not YAML: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(data, dict):
        raise Refused(f"{path}: expected a mapping of keys, found {type(data).__name__}")
    return data


def override(data: dict[str, Any], assignments: Sequence[str]) -> None:
    """Apply `key.path=value` to the mapping in place; values are read as YAML."""
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not re.fullmatch(r"[\w.\-]+", path):
            raise Refused(f"override {assignment!r}: expected key.path=value")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise Refused(f"override {assignment!r}: the value is not YAML") from None
        *parents, last = path.split(".")
        here = data
        for i, key in enumerate(parents):
            here = here.setdefault(key, {})
            if not isinstance(here, dict):
                raise Refused(f"override {assignment!r}: {'.'.join(parents[: i + 1])} is not a section")
        here[last] = value


def refusal(error: ValidationError, data: Any, where: str) -> Refused:
    """The first thing wrong with the config, in one line: key path, what was found, what was expected."""
    first, *others = error.errors()
    path = ".".join(_path(first["loc"], data, keep_last=first["type"] in ("missing", "union_tag_not_found")))
    message = first["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    found = ""
    if first["type"] not in ("missing", "unknown_key", "value_error") and not isinstance(first["input"], Mapping):
        found = f", found {first['input']!r}"
    if first["type"] == "missing":
        message = "this key is needed"
    if first["type"] == "union_tag_invalid":
        context = first.get("ctx", {})
        valid = re.findall(r"'([^']+)'", context.get("expected_tags", ""))
        message, found = f"unknown kind {context.get('tag')!r}; {nearest(str(context.get('tag')), valid)}", ""
    if first["type"] == "union_tag_not_found":
        message = "this section needs a `kind`"
    more = f" (and {len(others)} more)" if others else ""
    return Refused(f"{where}: {path + ': ' if path else ''}{message}{found}{more}")


def _path(loc: tuple[int | str, ...], data: Any, keep_last: bool) -> list[str]:
    """The location as the user wrote it: pydantic also names union members, which are no keys."""
    out: list[str] = []
    for i, part in enumerate(loc):
        inside = (isinstance(data, Mapping) and part in data) or (
            isinstance(data, list) and isinstance(part, int) and part < len(data)
        )
        if inside:
            data = data[part]  # pyright: ignore[reportArgumentType, reportCallIssue]
            out.append(str(part))
        elif keep_last and i == len(loc) - 1:
            out.append(str(part))
    return out
