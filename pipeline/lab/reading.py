"""Which samples are worth reading: where proxy and gold disagree most, and what changed most over the training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

import numpy as np

MOST_CHARACTERS = 1500  # of each text that is compared: the time that it takes grows with their product


def compared(rows: Sequence[Mapping[str, Any]], evaluations: Sequence[str]) -> list[dict[str, Any]]:
    """The rows, some with more in them: `disagreeing`, how far reward and gold score are apart, both in standard
    deviations of the stage's samples; and, in the last evaluation's rows, `changed` and `before`: how far the answer to
    the same task is from that of the evaluation before it, by text (0 to 1) and by reward."""
    out = [dict(row) for row in rows]
    _disagree(out)
    if len(evaluations) > 1:
        _change(out, evaluations[-2], evaluations[-1])
    return out


def _disagree(rows: list[dict[str, Any]]) -> None:
    by_stage: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row.get("reward") is not None and _gold(row) is not None:
            by_stage.setdefault(row["stage"], []).append(row)
    for members in by_stage.values():
        proxy = _standard([row["reward"] for row in members])
        gold = _standard([_gold(row) for row in members])
        for row, apart in zip(members, np.abs(proxy - gold).tolist(), strict=True):
            row["disagreeing"] = round(apart, 4)


def _gold(row: Mapping[str, Any]) -> Any:
    return (row.get("scores") or {}).get("gold", {}).get("value")


def _standard(values: Sequence[Any]) -> np.ndarray:
    x = np.asarray(values, float)
    return (x - x.mean()) / x.std() if x.std() > 0 else np.zeros(len(x))


def _change(rows: list[dict[str, Any]], first: str, last: str) -> None:
    before = {(row["task"], row["index"]): row for row in rows if row["stage"] == first}
    for row in rows:
        earlier = before.get((row["task"], row["index"])) if row["stage"] == last else None
        if earlier is None:
            continue
        a, b = earlier["completion"][:MOST_CHARACTERS], row["completion"][:MOST_CHARACTERS]
        worth = abs((row["reward"] or 0.0) - (earlier["reward"] or 0.0))
        row["changed"] = round(1 - SequenceMatcher(None, a, b, autojunk=False).ratio() + worth, 4)
        row["before"] = {key: earlier[key] for key in ("stage", "completion", "reward")}
