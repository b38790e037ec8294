"""Generation hidden behind learning: `.venv/bin/python -m benchmarks.overlap` (two cores, some minutes).

The quickstart's model, after a short warm start, learns with `max_staleness: 0` and `1`, on more groups a step than the
quickstart has, so that generation and learning are the work and messages are not. Printed: the seconds of a step with
staleness 1 over the larger of generation and learning alone, as the synchronous run has them; and where the seconds of
both kinds of step went. Medians of the steps after the fifth.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ASSAY = Path(sys.executable).with_name("assay")
STEPS, SKIPPED = 20, 5
WORK = [
    "stages.rl.groups_per_step=128", f"stages.rl.steps={STEPS}", "stages.warm_start.steps=100", "data.held_out=50",
    "tracking.mlflow=false",
]  # fmt: skip
PARTS = ("step", "generate", "judge", "learn", "publish", "transport", "overhead")


def run(folder: Path, staleness: int, config: Path) -> dict[str, float]:
    """Medians of the seconds of a step and its parts."""
    run_dir = folder / f"run-{staleness}"
    command = [ASSAY, "run", config, "--run-dir", run_dir, f"stages.rl.max_staleness={staleness}", *WORK]
    subprocess.run([str(part) for part in command], stdout=subprocess.DEVNULL, check=True)
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    steps = [row["metrics"] for row in rows if row["stage"] == "rl"][SKIPPED:]
    return {part: statistics.median(step[f"time/{part}"] for step in steps) for part in PARTS}


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        alone, together = (run(folder, staleness, Path("configs/quickstart.yaml")) for staleness in (0, 1))
        floor = max(alone["generate"], alone["learn"])
        for staleness, seconds in enumerate((alone, together)):
            told = ", ".join(f"{part} {s:.3f}" for part, s in seconds.items())
            print(f"max_staleness {staleness}, seconds: {told}", flush=True)
        print(f"step with max_staleness 1: {together['step'] / floor:.2f} times the larger part alone", flush=True)


if __name__ == "__main__":
    main()
