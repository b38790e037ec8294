"""Reward models that a run learns itself: `model: {path: STAGE}` of a source is an earlier reward_model stage's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.config import Config, RewardModelStage, Rewards
from rewards.declared import ScalarModel
from rewards.panel import Panel


def learned_here(config: Config, rewards: Rewards) -> list[str]:
    """The stages whose reward models these rewards ask."""
    paths = [getattr(getattr(seat, "model", None), "path", None) for seat in rewards.sources.values()]
    return [str(path) for path in paths if isinstance(config.stages.get(str(path)), RewardModelStage)]


def located(panel: Panel, config: Config, run_dir: Path) -> Panel:
    """The panel whose sources find those models where their stages put them: RUN_DIR/stages/STAGE."""
    made = _made(config)
    seats = []
    for seat in panel.seats:
        source: Any = seat.source
        found = {name: replace(m, path=str(run_dir / "stages" / m.path)) for name, m in _models(source, made)}
        seats.append(replace(seat, source=replace(source, **found)) if found else seat)
    return replace(panel, seats=tuple(seats))


def present(panel: Panel, config: Config) -> Panel:
    """The panel without the sources that can't be asked before their model is learned."""
    return replace(panel, seats=tuple(seat for seat in panel.seats if not list(_models(seat.source, _made(config)))))


def _made(config: Config) -> set[str]:
    return {name for name, stage in config.stages.items() if isinstance(stage, RewardModelStage)}


def _models(source: Any, made: set[str]) -> Iterator[tuple[str, ScalarModel]]:
    for field in fields(source) if is_dataclass(source) else ():
        value = getattr(source, field.name)
        if isinstance(value, ScalarModel) and value.path in made:
            yield field.name, value
