"""A row's cells as text and conversations; what is wrong with one is said with its file, line and column."""

from __future__ import annotations

from typing import Any

from rewards.errors import Refused, nearest
from rewards.types import Message

ROLES = ("system", "user", "assistant", "tool")


def cell(where: str, row: dict[str, Any], key: str, column: str) -> Any:
    """What stands in the column, whatever it is."""
    if column not in row:
        raise Refused(f"{where}: no column {column!r} (data.columns.{key}), {nearest(column, row)}")
    return row[column]


def text_of(where: str, row: dict[str, Any], key: str, column: str) -> str:
    """Text that is not empty."""
    value = cell(where, row, key, column)
    if not isinstance(value, str):
        raise Refused(f"{where}: column {column!r} (data.columns.{key}) is {kind_of(value)}, expected text")
    if not value.strip():
        raise Refused(f"{where}: column {column!r} (data.columns.{key}) is empty")
    return value


def conversation(where: str, value: Any) -> tuple[tuple[Message, ...], str | None]:
    """The messages up to the policy's turn, and the assistant's last message where there is one."""
    if not isinstance(value, list) or not value:
        found = "an empty list" if value == [] else kind_of(value)
        raise Refused(f"{where}: messages are {found}, expected a list of objects with role and content")
    messages = tuple(_message(where, i, item) for i, item in enumerate(value))
    if messages[-1].role != "assistant":
        return messages, None
    if len(messages) == 1:
        raise Refused(f"{where}: one message, the assistant's; expected something to answer before it")
    return messages[:-1], messages[-1].content


def _message(where: str, i: int, item: Any) -> Message:
    place = f"{where}: messages[{i}]"
    if not isinstance(item, dict):
        raise Refused(f"{place} is {kind_of(item)}, expected an object with role and content")
    for key in ("role", "content"):
        if not isinstance(item.get(key), str):
            raise Refused(f"{place}.{key} is {kind_of(item.get(key))}, expected text")
    if item["role"] not in ROLES:
        raise Refused(f"{place}.role is {item['role']!r}, {nearest(item['role'], ROLES)}")
    if not item["content"].strip():
        raise Refused(f"{place}.content is empty")
    return Message(item["role"], item["content"])


def kind_of(value: Any) -> str:
    """What a value is, for a person."""
    names = {
        type(None): "null",
        bool: "true/false",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), "text" if isinstance(value, str) else f"a {type(value).__name__}")
