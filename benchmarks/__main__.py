"""`make bench`: every benchmark, one after the other. Figures with command, commit and machine stand in README.md."""

from __future__ import annotations

import runpy
from pathlib import Path

for path in sorted(Path(__file__).parent.glob("*.py")):
    if path.name != "__main__.py":
        print(f"\n## {path.stem}\n", flush=True)
        runpy.run_path(str(path), run_name="__main__")
