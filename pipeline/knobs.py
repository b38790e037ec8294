"""The ground that the config stands on: strict models, and models made from plug-in dataclasses.

A plug-in (a reward source, an algorithm, a data kind) is a plain frozen dataclass; its fields become config keys by
`knobs_from`, so that adding one needs no second class. Light: imports neither torch nor Ray.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import typing
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator
from pydantic_core import PydanticCustomError

from pipeline.refusals import said
from rewards.errors import nearest


class Knobs(BaseModel):
    """A section of the config: frozen, typed, and without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, given: Any) -> Any:
        if isinstance(given, Mapping):
            for key, value in given.items():
                if key not in cls.model_fields:
                    context = {"key": repr(key), "hint": nearest(str(key), cls.model_fields)}
                    raise PydanticCustomError("unknown_key", "unknown key {key}; {hint}", context)
                hint = cls.model_fields[key].annotation
                if isinstance(value, bool) and {int, float} & {hint, *typing.get_args(hint)}:  # pydantic makes it 1
                    context = {"key": key, "found": said(value)}
                    raise PydanticCustomError("bool_as_number", "expected a number, found {found}", context)
        return given


class PlugKnobs(Knobs):
    """The config of a plug-in; `build` makes the plug-in itself."""

    @model_validator(mode="after")
    def _agree(self) -> PlugKnobs:
        """What the plug-in refuses of keys that are each allowed (a `ValueError` of its `__post_init__`)."""
        if type(self) in _PLUGS:
            self.build()
        return self

    def build(self) -> Any:
        plug = _PLUGS[type(self)]
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(plug)}
        return plug(**{name: v.build() if isinstance(v, PlugKnobs) else v for name, v in values.items()})


_PLUGS: dict[type, type] = {}


def knobs_from(plug: type, base: type[PlugKnobs] = PlugKnobs, kind: str | None = None) -> type[Any]:
    """A config model with the dataclass's fields, and a literal `kind` where one is given.

    The docstring's table (name, two spaces or more, what it means) describes the fields. What a dataclass has from
    another one stands in that one's model: keys that several plug-ins share are one set of keys.
    """
    shared = next((parent for parent in plug.__bases__ if dataclasses.is_dataclass(parent)), None)
    base = _shared(shared, base) if shared else base
    hints = typing.get_type_hints(plug, include_extras=True)
    summary, described = _described(plug)
    fields: dict[str, Any] = {"kind": (typing.Literal[kind], Field(description=summary))} if kind else {}
    for field in dataclasses.fields(plug):
        if field.name in base.model_fields and field.name not in inspect.get_annotations(plug):
            continue
        hint = hints[field.name]
        default: Any = ...
        inherited = base.model_fields.get(field.name)
        description = described.get(field.name, inherited and inherited.description)
        if field.default is not dataclasses.MISSING:
            default = field.default
        elif field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if dataclasses.is_dataclass(hint):
            hint = _nested(hint)
            description = description or hint.__doc__
            default = hint() if default is not ... else ...
        elif dataclasses.is_dataclass(inner := _or_none(hint)):
            hint = _nested(inner) | None
        fields[field.name] = (hint, Field(default, description=description))
    # There is no class statement from which to read what stands below an attribute; looking for one takes seconds.
    light = {"use_attribute_docstrings": False}
    model = create_model(plug.__name__, __base__=base, __doc__=summary, __cls_kwargs__=light, **fields)
    _PLUGS[model] = plug
    return model


@functools.cache
def _nested(plug: Any) -> Any:
    return knobs_from(plug)


def _or_none(hint: Any) -> Any:
    """X of `X | None`; None of any other hint."""
    arguments = typing.get_args(hint)
    return arguments[0] if len(arguments) == 2 and arguments[1] is type(None) else None


@functools.cache
def _shared(plug: type, base: type[PlugKnobs]) -> type[PlugKnobs]:
    return knobs_from(plug, base)


def _described(plug: type) -> tuple[str, dict[str, str]]:
    """The docstring's first paragraph, and what its table says of each field. A cell goes on in indented lines."""
    doc = inspect.getdoc(plug) or ""
    table: dict[str, str] = {}
    names: list[str] = []
    for line in doc.splitlines():
        row = re.fullmatch(r"([a-z]\w*(?:, [a-z]\w*)*)  +(\S.*)", line)
        if row:
            names = row[1].split(", ")
            table |= dict.fromkeys(names, row[2])
        elif names and line.startswith("  "):
            table |= {name: f"{table[name]} {line.strip()}" for name in names}
        else:
            names = []
    return " ".join(doc.split("\n\n")[0].split()), table
