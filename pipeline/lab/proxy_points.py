"""Proxy points: how high a source's mean may be pushed before gold falls (Moskovitz et al., arXiv 2310.04373).

    gold = c + b'v + v'A v        v: the means of the sources at one step; v* = -A^-1 b / 2 where A is negative definite

Fitted by least squares to all steps of all runs at once, since sources that go together shift each other's points.
Intervals are a bootstrap's, of blocks of steps. A point is named only where it and its whole interval lie inside what
the runs have seen. What differs: the paper finds them by a Nelder-Mead search that trains as it goes; here runs that
are done are read, which must have gone past the point, and pulled their sources apart (as other weights do).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline import rundir
from pipeline.lab.statistics import bootstrap, interval
from pipeline.stores.files import read_jsonl
from rewards.errors import Refused

_SOURCE = re.compile(r"reward/source/([^/]+)/mean")
_BLOCKS = 20  # neighbouring steps share their policy: the bootstrap keeps a twentieth of all steps together
_LEAST = 3  # steps for each of the fit's parameters
Steps = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class ProxyPoint:
    """One source's.

    value     None where the fitted gold score has no highest point
    interval  95%, None where the fit of one replicate in forty has none
    reach     (lowest, highest) mean that was seen
    refusal   why it can't be named; empty where it can
    """

    value: float | None
    interval: tuple[float, float] | None
    reach: tuple[float, float]
    refusal: str


def found(folders: Sequence[Path]) -> str:
    """What `assay points` prints: every source's point, and the config's line with those that could be named. Raises
    `Refused`."""
    steps, gold = read_steps(folders)
    points = proxy_points(steps, gold)
    lines = [f"{len(gold):,} steps with a gold score"]
    for name, point in points.items():
        lines.append(f"{name}  {point.refusal}" if point.refusal else f"{name}  {_told(point)}")
    named = {name: f"{point.value:.4g}" for name, point in points.items() if not point.refusal}
    if named:
        inside = ", ".join(f"{json.dumps(name)}: {value}" for name, value in named.items())
        lines.append(f"combine: {{kind: constrained, points: {{{inside}}}}}")
    return "\n".join(lines)


def _told(point: ProxyPoint) -> str:
    low, high = point.interval or (np.nan, np.nan)
    return f"{point.value:.4g} [{low:.4g}, {high:.4g}], seen from {point.reach[0]:.3g} to {point.reach[1]:.3g}"


def read_steps(folders: Sequence[Path]) -> tuple[Steps, np.ndarray]:
    """Of runs, and of all runs of sweeps: {source: its mean f64[n]} and the gold score f64[n] at every step that has
    both, run after run. Raises `Refused` where there are none, or two stages were judged by other sources."""
    rows: list[tuple[str, Mapping[str, float], float]] = []
    for run_dir in _runs(folders):
        for row in read_jsonl(run_dir / "metrics.jsonl"):
            found = {m[1]: value for key, value in row["metrics"].items() if (m := _SOURCE.fullmatch(key))}
            gold = row["metrics"].get("gold/mean")
            if found and gold is not None:
                rows.append((f"{run_dir}, stage {row['stage']}", found, gold))
    if not rows:
        raise Refused(f"{folders[0]}: no step has a gold score, expected runs with `rewards.gold` (metric gold/mean)")
    names = list(dict.fromkeys(name for _, found, _ in rows for name in found))
    whole = [row for row in rows if len(row[1]) == len(names)]
    if not whole:
        raise Refused(f"{rows[0][0]}: sources {', '.join(rows[0][1])}; expected runs that all have {', '.join(names)}")
    return {name: np.array([f[name] for _, f, _ in whole]) for name in names}, np.array([gold for *_, gold in whole])


def _runs(folders: Sequence[Path]) -> list[Path]:
    out = []
    for folder in folders:
        if (folder / "sweep.json").exists():
            out += [path.parent for path in sorted((folder / "runs").glob("*/seed-*/metrics.jsonl"))]
        else:
            rundir.check_holds_run(folder)
            out.append(folder)
    return out


def proxy_points(steps: Steps, gold: np.ndarray, seed: int = 0) -> dict[str, ProxyPoint]:
    """The point of each source, from step means f64[n] and gold scores f64[n] of the same steps.

    Raises `Refused` where there are too few steps to tell, or a source never moved.
    """
    names, x = list(steps), np.column_stack([steps[name] for name in steps])
    low, high = x.min(axis=0), x.max(axis=0)
    still = next((name for name, a, b in zip(names, low, high, strict=True) if a == b), None)
    if still is not None:
        raise Refused(f"source {still!r}: its mean was {steps[still][0]:g} at every step; no point can be told")
    terms = _terms((x - low) / (high - low))
    if len(x) < _LEAST * terms.shape[1]:
        wanted = f"{_LEAST * terms.shape[1]} or more for {len(names)} sources"
        raise Refused(f"{len(x)} steps have a gold score, expected {wanted}")

    def solve(places: np.ndarray) -> np.ndarray:
        return low + _peak(terms[places], gold[places], len(names)) * (high - low)

    found = solve(np.arange(len(x)))
    replicates = bootstrap(solve, len(x), seed, block=max(1, len(x) // _BLOCKS))
    return {name: _point(found[i], replicates[:, i], (float(low[i]), float(high[i]))) for i, name in enumerate(names)}


def _terms(x: np.ndarray) -> np.ndarray:
    """f64[n, 1 + N + N(N+1)/2]: one, the sources, their products."""
    rows, columns = np.triu_indices(x.shape[1])
    return np.column_stack([np.ones(len(x)), x, x[:, rows] * x[:, columns]])


def _peak(terms: np.ndarray, gold: np.ndarray, n: int) -> np.ndarray:
    """v* f64[n]; not a number where the fitted surface has no highest point."""
    solved = np.linalg.lstsq(terms, gold, rcond=None)[0]
    a = np.zeros((n, n))
    a[np.triu_indices(n)] = solved[1 + n :]
    a = (a + a.T) / 2
    if np.linalg.eigvalsh(a)[-1] >= 0:
        return np.full(n, np.nan)
    return np.linalg.solve(a, -solved[1 : 1 + n] / 2)


def _point(value: float, replicates: np.ndarray, reach: tuple[float, float]) -> ProxyPoint:
    seen = f"the runs reach from {reach[0]:.3g} to {reach[1]:.3g}"
    if np.isnan(value):
        return ProxyPoint(None, None, reach, f"gold has no peak in these runs ({seen})")
    there = not np.isnan(replicates).mean() > 0.025
    low, high = interval(replicates) if there else (np.nan, np.nan)
    spread = (float(low), float(high)) if there else None
    if not reach[0] <= value <= reach[1]:
        refusal = f"the fitted peak, {value:.3g}, lies outside what was seen ({seen})"
    elif spread is None:
        refusal = f"whether gold has a peak is not sure ({seen})"
    elif spread[0] < reach[0] or spread[1] > reach[1]:
        refusal = f"its interval, {low:.3g} to {high:.3g}, leaves what was seen ({seen})"
    else:
        refusal = ""
    return ProxyPoint(float(value), spread, reach, refusal)
