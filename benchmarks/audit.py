"""Report cards of reward sources whose faults are known: `.venv/bin/python -m benchmarks.audit [FOLDER]`.

`assay audit` of a reward model that `configs/algorithms/hh_reward_model.yaml` learns, of a heuristic that counts
letters, of a control that knows nothing, and of the `math` verifier: on HH-RLHF's pairs (400 that the model did not
learn from), on RM-Bench's chat subset, and on GSM8K's solutions by four models. Prints a table; pages and JSON go to
FOLDER (default runs/audit). Needs ASSAY_DATA, the folder that holds hh_rlhf/, rm_bench/ and gsm8k/.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
ASSAY = Path(sys.executable).with_name("assay")
STAGE, HELD_OUT = "reward_model", 400
SOLVERS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
MATH = {"kind": "math", "after": "A:"}


def letters(completions: list[str], **columns: object) -> list[float]:
    """The more letters the better."""
    return [len(text) / 1000 for text in completions]


def coin(completions: list[str], **columns: object) -> list[float]:
    """A number that follows from the text and says nothing of it, between 0 and 1."""
    return [zlib.crc32(text.encode()) / 2**32 for text in completions]


def write(path: Path, rows: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def data_sets(data: Path, folder: Path) -> dict[str, Path]:
    """The labelled files; HH-RLHF's as the pairs to learn from (`train`) and those that are kept back."""
    with gzip.open(data / "hh_rlhf" / "harmless_base.jsonl.gz", "rt") as file:
        pairs = [json.loads(line) for line in file]
    write(folder / "train.jsonl", pairs[:-HELD_OUT])
    solved = [json.loads(line) for line in (data / "gsm8k" / "labelled_solutions.jsonl").read_text().splitlines()]
    return {
        "HH-RLHF": write(folder / "hh_rlhf.jsonl", pairs[-HELD_OUT:]),
        "RM-Bench chat": data / "rm_bench" / "chat.json",
        "GSM8K": write(folder / "gsm8k.jsonl", map(solutions, solved)),
    }


def solutions(row: Mapping[str, Any]) -> dict[str, Any]:
    answers = [{"text": row[name]["solution"], "label": row[name]["is_correct"]} for name in SOLVERS]
    return {"prompt": row["question"], "reference": row["ground_truth"].rpartition("A:")[2].strip(), "answers": answers}


def assay(*command: object) -> Any:
    done = subprocess.run([str(part) for part in (ASSAY, *command)], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def learned(folder: Path) -> str:
    """The reward model's directory, and on the way how right the run itself found it."""
    config = ROOT / "configs" / "algorithms" / "hh_reward_model.yaml"
    given = (f"data.path={folder / 'train.jsonl'}", f"data.held_out_path={folder / 'hh_rlhf.jsonl'}")
    run = folder / "run"
    if not (run / "summary.json").exists():
        found = assay("run", config, *given, "tracking.mlflow=false", "--run-dir", run, "--json")["stages"][STAGE]
        print(f"learned {STAGE}: {found['accuracy']:.3f} of {found['n']} held-out pairs right", flush=True)
    return str(run / "stages" / STAGE)


def cell(found: Mapping[str, Any] | None, key: str = "value", digits: int = 3) -> str:
    if found is None:
        return ""
    low, high = found["interval"]
    return f"{found[key]:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def line(name: str, source: str, card: Mapping[str, Any]) -> str:
    styles = card["styles"]
    hard = " / ".join(f"{styles[kind]['value']:.2f}" for kind in ("easy", "normal", "hard")) if styles else ""
    bias = card["length_bias"]
    told = dict.fromkeys(warning["what"].replace("_", " ") for warning in card["warnings"])
    cells = [
        name, source, cell(card["pairs"]), hard, cell(card["auc"], digits=2), cell(card["calibration"], "ece", 2),
        f"{round(bias['r'], 2) + 0.0:+.2f}" if bias else "", ", ".join(told) or "none",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    if "ASSAY_DATA" not in os.environ:
        print("skipped: ASSAY_DATA does not say where hh_rlhf/, rm_bench/ and gsm8k/ lie")
        return
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "runs" / "audit"
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    files = data_sets(Path(os.environ["ASSAY_DATA"]), folder)
    sources: dict[str, Any] = {
        "learned": {"kind": "scalar", "model": {"path": learned(folder)}},
        "letters": {"kind": "benchmarks.audit:letters", "weight": 0},
        "coin": {"kind": "benchmarks.audit:coin", "weight": 0},
    }
    print("| data | source | pairs right | easy / normal / hard | AUC | ECE | length bias | warned of |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for name, path in files.items():
        asked = sources | ({"math": MATH | {"weight": 0}} if name == "GSM8K" else {})
        config = folder / f"{path.stem}.yaml"
        config.write_text(yaml.safe_dump({"rewards": {"sources": asked}}))
        cards = assay("audit", config, "--data", path, "--out", folder / path.stem, "--json")
        for source in asked:
            print(line(name, source, cards[source]), flush=True)


if __name__ == "__main__":
    main()
