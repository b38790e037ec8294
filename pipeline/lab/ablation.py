"""What an `ablation:` file may say, and the cells and runs that it means. Light, as `pipeline.config` is.

    ablation:
      base: ../quickstart.yaml             a run's config, found from this file's folder
      overrides: {stages.rl.steps: 40}     for every cell
      axes:
        stages.rl.learner.lr: [1.0e-4, 2.0e-4]                          a key and its values
        stages.rl.algorithm.group_size: {first: 4, last: 16, step: 4}   a range, both ends included
        arm: {plain: {}, harsh: {stages.rl.algorithm.kl_coefficient: 0.1}}   named sets of keys
      skip: [{arm: harsh, lr: 1.0e-4}]     cells that are left out
      control: {arm: plain}                what the others are compared with; default: each axis' first value
      seeds: [0, 1, 2]
      measure: {accuracy: after/accuracy, best: {metric: rl/reward/mean, over: max, window: 5}}
      budget: {runs: 40, at_once: 2}

A cell is one value of every axis; a run is a cell with a seed.
"""

from __future__ import annotations

import copy
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from pipeline.config import Config, parse_config
from pipeline.knobs import Knobs
from pipeline.lab.measures import Measure, check_measure
from pipeline.refusals import refusal, said
from pipeline.sections import Count
from pipeline.yaml_files import assign, read_yaml
from rewards.errors import Refused, nearest

Scalar = bool | int | float | str | None


class Range(Knobs):
    """Numbers from `first` to `last`, both included."""

    first: float
    """The first of them."""
    last: float
    """The last of them."""
    step: float
    """How far they are apart."""

    @model_validator(mode="after")
    def _reaches(self) -> Range:
        n = (self.last - self.first) / self.step if self.step else -1
        if n < 0 or abs(n - round(n)) > 1e-6:
            raise ValueError(f"steps of {self.step:g} from {self.first:g} do not reach {self.last:g}")
        return self

    def numbers(self) -> list[float | int]:
        """Whole numbers where all three are."""
        n = round((self.last - self.first) / self.step)
        found = [round(self.first + i * self.step, 10) for i in range(n + 1)]
        whole = all(x == int(x) for x in (self.first, self.last, self.step))
        return [int(x) for x in found] if whole else found


class Budget(Knobs):
    """What the sweep may take."""

    runs: Count = 64
    """Runs that the grid may have; a larger one is refused."""
    at_once: Count = 1
    """Runs that go on at the same time."""
    cpus: Count | None = None
    """CPUs that Ray may give to all of them; default: as many as that many runs ask for."""


class Ablation(Knobs):
    """A grid of runs: one config, axes along which it is changed, seeds, and what is measured."""

    base: str
    """The run's config, found from this file's folder."""
    overrides: dict[str, Any] = Field(default_factory=dict)
    """Keys changed in every cell."""
    axes: Annotated[dict[str, Range | list[Any] | dict[str, dict[str, Any]]], Field(min_length=1)]
    """Key path -> values or range; or a name -> named sets of keys."""
    skip: tuple[dict[str, Scalar], ...] = ()
    """Cells that are left out, by the values of some axes."""
    control: dict[str, Scalar] = Field(default_factory=dict)
    """The cell that the others are compared with; default: the first value of every axis not named here."""
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
    """Seeds of every cell's runs."""
    measure: Annotated[dict[str, Measure | str], Field(min_length=1)]
    """What is read off every run, by the name it has in tables: STAGE/metric, or a section."""
    budget: Budget = Budget()
    """What the sweep may take."""
    style: Literal["auto", "lines", "dots"] = "auto"
    """Figures: lines over the first axis of numbers, or a row of dots per cell; auto: lines where there is one."""


@dataclass(frozen=True)
class Cell:
    """One value of every axis. `values` are what the tables and the figures show, `settings` the keys it means."""

    values: Mapping[str, Scalar]
    settings: Mapping[str, Any]

    @property
    def label(self) -> str:
        return ", ".join(f"{axis} {_shown(value)}" for axis, value in self.values.items())

    @property
    def folder(self) -> str:
        """The label as a directory's name."""
        text = ",".join(f"{axis}={_shown(value)}" for axis, value in self.values.items())
        return re.sub(r"[^\w.,=+-]+", "_", text)


@dataclass(frozen=True)
class Plan:
    """A checked ablation.

    axes      the values of every axis by its short name, in order
    configs   each cell's config by seed
    """

    path: Path
    name: str
    ablation: Ablation
    axes: Mapping[str, Sequence[Scalar]]
    cells: Sequence[Cell]
    control: Cell
    measures: Mapping[str, Measure]
    configs: Mapping[str, Mapping[int, Config]]
    base: Mapping[str, Any]


