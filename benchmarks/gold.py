"""What following gold costs: `.venv/bin/python -m benchmarks.gold` (two quiet cores, about 2 minutes).

One run of the quickstart's world in which stages without and with a gold source take turns: a verifier that judges a
tenth of the rollouts, and the KL on that slice. Prints the medians of their steps, the ratio with its 95% interval (a
bootstrap's, of steps), and the same of the rewards' own part. Steps at a stage's start, and those after which a
checkpoint is written, are left out.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipeline.lab.statistics import bootstrap, interval

ASSAY = Path(sys.executable).with_name("assay")
QUICKSTART = Path(__file__).parents[1] / "configs" / "quickstart.yaml"
TURNS, STEPS, SKIPPED = 4, 24, 3
GOLD = {"kind": "numeric", "share": 0.1}
PARTS = ("step", "generate", "judge", "learn", "overhead")


def config() -> dict[str, Any]:
    made = yaml.safe_load(QUICKSTART.read_text())
    warm, rl = made["stages"]["warm_start"], made["stages"]["rl"] | {"steps": STEPS}
    made["stages"] = {"warm_start": warm | {"steps": 120}}
    for turn in range(TURNS):
        made["stages"][f"plain_{turn}"] = rl
        made["stages"][f"gold_{turn}"] = rl | {"rewards": made["rewards"] | {"gold": GOLD}}
    return made | {"tracking": {"mlflow": False}, "checkpoints": {"every": STEPS}}


def times(folder: Path) -> dict[str, list[dict[str, float]]]:
    """The steps of both sides."""
    path, run_dir = folder / "gold.yaml", folder / "run"
    path.write_text(yaml.safe_dump(config(), sort_keys=False))
    subprocess.run([ASSAY, "run", path, "--run-dir", run_dir, "--json"], stdout=subprocess.DEVNULL, check=True)
    found: dict[str, list[dict[str, float]]] = {"plain": [], "gold": []}
    for row in map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines()):
        side = row["stage"].partition("_")[0]
        if side in found and row["step"] >= SKIPPED:
            found[side].append({part: row["metrics"].get(f"time/{part}", 0.0) for part in PARTS})
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = times(Path(folder))
    print("| part of a step | without, ms | with gold, ms | ratio |\n|---|---|---|---|")
    for part in PARTS:
        plain, gold = (np.array([row[part] for row in found[side]]) for side in ("plain", "gold"))
        n = min(len(plain), len(gold))

        def ratio(places: np.ndarray, plain: np.ndarray = plain, gold: np.ndarray = gold) -> np.ndarray:
            return np.array([np.median(gold[places]) / np.median(plain[places])])

        low, high = interval(bootstrap(ratio, n))[:, 0]
        medians = 1e3 * np.median(plain), 1e3 * np.median(gold)
        compared = f"{medians[1] / medians[0]:.3f} [{low:.3f}, {high:.3f}]"
        print(f"| {part} | {medians[0]:.1f} | {medians[1]:.1f} | {compared} |")


if __name__ == "__main__":
    main()
