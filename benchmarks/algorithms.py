"""Does every algorithm learn? `.venv/bin/python -m benchmarks.algorithms [RECIPE ...] [--seeds 0 1 2] [--jobs 2]`.

Prints the table of `pipeline/algorithms/README.md`: for every recipe of configs/algorithms/ (all but the one on real
data, which has a benchmark of its own) what its last stage with an accuracy found on held-out tasks, pairs or answers,
with its 95% Wilson interval. Controls on top: the warm start that all recipes share, as much more supervised learning
from the same teacher (`sft`), and GRPO on rewards that know nothing.

A seed's recipes are stages of one run, each from the same warm start: STAGE of RECIPE is RECIPE__STAGE there. Random
streams go by a stage's name, so a recipe run by itself draws other numbers. What is done is kept in runs/algorithms
and not done again while the recipe stays as it is, a run that was cut off goes on; remove that folder to measure anew
after a change of code. Takes about an hour on two cores.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
ASSAY = Path(sys.executable).with_name("assay")
RECIPES = ROOT / "configs" / "algorithms"
DONE = ROOT / "runs" / "algorithms"
COIN = {"sources": {"coin": {"kind": "benchmarks.quickstart:coin"}}}
WARM, CONTROL = "warm start", "sft"
SHARED, OVERLAID = ("warm_start", "before"), ("data", "rewards", "learner", "rollout")

TRIES = 3

Config = dict[str, Any]
Results = dict[str, Any]


def recipes() -> dict[str, Config]:
    """Name -> config: the SFT control, GRPO on a coin's rewards, then the recipes of the folder."""
    found = {path.stem: yaml.safe_load(path.read_text()) for path in sorted(RECIPES.glob("*.yaml"))}
    found = {name: config for name, config in found.items() if config["data"]["kind"] != "files"}
    coin = copy.deepcopy(found["grpo"])
    coin["stages"]["rl"]["rewards"] = COIN
    return {CONTROL: found.pop(CONTROL), "grpo_on_a_coin": coin, **found}


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:12]


def own_stages(name: str, config: Config, base: Config) -> dict[str, Config]:
    """What the recipe does after the warm start, as stages of a run that has the base's sections."""
    same = {key: config["stages"][key] for key in SHARED} == {key: base["stages"][key] for key in SHARED}
    if not same or config.keys() != base.keys() or config["model"] != base["model"]:
        raise SystemExit(f"configs/algorithms/{name}.yaml: its model or its first stages are not the other recipes'")
    stages = {key: copy.deepcopy(stage) for key, stage in config["stages"].items() if key not in SHARED}
    renamed = {key: f"{name}__{key}" for key in stages}
    for number, stage in enumerate(stages.values()):
        for section in OVERLAID:
            if config.get(section) != base.get(section) and not (section == "rewards" and "algorithm" not in stage):
                stage[section] = {**config[section], **stage.get(section, {})}
        if number == 0 or "start" in stage:
            stage["start"] = renamed.get(stage.get("start", ""), "warm_start")
        critic = stage.get("algorithm", {}).get("critic", {})
        if "start" in critic:
            critic["start"] = renamed[critic["start"]]
    return {renamed[key]: stage for key, stage in stages.items()}


def finish(seed: int, todo: dict[str, dict[str, Config]], base: Config) -> tuple[Results, str]:
    """Results by recipe of one run through these recipes' stages, as far as it came; and why it stopped, if it did."""
    shared = {key: base["stages"][key] for key in SHARED}
    stages = {name: stage for recipe in todo.values() for name, stage in recipe.items()}
    config = {**base, "seed": seed, "stages": {**shared, **stages}, "tracking": {"mlflow": False}}
    folder = DONE / str(seed) / digest(config)
    told = _run(folder, {**config, "checkpoints": {"every": 10**6, "keep": 1}})
    done = told.get("stages") or _checkpointed(folder)
    results = {WARM: done["before"]} if "before" in done else {}
    for recipe, own in todo.items():
        with_accuracy = [done[name] for name in own if "accuracy" in done.get(name, {})]
        if all(name in done for name in own):
            results[recipe] = {**with_accuracy[-1], "seconds": sum(done[name]["seconds"] for name in own)}
    return results, told.get("error", "its driver died")


