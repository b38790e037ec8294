"""The papers' recipes, one after the other: `make papers` (resumable; hours on two cores).

Each is `assay ablate configs/papers/NAME.yaml` with its sweep in runs/papers/NAME. Prints what each paper claims beside
what came of it here: means over seeds with 95% bootstrap intervals, the control's beside them, and the minutes of all
its runs. `python -m benchmarks.papers NAME ...` does some of them, `--table` prints what is there and runs nothing.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.lab.results import CellResult, Results, digits_of, read_results

ASSAY = Path(sys.executable).with_name("assay")
FOLDER = Path("runs/papers")


@dataclass(frozen=True)
class Row:
    """One claim: of which cell of the recipe's grid, and which of its measures."""

    recipe: str
    claim: str
    cell: Mapping[str, Any]
    measure: str = "accuracy"


PAPERS = {
    "noisy_rewards": "The Climb Carves Wisdom (2505.22653)",
    "noisy_rewards_more": "The same, given more",
    "clip_delta": "On Designing Effective RL Reward (2410.15115)",
}


def _flips(claim: str, rate: float, scope: str, measure: str = "accuracy") -> Row:
    return Row("noisy_rewards", claim, {"rate": rate, "scope": scope}, measure)


def _more(claim: str, arm: str) -> Row:
    return Row("noisy_rewards_more", claim, {"arm": arm})


def _steps(claim: str, arm: str, measure: str = "accuracy") -> Row:
    return Row("clip_delta", claim, {"arm": arm}, measure)


ROWS = (
    _flips("20% flipped, by sample: little is lost", 0.2, "sample"),
    _flips("40% flipped, by sample: 96% of the clean accuracy", 0.4, "sample"),
    _flips("40% flipped, by prompt (the paper's): 96% of the clean accuracy", 0.4, "prompt"),
    _flips("50% flipped, by sample: nothing is learnt", 0.5, "sample"),
    _flips("50% flipped, by prompt: nothing is learnt", 0.5, "prompt"),
    _flips("40% flipped, by sample: more steps to 0.9", 0.4, "sample", "steps_to_0.9"),
    _more("40% by sample, 64 prompts and 150 steps", "flipped by sample, 64 prompts, 150 steps"),
    _more("40% by sample, five verifiers", "flipped by sample, five verifiers"),
    _more("40% by prompt, 64 prompts and 150 steps", "flipped by prompt, 64 prompts, 150 steps"),
    _more("40% by prompt, five verifiers", "flipped by prompt, five verifiers"),
    _steps("plain step rewards: accuracy falls", "plain steps"),
    _steps("plain step rewards: answers grow", "plain steps", "tokens"),
    _steps("Clip: as good as success alone, or better", "clip"),
    _steps("Delta: as good as success alone, or better", "delta"),
    _steps("Clip and Delta: as good as success alone, or better", "clip and delta"),
)


def shown(cell: CellResult, measure: str) -> str:
    m = cell.means[measure]
    if m is None:
        return "not reached" if all(run.status == "done" for run in cell.runs) else "not run"
    digits = digits_of(m)
    return f"{m.value:.{digits}f} [{m.low:.{digits}f}, {m.high:.{digits}f}] of {m.n}"


def line(row: Row, results: Results) -> list[str]:
    cell = next(c for c in results.cells if c.values == row.cell)
    control = results.cells[results.control]
    ours, clean = cell.means[row.measure], control.means[row.measure]
    share = f"{100 * ours.value / clean.value:.0f}%" if ours and clean and clean.value else ""
    return [row.claim, row.measure, shown(cell, row.measure), shown(control, row.measure), share]


def table(names: Sequence[str]) -> str:
    lines = ["| paper | claim | measure | ours | control | share | minutes |", "|---|---|---|---|---|---|---|"]
    for name in names:
        if not (FOLDER / name / "sweep.json").exists():
            lines.append(f"| {PAPERS[name]} | | | not run | | | |")
            continue
        results = read_results(FOLDER / name)
        minutes = sum(run.seconds or 0 for _, run in results.runs) / 60
        for i, row in enumerate(row for row in ROWS if row.recipe == name):
            first, last = (PAPERS[name], f"{minutes:.0f}") if i == 0 else ("", "")
            lines.append("| " + " | ".join([first, *line(row, results), last]) + " |")
    return "\n".join(lines)


def main() -> None:
    names = [name for name in sys.argv[1:] if not name.startswith("-")] or list(PAPERS)
    unknown = [name for name in names if name not in PAPERS]
    if unknown:
        raise SystemExit(f"papers: unknown recipe {unknown[0]!r}; there are {', '.join(PAPERS)}")
    failed = []
    for name in names if "--table" not in sys.argv else ():
        command = [ASSAY, "ablate", f"configs/papers/{name}.yaml", "--dir", FOLDER / name]
        if subprocess.run([str(part) for part in command], check=False).returncode:
            failed.append(name)
    print(table(names))
    if failed:
        raise SystemExit(f"papers: not all runs of {', '.join(failed)} are done")


if __name__ == "__main__":
    main()
