"""Things named by import path, `package.module:name`: the way in for a user's own code."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewards.errors import Refused, nearest
from rewards.failures import one_line


def load(path: str) -> Any:
    """The object at `package.module:name`; the current directory counts, as it does for `python -m`.

    Raises `Refused` where the module can't be imported (with the part that is missing, or the module's own
    error) or has no such name.
    """
    module_name, colon, name = path.partition(":")
    if not (colon and module_name and name):
        raise Refused(f"import path {path!r}: expected package.module:name")
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and f"{module_name}.".startswith(f"{error.name}."):
            raise Refused(f"import path {path!r}: no module {error.name!r}{_hint(error.name)}") from None
        raise Refused(f"import path {path!r}: importing {module_name!r} failed: {one_line(error)}") from error
    except Exception as error:  # the border to a user's module: whatever it raises is refused
        detail = one_line(f"{type(error).__name__}: {error}")
        raise Refused(f"import path {path!r}: importing {module_name!r} failed: {detail}") from error
    if not hasattr(module, name):
        own = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise Refused(
            f"import path {path!r}: {module_name!r} has no {name!r}" + (f"; {nearest(name, own)}" if own else "")
        )
    return getattr(module, name)


def _hint(missing: str) -> str:
    """The nearest module beside the missing one, where there is one."""
    parent, _, leaf = missing.rpartition(".")
    siblings = [m.name for m in pkgutil.iter_modules(sys.modules[parent].__path__ if parent else None)]
    hint = nearest(leaf, siblings) if siblings else ""
    return f"; {hint}" if hint.startswith("did you mean") else ""


@dataclass(frozen=True)
class ByName:
    """A function that is imported where it is unpickled: in the helper process, not in the one that asks.

    So a judge never imports a user's module (or sympy) into its event loop, and the import is over before the
    item's clock starts.
    """

    path: str

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return load, (self.path,)

    def __call__(self, *args: Any) -> Any:
        return load(self.path)(*args)
