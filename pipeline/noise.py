"""What `rewards.noise` came to in a step: the rates that were realised, beside the ones that were asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.metrics import without_signal
from rewards.noise import Noise, bounds_of
from rewards.panel import Panel, Seat
from rewards.types import Score, ScoredGroup


def noise_metrics(panel: Panel, groups: Sequence[ScoredGroup]) -> dict[str, float]:
    """Of a step's groups; nothing where the panel has no noise. A mean over nothing is left out."""
    if panel.noise is None:
        return {}
    verdicts = [verdict for scored in groups for verdict in scored.verdicts]
    clean = [verdict.clean for verdict in verdicts if verdict.clean is not None]
    dead = [without_signal([verdict.clean for verdict in scored.verdicts]) for scored in groups]
    out = {"reward/clean/groups_without_signal": float(np.mean(dead))}
    if clean:
        out["reward/clean/mean"] = float(np.mean(clean))
    for seat in panel.seats:
        if panel.noise.disturbs(seat.name, seat.weight):
            scores = [verdict.scores[seat.name] for verdict in verdicts if seat.name in verdict.scores]
            out |= _source_metrics(panel.noise, seat, [score for score in scores if score.clean is not None])
    return out


def _source_metrics(noise: Noise, seat: Seat, scores: Sequence[Score]) -> dict[str, float]:
    if not scores:
        return {}
    prefix = f"reward/noise/{seat.name}"
    clean = np.array([score.clean for score in scores], float)
    noisy = np.array([np.nan if score.value is None else score.value for score in scores])
    changed, there = noisy != clean, ~np.isnan(noisy)  # what is missing is changed
    out = {f"{prefix}/changed": float(changed.mean())}
    if there.any():
        out[f"{prefix}/error"] = float(np.sqrt(np.mean((noisy - clean)[there] ** 2)))
    middle = noise.middle(bounds_of(seat.source))
    if middle is not None:
        positive = clean > middle
        rates = {"false_positive": changed[~positive], "false_negative": changed[positive]}
        out |= {f"{prefix}/{name}": float(found.mean()) for name, found in rates.items() if len(found)}
    return out
