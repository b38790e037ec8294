"""`assay audit`: asks a config's reward sources about labelled answers, and writes their report cards.

labelled rows --> the panel, twice, and once with the answers in reverse order --> scores of every source
              --> contrasts: another task's answer, and the answer under another task's prompt
              --> master keys: answers that say nothing              --> cards (reportcard.py) --> HTML and JSON
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import Rewards
from pipeline.lab.clustered import share
from pipeline.lab.labelled import Labelled
from pipeline.lab.page import write_page
from pipeline.lab.reportcard import Answers, card, marks_of, warnings
from pipeline.lab.stepcard import step_card
from pipeline.panels import panel_of
from rewards.noise import bounds_of
from rewards.panel import Panel
from rewards.ports import Toolbox
from rewards.types import Group, Rollout, Score, Turn
from workers.judging.live import LiveToolbox

# Answers that say nothing (Zhao et al., arXiv 2507.08794), which judges have taken for right.
MASTER_KEYS = (" ", ".", ",", ":", "Thought process:", "Let's solve this problem step by step.", "Solution")
TRIED = 200  # tasks of the contrasts and the master keys
HELPERS = 2  # processes for sources that use them
AT_ONCE = 8  # groups that are out at the same time
WHOLE = "reward"  # the name of the whole panel among its sources


def audit(rewards: Rewards, rows: Sequence[Labelled]) -> dict[str, Any]:
    """{source: card with warnings}; of several sources the panel's reward is one more."""
    return asyncio.run(_hosted(replace(panel_of(rewards), gold=None), rows))


async def _hosted(panel: Panel, rows: Sequence[Labelled]) -> dict[str, Any]:
    imports = {name for source in panel.sources for name in getattr(source, "helper_imports", ())}
    tools = LiveToolbox(HELPERS, tuple(sorted(imports)))
    try:
        await tools.warm(panel)
        return await cards(panel, rows, tools)
    finally:
        await tools.aclose()


async def cards(panel: Panel, rows: Sequence[Labelled], tools: Toolbox) -> dict[str, Any]:
    """See `audit`."""
    texts = [row.texts for row in rows]
    began = time.perf_counter()
    first = await _asked(panel, rows, texts, tools)
    seconds = time.perf_counter() - began
    again = await _asked(panel, rows, texts, tools)
    turned = await _asked(panel, rows, [tuple(reversed(row.texts)) for row in rows], tools)
    few = rows[:TRIED]
    others = await _contrasts(panel, few, tools)
    keys = await _asked(panel, few, [MASTER_KEYS] * len(few), tools)
    sources = {seat.name: bounds_of(seat.source) for seat in panel.seats}
    if len(sources) > 1:
        sources[WHOLE] = None
    out = {}
    for name, bounds in sources.items():
        scores = [_scores(group, name) for group in first]
        found = card(_answers(rows, scores), bounds)
        found["steps"] = step_card(rows, scores, bounds)
        values = [_values(group) for group in scores]
        found["retest"] = _changed(values, [_values(_scores(group, name)) for group in again])
        found["order"] = _changed(values, [_values(_scores(group, name))[::-1] for group in turned])
        found["contrast"] = {k: _contrast(v, few, values, name) if v else None for k, v in others.items()}
        found["keys"] = _fooled(few, values, [_values(_scores(group, name)) for group in keys], bounds)
        found |= _costs([score for group in scores for score in group], seconds)
        found["warnings"] = [asdict(warning) for warning in warnings(found)]
        out[name] = found
    return out