def _run(folder: Path, config: Config) -> Config:
    """The summary of the run there, started, taken up or done before; an empty one where its driver was killed."""
    given, summary = folder.with_suffix(".yaml"), folder / "summary.json"
    if summary.exists() and json.loads(summary.read_text())["status"] == "done":
        return json.loads(summary.read_text())
    summary.unlink(missing_ok=True)
    command = [ASSAY, "resume", folder]
    if not any(folder.glob("checkpoints/0*")):
        shutil.rmtree(folder, ignore_errors=True)
        given.parent.mkdir(parents=True, exist_ok=True)
        given.write_text(yaml.safe_dump(config, sort_keys=False))
        command = [ASSAY, "run", given, "--run-dir", folder]
    with folder.with_suffix(".log").open("a") as log:
        subprocess.run(command, stdout=log, stderr=log, cwd=ROOT, check=False)
    return json.loads(summary.read_text()) if summary.exists() else {}


def _checkpointed(folder: Path) -> Config:
    """Results of the stages that a run had done when its driver was killed."""
    states = sorted(folder.glob("checkpoints/0*/state.json"))
    return json.loads(states[-1].read_text())["finished"] if states else {}


def measured(seed: int, chosen: dict[str, Config], base: Config) -> Results:
    """Results of one seed, from earlier runs where a recipe's stages are the same.

    A run that stops is taken up again; where it comes no further `TRIES` times, the recipe in hand has failed.
    """
    kept = DONE / str(seed) / "results.json"
    results: Results = json.loads(kept.read_text()) if kept.exists() else {}
    wanted = {name: own_stages(name, config, base) for name, config in chosen.items()}
    keys = {name: digest([base["model"], base["stages"]["warm_start"], own]) for name, own in wanted.items()}
    todo = {name: own for name, own in wanted.items() if results.get(name, {}).get("key") != keys[name]}
    came, tries = 0, 0
    while todo:
        found, error = finish(seed, todo, base)
        came, tries = len(found), tries + 1 if len(found) == came else 0
        results |= {name: {**result, "key": keys.get(name)} for name, result in found.items()}
        missing = [name for name in todo if name not in found]
        if tries == TRIES:
            if WARM not in found:
                raise SystemExit(f"seed {seed}: {error}; see {DONE / str(seed)}")
            results[missing[0]] = {"error": error, "key": keys[missing[0]]}
        if tries == TRIES or not missing:
            kept.write_text(json.dumps(results, indent=1))
            todo = {name: own for name, own in wanted.items() if results.get(name, {}).get("key") != keys[name]}
            came, tries = 0, 0
    return results


def cell(result: Config) -> str:
    if "accuracy" not in result:
        return f"failed: {result['error']}"
    low, high = result["interval"]
    return f"{result['accuracy']:.3f} [{low:.3f}, {high:.3f}]"


def measure(result: Config) -> tuple[str, float | None]:
    """What the accuracy is of, and what it has to be above where that is not the SFT control."""
    if "baseline" in result:
        return f"first wrong steps; always the same one: {result['baseline']:.3f}", result["baseline"]
    return ("pairs; chance: 0.5", 0.5) if "margin" in result else ("tasks", None)


def above(name: str, seeds: list[Results]) -> str:
    """In how many of the seeds its interval lies above the SFT control's, or above chance."""
    count = 0
    for one in seeds:
        _, bar = measure(one[name])
        bar = one[CONTROL]["interval"][1] if bar is None else bar
        count += one[name].get("interval", [0.0])[0] > bar
    return f"{count} of {len(seeds)}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("recipes", nargs="*", help="default: all")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    asked = parser.parse_args()
    found = recipes()
    base = copy.deepcopy(found["grpo"])
    chosen = {name: found[name] for name in found if not asked.recipes or name in (*asked.recipes, CONTROL)}
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with ThreadPoolExecutor(asked.jobs) as pool:
        seeds = list(pool.map(lambda seed: measured(seed, chosen, base), asked.seeds))
    heads = ["recipe", "held out", *(f"seed {seed}" for seed in asked.seeds), "above its control"]
    print("|", " | ".join(heads), "|\n|" + "---|" * len(heads))
    for name in (WARM, *chosen):
        print(
            "|",
            " | ".join([name, measure(seeds[0][name])[0], *(cell(one[name]) for one in seeds), above(name, seeds)]),
            "|",
        )


if __name__ == "__main__":
    main()
