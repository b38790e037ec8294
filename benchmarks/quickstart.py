"""The quickstart over seeds: `.venv/bin/python -m benchmarks.quickstart [KEY=VALUE ...]` (two cores, some minutes).

Without overrides each seed stands beside its control: the same run with every reward replaced by a coin's, so that what
the policy gains by more updates alone is seen. Prints a table of held-out accuracies with their 95% intervals, of
seconds, and of the shares of a step that go to the driver's own work and to messages between processes (medians over
the steps of the rl stage).
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ASSAY = Path(sys.executable).with_name("assay")
COIN = "stages.rl.rewards={sources: {coin: {kind: 'benchmarks.quickstart:coin'}}}"


def coin(completions: list[str], **columns: object) -> list[float]:
    """A reward that knows nothing: the parity of the text's bytes."""
    return [float(sum(text.encode()) % 2) for text in completions]


def run(folder: Path, seed: int, *overrides: str) -> dict:
    run_dir = folder / f"{seed}-{len(overrides)}"
    command = [ASSAY, "run", "configs/quickstart.yaml", "--json", "--run-dir", run_dir, f"seed={seed}", *overrides]
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True, check=True)
    summary = json.loads(done.stdout.splitlines()[-1])
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    steps = [row["metrics"] for row in rows if row["stage"] == "rl"]
    shares = {
        part: statistics.median(m[f"time/{part}"] / m["time/step"] for m in steps) for part in ("overhead", "transport")
    }
    return {**summary, **shares}


def accuracy(stage: dict) -> str:
    low, high = stage["interval"]
    return f"{stage['accuracy']:.3f} [{low:.3f}, {high:.3f}]"


def main(overrides: list[str]) -> None:
    heads = ["seed", "after the warm start", "after GRPO", "seconds", "driver", "messages"]
    if not overrides:
        heads.insert(3, "after GRPO on a coin's rewards")
    print("|", " | ".join(heads), "|\n|" + "---|" * len(heads), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for seed in (0, 1, 2):
            done = run(Path(folder), seed, *overrides)
            cells = [str(seed), *(accuracy(done["stages"][stage]) for stage in ("before", "after"))]
            if not overrides:
                cells.append(accuracy(run(Path(folder), seed, COIN)["stages"]["after"]))
            cells += [f"{done['seconds']:.0f}", f"{100 * done['overhead']:.1f}%", f"{100 * done['transport']:.1f}%"]
            print("|", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
