"""A policy trained against a learned judge until gold falls: `.venv/bin/python -m benchmarks.overoptimization [SEEDS]`.

`assay ablate` of configs/overoptimization.yaml in two arms that share the warm start and the judge: to the end, and
stopped at the peak of the gold score. Both policies move in the same steps, bit for bit, so that what was kept can be
held against what there was. Prints a table and the fitted laws; runs and reports stay in runs/overoptimization (what is
done there is not done again).
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipeline.lab.charts import curves
from pipeline.lab.gold_chart import gold_chart

ROOT = Path(__file__).parents[1]
ASSAY = Path(sys.executable).with_name("assay")
FOLDER = ROOT / "runs" / "overoptimization"
WHOLE, STOPPED = "to the end", "stopped at the peak"
WINDOW = 5  # steps that the rule takes as one
NEAR = 11  # steps around one that its gold score is the mean of: 2,816 rollouts, which is 0.01 up or down


def ablation(seeds: list[int]) -> dict[str, Any]:
    arms = {WHOLE: {}, STOPPED: {"stages.rl.stop_at_peak": {"window": WINDOW, "patience": 3}}}
    measure = {"accuracy": "after/accuracy", "gold": {"metric": "rl/gold/mean", "over": "last", "window": WINDOW}}
    return {
        "base": str(ROOT / "configs" / "overoptimization.yaml"),
        "overrides": {"tracking.mlflow": False},
        "axes": {"arm": arms},
        "seeds": seeds,
        "measure": measure,
    }


def steps_of(run: Path) -> list[dict[str, Any]]:
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [row for row in rows if row["stage"] == "rl"]


def smooth(values: list[float]) -> np.ndarray:
    """Means of NEAR neighbours; the i-th is of those around i, fewer at the ends."""
    ones = np.ones(NEAR)
    return np.convolve(values, ones, "same") / np.convolve(np.ones(len(values)), ones, "same")


def accuracy(stage: dict[str, Any]) -> str:
    low, high = stage["interval"]
    return f"{stage['accuracy']:.3f} [{low:.3f}, {high:.3f}]"


def line(seed: int) -> tuple[str, str]:
    """A row of the table, and what the whole run's report says of its law."""
    arms = [FOLDER / "runs" / f"arm={arm.replace(' ', '_')}" / f"seed-{seed}" for arm in (WHOLE, STOPPED)]
    stages, kept = (json.loads((arm / "summary.json").read_text())["stages"] for arm in arms)
    rows = steps_of(arms[0])
    gold, proxy = (smooth([row["metrics"][name] for row in rows]) for name in ("gold/mean", "reward/mean"))
    distance = [row["metrics"]["gold/kl_sqrt"] for row in rows]
    peak = int(gold.argmax())
    step = int(kept["rl"]["kept_step"]) + 1  # whose rollouts the kept policy wrote
    cells = [
        str(seed), f"{stages['reward_model']['accuracy']:.3f}",
        " → ".join(f"{proxy[i]:.2f}" for i in (0, peak, -1)), " → ".join(f"{gold[i]:.3f}" for i in (0, peak, -1)),
        f"{distance[peak]:.1f}, {distance[-1]:.1f}", f"{kept['rl']['kept_step']} of {kept['rl']['steps']}",
        f"{gold[min(step, len(gold) - 1)] / gold[peak]:.1%}",
        *(accuracy(found) for found in (stages["before"], stages["after"], kept["after"])),
    ]  # fmt: skip
    drawn = gold_chart(curves(rows))
    return "| " + " | ".join(cells) + " |", drawn["law"]["text"] if drawn else "no gold"


def main() -> None:
    seeds = [int(seed) for seed in sys.argv[1:]] or [0, 1, 2]
    FOLDER.mkdir(parents=True, exist_ok=True)
    asked = FOLDER.with_suffix(".yaml")
    asked.write_text(yaml.safe_dump({"ablation": ablation(seeds)}, sort_keys=False))
    subprocess.run([str(ASSAY), "ablate", str(asked), "--dir", str(FOLDER)], stdout=sys.stderr, check=True)
    heads = ["seed", "judge's pairs right", "proxy: start → at gold's peak → end", "gold: start → peak → end"]
    heads += ["√KL at the peak, at the end", "kept step of those taken", "gold kept of the peak's"]
    heads += ["held out: before", "to the end", "stopped at the peak"]
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    found = [line(seed) for seed in seeds]
    print("\n".join(row for row, _ in found), "\n")
    for seed, (_, law) in zip(seeds, found, strict=True):
        print(f"- seed {seed}: {law}")


if __name__ == "__main__":
    main()
