"""Every YAML in configs/ loads, fits the schema, and says what it shows and how long it takes."""

from __future__ import annotations

import inspect
import re
import typing
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import BaseModel

from pipeline.check import check
from pipeline.config import Config, load_config, schema
from pipeline.knobs import _PLUGS
from pipeline.lab.ablation import load_plan

FOLDER = Path(__file__).parents[2] / "configs"
FILES = sorted(FOLDER.glob("**/*.yaml"))
SWEEPS = [path for path in FILES if "ablation" in yaml.safe_load(path.read_text())]
CONFIGS = [path for path in FILES if path not in SWEEPS]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_it_loads_and_fits_the_schema(path):
    config = load_config(path)
    assert config.stages
    jsonschema.validate(yaml.safe_load(path.read_text()), schema())


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.name)
def test_a_sweep_loads_with_every_cell(path):
    plan = load_plan(path)
    assert all(plan.configs[cell.folder] for cell in plan.cells)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_its_header_says_what_it_shows_and_how_long_it_takes(path):
    lines = path.read_text().splitlines()
    header = lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]
    assert len(header) >= 2
    text = " ".join(line.removeprefix("#").strip() for line in header)
    assert re.search(r"[Ss]hows ", text)
    assert re.search(r"[Tt]akes about \d+ (s|minutes?|hours?)\b", text)


def test_the_ones_that_the_readme_names_are_there():
    assert {"quickstart.yaml", "gsm8k_smoke.yaml"} <= {path.name for path in CONFIGS}


def models(hint: Any) -> list[type[BaseModel]]:
    """The sections in a type: of a union all, of a mapping its values'."""
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return [hint]
    return [model for inner in typing.get_args(hint) for model in models(inner)]


def knobs(section: type[BaseModel], found: set[tuple[str, str]], where: str = "") -> set[tuple[str, str]]:
    """(class that defines it, key): one that several sections share is one knob, and so is the choice between kinds."""
    for key, field in section.model_fields.items():
        owner = next(c for c in reversed(section.__mro__) if key in inspect.get_annotations(c)).__qualname__
        inner = models(field.annotation)
        for model in inner:
            knobs(model, found, " | ".join(one.__name__ for one in inner))
        if not inner:
            found.add((where if key == "kind" else owner, key))
    return found


def test_there_are_few_knobs():
    """Fewer than 100 that every run has; a plug-in brings its own, and at most twelve."""
    found = knobs(Config, set())
    assert {("Optimizer", "lr"), ("PolicyGradient", "clip_low"), ("SeatKnobs", "weight"), ("Files", "path")} <= found
    plugs = {plug.__qualname__ for plug in _PLUGS.values()}
    assert {"PolicyGradient", "Files", "Exact"} <= plugs
    assert 40 < len([owner for owner, _ in found if owner not in plugs]) < 100
    own = Counter(owner for owner, _ in found if owner in plugs)
    assert not {owner: n for owner, n in own.items() if n > 12}


def test_every_key_of_the_schema_is_described():
    found = schema()
    jsonschema.Draft202012Validator.check_schema(found)
    sections = {"": found, **found["$defs"]}

    def described(key: dict[str, Any]) -> bool:
        referred = found["$defs"].get(key.get("$ref", "").rpartition("/")[2], {})
        return bool(key.get("description") or referred.get("description"))

    keys = [(name, key, spec) for name, s in sections.items() for key, spec in s.get("properties", {}).items()]
    assert len(keys) > 60
    assert not [f"{name}.{key}" for name, key, spec in keys if not described(spec)]
    texts = [spec.get("description", "") for _, _, spec in keys]
    assert not [text for text in texts if "  " in text or "\n\n" in text], "a table is left in a description"


def test_the_schema_refuses_what_the_config_refuses():
    data = yaml.safe_load(CONFIGS[0].read_text())
    for wrong in ({"sede": 1}, {"seed": "one"}, {"stages": {"x": {"kind": "nothing"}}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**data, **wrong}, schema())


def test_the_quickstart_can_run():
    checked = check(load_config(FOLDER / "quickstart.yaml"))
    assert 200_000 < checked.parameters < 400_000


def test_the_gsm8k_smoke_can_run(data_dir):
    files = [f"data.path={data_dir}/gsm8k/train.jsonl", f"data.held_out_path={data_dir}/gsm8k/test.jsonl"]
    checked = check(load_config(FOLDER / "gsm8k_smoke.yaml", files))
    assert len(checked.tasks["sft"].train) > 7000
    assert len(checked.tasks["after"].held_out) == 64
    assert 500_000 < checked.parameters < 700_000
