"""Reward models that a run learns itself: `model: {path: STAGE}` of a source is an earlier reward_model stage's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.config import Config, RewardModelStage, Rewards
from rewards.declared import ScalarModel
from rewards.panel import Panel, Seat


def learned_here(config: Config, rewards: Rewards) -> list[str]:
    """The stages whose reward models these rewards ask."""
    seats = (*rewards.sources.values(), rewards.gold)
    paths = [getattr(getattr(seat, "model", None), "path", None) for seat in seats]
    return [str(path) for path in paths if isinstance(config.stages.get(str(path)), RewardModelStage)]


def located(panel: Panel, config: Config, run_dir: Path) -> Panel:
    """The panel whose sources find those models where their stages put them: RUN_DIR/stages/STAGE."""
    made = _made(config)

    def seated(seat: Seat) -> Seat:
        source: Any = seat.source
        found = {name: replace(m, path=str(run_dir / "stages" / m.path)) for name, m in _models(source, made)}
        return replace(seat, source=replace(source, **found)) if found else seat

    gold = panel.gold and replace(panel.gold, seat=seated(panel.gold.seat))
    return replace(panel, seats=tuple(map(seated, panel.seats)), gold=gold)


def present(panel: Panel, config: Config) -> Panel:
    """The panel without the sources that can't be asked before their model is learned."""
    made = _made(config)
    gold = None if panel.gold and list(_models(panel.gold.seat.source, made)) else panel.gold
    return replace(panel, seats=tuple(seat for seat in panel.seats if not list(_models(seat.source, made))), gold=gold)


def _made(config: Config) -> set[str]:
    return {name for name, stage in config.stages.items() if isinstance(stage, RewardModelStage)}


def _models(source: Any, made: set[str]) -> Iterator[tuple[str, ScalarModel]]:
    for field in fields(source) if is_dataclass(source) else ():
        value = getattr(source, field.name)
        if isinstance(value, ScalarModel) and value.path in made:
            yield field.name, value