async def _asked(
    panel: Panel, rows: Sequence[Labelled], texts: Sequence[Sequence[str]], tools: Toolbox
) -> list[list[dict[str, Score]]]:
    """For each row's texts the scores by source, the panel's reward among them."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(number: int, row: Labelled, written: Sequence[str]) -> list[dict[str, Score]]:
        async with places:
            scored = await panel.judge(group_of(number, row, written), tools)
        return [
            dict(v.scores) | {WHOLE: Score(v.reward) if v.reward is not None else Score(failure=v.failure)}
            for v in scored.verdicts
        ]

    return list(await asyncio.gather(*(one(i, *both) for i, both in enumerate(zip(rows, texts, strict=True)))))


def group_of(number: int, row: Labelled, texts: Sequence[str]) -> Group:
    """The texts as if a policy had written them; there are no tokens."""
    none = np.zeros(0, np.int32)
    turns = (Turn(none, none, np.zeros(0, np.float32), text, "stop", ((0, 0),)) for text in texts)
    return Group(number, row.task, tuple(Rollout(i, (turn,)) for i, turn in enumerate(turns)))


async def _contrasts(panel: Panel, rows: Sequence[Labelled], tools: Toolbox) -> dict[str, list[Any]]:
    """Contrast instructions (arXiv 2310.00602): the next task's best answer under this prompt, this one's under it."""
    if len(rows) < 2:
        return {"response": [], "instruction": []}
    best = [row.texts[int(np.argmax(row.labels))] for row in rows]
    following = [rows[(i + 1) % len(rows)] for i in range(len(rows))]
    foreign = [(best[(i + 1) % len(rows)],) for i in range(len(rows))]
    elsewhere = [replace(other, texts=(text,)) for other, text in zip(following, best, strict=True)]
    return {
        "response": await _asked(panel, rows, foreign, tools),
        "instruction": await _asked(panel, elsewhere, [row.texts for row in elsewhere], tools),
    }


def _contrast(asked: Any, rows: Sequence[Labelled], values: Sequence[np.ndarray], name: str) -> dict[str, Any] | None:
    """How often a task's best answer beats the contrast."""
    own = np.array([v[int(np.argmax(row.labels))] for row, v in zip(rows, values, strict=False)])
    other = np.array([_values(_scores(group, name))[0] for group in asked])
    there = ~np.isnan(own) & ~np.isnan(other)
    return share((own > other)[there], np.flatnonzero(there))


def _fooled(
    rows: Sequence[Labelled], values: Sequence[np.ndarray], keys: Sequence[np.ndarray], bounds: Any
) -> dict[str, Any]:
    """How often each key counts as right: above the middle of the bounds, or above the task's best labelled answer."""
    out = {}
    for k, key in enumerate(MASTER_KEYS):
        found = np.array([v[k] for v in keys])
        best = np.array([v[int(np.argmax(row.labels))] for row, v in zip(rows, values, strict=False)])
        limit = best if bounds is None else np.full(len(found), sum(bounds) / 2)
        there = ~np.isnan(found) & ~np.isnan(limit)
        out[key] = share((found > limit)[there], np.flatnonzero(there))
    return out


def _scores(group: Sequence[dict[str, Score]], name: str) -> list[Score]:
    return [row[name] for row in group]


def _values(scores: Sequence[Score]) -> np.ndarray:
    return np.array([np.nan if score.value is None else score.value for score in scores])


def _changed(values: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> dict[str, Any] | None:
    """The share of answers whose score changed; one that failed only once counts as changed."""
    a, b = np.concatenate(values), np.concatenate(others)
    same = np.isclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True)  # a batch's rounding is no change of mind
    return share(~same, np.repeat(np.arange(len(values)), [len(row) for row in values]))


def _answers(rows: Sequence[Labelled], scores: Sequence[Sequence[Score]]) -> Answers:
    texts = [text for row in rows for text in row.texts]
    return Answers(
        np.repeat(np.arange(len(rows)), [len(row.texts) for row in rows]),
        [row.subset for row in rows],
        np.array([label for row in rows for label in row.labels]),
        np.array([float(len(text)) for text in texts]),
        np.array([marks_of(text) for text in texts]),
        np.concatenate([_values(group) for group in scores]),
        np.array([style for row in rows for style in row.styles or [-1] * len(row.texts)]),
    )


def _costs(scores: Sequence[Score], seconds: float) -> dict[str, Any]:
    latency = [score.latency for score in scores]
    return {
        "latency": {"mean": float(np.mean(latency)), "p95": float(np.quantile(latency, 0.95))},
        "cost": float(sum(score.cost for score in scores)),
        "answers_per_s": len(scores) / max(seconds, 1e-9),
    }


def write_audit(folder: Path, data: Path, config: Path, found: dict[str, Any]) -> Path:
    """audit.json and audit.html in the folder; the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    said = {"config": str(config), "data": str(data), "sources": found}
    (folder / "audit.json").write_text(json.dumps(said, indent=1))
    return write_page(folder / "audit.html", "audit.html.j2", {}, said)
