"""Generation hidden behind learning: `.venv/bin/python -m benchmarks.overlap` (two cores, some minutes).

The quickstart's model learns with `max_staleness: 0` and `1`, on more groups a step than the quickstart has, so that
generation and learning are the work and messages are not; completions of 20 tokens balance the two. Printed: the
seconds of a step with staleness 1 over the larger of generation and learning alone, as the synchronous run has them.
Medians of the steps after the fifth.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ASSAY = Path(sys.executable).with_name("assay")
STEPS, SKIPPED = 25, 5
WORK = ["stages.rl.groups_per_step=128", "rollout.max_rows=1024", f"stages.rl.steps={STEPS}", "tracking.mlflow=false"]


def run(folder: Path, staleness: int, config: Path) -> dict[str, float]:
    """Medians of the timing metrics."""
    run_dir = folder / f"run-{staleness}"
    command = [ASSAY, "run", config, "--run-dir", run_dir, f"stages.rl.max_staleness={staleness}", *WORK]
    subprocess.run([str(part) for part in command], stdout=subprocess.DEVNULL, check=True)
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    steps = [row["metrics"] for row in rows if row["stage"] == "rl"][SKIPPED:]
    names = ("time/step", "time/generate", "time/learn")
    return {name: statistics.median(step[name] for step in steps) for name in names}


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        alone, together = (run(folder, staleness, Path("configs/quickstart.yaml")) for staleness in (0, 1))
        floor = max(alone["time/generate"], alone["time/learn"])
        print(
            f"alone: generation {alone['time/generate']:.3f} s, learning {alone['time/learn']:.3f} s, "
            f"synchronous step {alone['time/step']:.3f} s; step with max_staleness 1: {together['time/step']:.3f} s, "
            f"ratio to the larger {together['time/step'] / floor:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
