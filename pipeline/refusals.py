"""What is wrong with a config, in one line: key path, what was expected, what was found, the nearest valid name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from rewards.errors import Refused, nearest

# The tag of things of the user's own, named by import path, in unions that know kinds by name.
OWN = "package.module:name"
_NUMBER = {"int": "a whole number", "float": "a number", "bool": "true or false", "string": "text", "path": "a path"}
_EXPECTED = {
    **{f"{kind}_{how}": text for kind, text in _NUMBER.items() for how in ("type", "parsing", "from_float")},
    **dict.fromkeys(("list_type", "tuple_type"), "a list"),
    **dict.fromkeys(("dict_type", "mapping_type", "model_type", "model_attributes_type"), "a section of keys"),
    "finite_number": "a finite number",
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "a number of at least {ge:g}",
    "less_than": "a number below {lt:g}",
    "less_than_equal": "a number of at most {le:g}",
    "too_short": "{min_length} or more entries",
    "too_long": "{max_length} entries or fewer",
}


def refusal(error: ValidationError, data: Any, where: str, needed: Mapping[str, str] | None = None) -> Refused:
    """The first thing wrong with the config, in one line: key path, what was found, what was expected.

    `needed` says more about keys that may be missing.
    """
    errors = error.errors()
    first, section = errors[0], errors[0]["loc"][:-1]
    missing = [e for e in errors if e["type"] == "missing" == first["type"] and e["loc"][:-1] == section]
    if len(missing) > 1:
        keys = ", ".join(str(e["loc"][-1]) for e in missing)
        line = _line(_path(section, data, keep_last=False), f"these keys are needed: {keys}")
    else:
        line = _told(first, data, needed or {})
    # A section that many stages inherit is wrong in each of them; that is one mistake.
    others = {_identity(e) for e in errors} - {_identity(e) for e in (missing or [first])}
    return Refused(f"{where}: {line}" + (f" (and {len(others)} more)" if others else ""))


def _identity(error: Any) -> tuple[str, str, str]:
    given = "" if error["type"] == "missing" else repr(error["input"])
    return error["type"], str(error["loc"][-1:]), given


def _line(path: list[str], message: str) -> str:
    return f"{'.'.join(path)}: {message}" if path else message


def _told(error: Any, data: Any, needed: Mapping[str, str]) -> str:
    kind, context, given = error["type"], error.get("ctx", {}), error["input"]
    path = _path(error["loc"], data, keep_last=kind in ("missing", "union_tag_not_found"))
    if kind == "bool_as_number":
        path.append(context["key"])
    if kind == "missing":
        message = "this key is needed" + needed.get(path[-1], "")
    elif kind in ("union_tag_invalid", "literal_error") and (kind == "union_tag_invalid" or path[-1:] == ["kind"]):
        valid = _quoted(context.get("expected_tags") or context["expected"])
        tag = str(context.get("tag", given))
        path = path[:-1] if path[-1:] == ["kind"] else path
        message = f"unknown kind {tag!r}; {nearest(tag, [v for v in valid if v != OWN])}"
        message += " (or package.module:name)" if OWN in valid else ""
    elif kind in ("union_tag_not_found", "union_no_kind"):
        message = "this section needs the key `kind`"
    elif kind == "literal_error":
        message = f"found {said(given)}; {nearest(str(given), _quoted(context['expected']))}"
    elif kind in _EXPECTED:
        message = f"expected {_EXPECTED[kind].format(**context)}, found {said(given)}"
    else:
        message = error["msg"].removeprefix("Value error, ")
    return _line(path, message)


def _quoted(text: str) -> list[str]:
    return re.findall(r"'([^']+)'", text)


def said(value: Any) -> str:
    """A value as the user would call it."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return f"a section with {', '.join(map(str, value))}" if value else "an empty section"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}" if value else "an empty list"
    return repr(value)


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
