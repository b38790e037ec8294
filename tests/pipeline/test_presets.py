"""The presets of configs/cluster fit the clusters that their headers name; data and judges are small ones made here."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import tiny
import yaml

from pipeline.check import check
from pipeline.config import load_config
from pipeline.spec import load_spec

ROOT = Path(__file__).parents[2]
PRESETS = sorted((ROOT / "configs" / "cluster").glob("*.yaml"))
ROW = {
    "question": "How many?",
    "answer": "Four and three.\n#### 7",
    "ground_truth": "7",
    "context_messages": [{"role": "user", "content": "How many?"}],
    "prompt": "Write a function f that returns 1.",
    "rubric": "- [2] It is right.\n- [1] It is short.",
    "test": "def check(candidate):\n    assert candidate() == 1",
    "entry_point": "f",
}
SAID = [*ROW["context_messages"], {"role": "assistant", "content": "Seven."}]
WORSE = [SAID[0], SAID[1] | {"content": "?"}]


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Overrides of what lies on the hub or at the user's."""
    folder = tmp_path_factory.mktemp("presets")

    def rows(name, *one):
        (folder / name).write_text("\n".join(json.dumps(row) for row in one * 8))
        return str(folder / name)

    asked = rows("asked.jsonl", {**ROW, "messages": ROW["context_messages"]})
    return {
        "data.path": asked,
        "data.held_out_path": asked,
        "stages.sft.data.path": rows("said.jsonl", {"messages": SAID}),
        "stages.dpo.data.path": rows("pairs.jsonl", {"chosen": SAID, "rejected": WORSE}),
        "rewards.sources.preference.model.path": tiny.make_scalar(folder / "rm"),
        "rewards.sources.rubric.judge.host": tiny.make(folder / "judge"),
        "data.subset": None,
        "data.held_out_split": None,
        "data.held_out": 4,
    }


def there(data, key):
    """Whether the preset has something at that key's place."""
    *path, last = key.split(".")
    for part in path:
        data = data.get(part, {})
    return last in data


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_it_fits_the_cluster_that_its_header_names(path, here):
    text = path.read_text()
    (command,) = re.findall(r"^#   (assay check .*)$", text, re.MULTILINE)
    words = shlex.split(command)
    assert words[2] == str(path.relative_to(ROOT))
    options = dict(zip(words[3::2], words[4::2], strict=True))
    data = yaml.safe_load(text)
    config = load_config(path, [f"{key}={json.dumps(value)}" for key, value in here.items() if there(data, key)])
    checked = check(config, load_spec(options["--cluster"]), ROOT / options["--shape"])
    assert checked.sizing
    steps = {name: round(found.whole) for name, found in checked.sizing.steps.items()}
    assert steps
    for name, seconds in steps.items():
        said = int(re.search(rf"(\d+) s a step of {name}\b", " ".join(text.replace("#", " ").split()))[1])
        assert 0.5 < said / seconds < 2, steps  # these prompts are shorter than real ones
