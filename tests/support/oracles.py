"""Independent code to compare with: it lies beside the environment, in .venv/oracles (requirements/oracles.txt)."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(sys.prefix) / "oracles"


def oracle(name: str) -> ModuleType:
    """The module; skips, saying so, where it was not installed.

    verl's config library wants an older parser (antlr4) than math-verify: each keeps the one it was imported with.
    """
    if not (FOLDER / name.split(".")[0]).exists():
        pytest.skip(f"{name.split('.')[0]} is not in {FOLDER}: make setup puts it there", allow_module_level=True)
    ours = {module: sys.modules.pop(module) for module in list(sys.modules) if module.split(".")[0] == "antlr4"}
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(FOLDER))
        for module in [module for module in sys.modules if module.split(".")[0] == "antlr4"]:
            del sys.modules[module]
        sys.modules.update(ours)