def load_plan(path: Path) -> Plan:
    """Read, expand and check everything that needs no run. Raises `Refused` with one line."""
    data = read_yaml(path)
    if set(data) != {"ablation"}:
        hint = "this is a run's config: `assay run` it" if "stages" in data else f"found {', '.join(map(str, data))}"
        raise Refused(f"{path}: expected the one key `ablation`; {hint}")
    try:
        ablation = Ablation.model_validate(data["ablation"])
    except ValidationError as error:
        raise refusal(error, data["ablation"], f"{path}: ablation") from None
    where = f"{path}: ablation"
    if len(set(ablation.seeds)) < len(ablation.seeds):
        twice = next(seed for seed in ablation.seeds if ablation.seeds.count(seed) > 1)
        raise Refused(f"{where}.seeds: {twice} stands there more than once; the same run twice is no second sample")
    base_path = path.parent / ablation.base
    base = read_yaml(base_path)
    for key, value in ablation.overrides.items():
        assign(base, key, value, f"{where}.overrides.{key}")
    whole = parse_config(base, f"{base_path} with {where}.overrides" if ablation.overrides else str(base_path))
    cells, axes = _cells(ablation, base, whole, where)
    measures = {name: Measure(metric=m) if isinstance(m, str) else m for name, m in ablation.measure.items()}
    for name, measure in measures.items():
        check_measure(measure, whole, f"{where}.measure.{name}")
    configs = {cell.folder: _configs(cell, base, ablation.seeds, where) for cell in cells}
    _check_different(cells, configs, where)
    control = _control(ablation, axes, cells, where)
    runs, most = len(cells) * len(ablation.seeds), ablation.budget.runs
    if runs > most:
        raise Refused(
            f"{where}.budget.runs: the grid has {runs} runs ({len(cells)} cells, {len(ablation.seeds)} seeds), "
            f"{most} are allowed"
        )
    return Plan(path, path.stem, ablation, axes, cells, control, measures, configs, whole.model_dump(mode="json"))


def _cells(
    ablation: Ablation, base: Mapping[str, Any], whole: Config, where: str
) -> tuple[list[Cell], dict[str, list[Scalar]]]:
    dump = whole.model_dump(mode="json")
    choices: dict[str, list[tuple[Scalar, dict[str, Any]]]] = {}
    short = {axis: axis.rpartition(".")[2] for axis in ablation.axes}
    for axis, given in ablation.axes.items():
        at = f"{where}.axes.{axis}"
        name = short[axis] if list(short.values()).count(short[axis]) == 1 else axis
        if isinstance(given, dict):
            found: list[tuple[Scalar, dict[str, Any]]] = [(label, settings) for label, settings in given.items()]
        else:
            values = given.numbers() if isinstance(given, Range) else given
            found = [(_scalar(value), {axis: value}) for value in values]
        if not found:
            raise Refused(f"{at}: expected one or more values, found none")
        for key in {key: None for _, settings in found for key in settings}:
            _check_path(key, base, dump, at, ablation.base)
        choices[name] = found
    cells = []
    for picked in itertools.product(*choices.values()):
        values = {axis: value for axis, (value, _) in zip(choices, picked, strict=True)}
        settings = {key: value for _, chosen in picked for key, value in chosen.items()}
        cells.append(Cell(values, settings))
    axes = {axis: [value for value, _ in found] for axis, found in choices.items()}
    for i, left_out in enumerate(ablation.skip):
        _check_values(left_out, axes, f"{where}.skip.{i}")
    kept = [c for c in cells if not any(out.items() <= dict(c.values).items() for out in ablation.skip if out)]
    if not kept:
        raise Refused(f"{where}.skip: leaves out every cell")
    return kept, axes


def _check_path(key: str, base: Any, dump: Any, at: str, name: str) -> None:
    """Every section on the way to the key has to be there already; whether the key is known shows when it is set."""
    *parents, _ = key.split(".")
    for i, part in enumerate(parents):
        base = base.get(part) if isinstance(base, Mapping) else None
        known = list(dump) if isinstance(dump, Mapping) else []
        if isinstance(dump, Mapping) and part in dump:
            dump = dump[part]
        elif not isinstance(base, Mapping):
            hint = nearest(part, known) if known else "there are no keys in it"
            raise Refused(f"{at}: {name} has no section {'.'.join(parents[: i + 1])!r}; {hint}")
        else:
            dump = base


def _check_values(chosen: Mapping[str, Scalar], axes: Mapping[str, Sequence[Scalar]], where: str) -> None:
    for axis, value in chosen.items():
        if axis not in axes:
            raise Refused(f"{where}: unknown axis {axis!r}; {nearest(axis, axes)}")
        if value not in axes[axis]:
            raise Refused(f"{where}.{axis}: found {said(value)}; {nearest(str(value), [str(v) for v in axes[axis]])}")


def _control(ablation: Ablation, axes: Mapping[str, Sequence[Scalar]], cells: Sequence[Cell], where: str) -> Cell:
    _check_values(ablation.control, axes, f"{where}.control")
    wanted = {axis: ablation.control.get(axis, values[0]) for axis, values in axes.items()}
    found = next((cell for cell in cells if cell.values == wanted), None)
    if found is None:
        raise Refused(f"{where}.control: the cell {Cell(wanted, {}).label} is left out by skip")
    return found


def _configs(cell: Cell, base: Mapping[str, Any], seeds: Sequence[int], where: str) -> dict[int, Config]:
    data = copy.deepcopy(dict(base))
    for key, value in cell.settings.items():
        assign(data, key, copy.deepcopy(value), f"{where}: cell {cell.label}")
    return {seed: parse_config({**data, "seed": seed}, f"{where}: cell {cell.label}") for seed in seeds}


def _check_different(cells: Sequence[Cell], configs: Mapping[str, Mapping[int, Config]], where: str) -> None:
    seen: dict[str, Cell] = {}
    for cell in cells:
        config = next(iter(configs[cell.folder].values()))
        same = seen.setdefault(identity(config), cell)
        if same is not cell:
            raise Refused(f"{where}.axes: the cells {same.label} and {cell.label} are the same run")


def identity(config: Config) -> str:
    """What a run does, as text: equal texts are runs with equal results (but for seconds)."""
    return json.dumps(config.model_dump(mode="json", exclude={"tracking", "checkpoints"}), sort_keys=True)


def _scalar(value: Any) -> Scalar:
    return value if isinstance(value, Scalar) else json.dumps(value)


def _shown(value: Scalar) -> str:
    if isinstance(value, bool) or value is None:
        return said(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
