"""The questions put to judges that write: jinja2 templates in `rewards/prompts/`, or a file of the user's own."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template, TemplateError

from rewards.errors import Refused

T = TypeVar("T")
FOLDER = Path(__file__).parent / "templates"


def render(template: str, values: Mapping[str, Any]) -> str:
    """The text of a built-in template (by name, as "pointwise") or of a file (by path).

    A file may use what the built-in one of its place uses; a name that is not there is refused.
    Raises `Refused` with the file and the reason.
    """
    return _refusing(template, lambda: _template(template).render(values).strip())


def check_prompt(path: str) -> None:
    """Raises `Refused` where the file can't be read, or is no template."""
    _refusing(path, lambda: _template(path))


def _refusing(template: str, act: Callable[[], T]) -> T:
    try:
        return act()
    except (TemplateError, OSError, UnicodeDecodeError) as error:
        line = getattr(error, "lineno", None)
        where = f", line {line}" if line else ""
        raise Refused(f"prompt {template!r}{where}: {error or type(error).__name__}") from None


def _template(name: str) -> Template:
    builtin = (FOLDER / f"{name}.j2").is_file()
    folder = FOLDER if builtin else Path(name).parent
    return _environment(folder).get_template(f"{name}.j2" if builtin else Path(name).name)


@functools.cache
def _environment(folder: Path) -> Environment:
    return Environment(
        loader=FileSystemLoader([folder, FOLDER]), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
