"""Gold score and proxy over the distance from the stage's first policy, and the law fitted through the gold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.lab.charts import Curves, rounded
from pipeline.lab.overoptimization import Law, Unfitted, fit

STEPS = "Over the distance from the stage's first policy, the square root of the KL in nats, a point for every step."
DRAWS = "Of each task the best of 1, 2, 4, … samples by the reward, over the square root of that choice's KL in nats."
_NAMES = ("gold/kl_sqrt", "gold/mean", "reward/mean")
_BLOCKS = 10  # neighbouring steps share their policy: the bootstrap keeps a tenth of the stage together


def gold_chart(found: Curves) -> dict[str, Any] | None:
    """{"d", "gold", "proxy": a number for every step, "law"}; None of a stage that asked no gold source."""
    if not set(_NAMES) <= set(found):
        return None
    by_step = [dict(zip(*found[name], strict=True)) for name in _NAMES]
    steps = sorted(set.intersection(*(set(one) for one in by_step)))
    d, scores, rewards = ([rounded(one[step]) for step in steps] for one in by_step)
    law = fit("rl", d, scores, block=max(1, len(d) // _BLOCKS))
    return {"d": d, "gold": scores, "proxy": rewards, "law": _drawn(law), "title": "Gold against proxy", "note": STEPS}


def best_of_n_chart(stage: Mapping[str, Any]) -> dict[str, Any] | None:
    """The same of an evaluation that drew several samples for a task, from its results; None of any other."""
    points, law = stage.get("best_of_n"), stage.get("best_of_n_law")
    if not points or law is None:
        return None
    found = Unfitted(**law) if "reason" in law else Law(**law)
    columns = ([rounded(point[name]) for point in points] for name in ("d", "gold", "proxy"))
    out: dict[str, Any] = dict(zip(("d", "gold", "proxy"), columns, strict=True))
    return out | {"law": _drawn(found), "title": "Best of n", "note": DRAWS}


def _drawn(law: Law | Unfitted) -> dict[str, Any]:
    if isinstance(law, Unfitted):
        return {"x": [], "y": [], "text": f"{law.reason}."}
    x = np.linspace(max(law.reach[0], 1e-3), law.reach[1], 80)
    form = "d (a - b ln d)" if law.form == "rl" else "d (a - b d)"
    found = f"Gao's law: gold = {law.start:.3g} + {form}, a {_value(law.a, law.a_interval)}, "
    found += f"b {_value(law.b, law.b_interval)}; "
    if law.named and law.peak is not None and law.peak_interval is not None:
        found += f"gold peaks at d {_value(law.peak, law.peak_interval)}."
    else:
        found += f"{law.refusal}."
    return {"x": [rounded(float(one)) for one in x], "y": [rounded(float(one)) for one in law.curve(x)], "text": found}


def _value(value: float, interval: tuple[float, float]) -> str:
    return f"{value:.3g} [{interval[0]:.3g}, {interval[1]:.3g}]"
