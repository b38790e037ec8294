"""What the laboratory's pages have in common: how they are rendered, and how numbers are written for people."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


def write_page(path: Path, template: str, scripts: Mapping[str, str], values: Mapping[str, Any]) -> Path:
    """Renders the template, with the style and the scripts inlined, and puts the page in place whole."""
    pages = Environment(
        loader=PackageLoader("pipeline.lab", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {"num": number, "time": seconds_text, "percent": percent, "trend": trend_path}
    own = {"style": Markup(room_text("report.css"))} | {name: Markup(text) for name, text in scripts.items()}
    page = pages.get_template(template).render(**own, **values)
    part = path.with_suffix(".html.part")
    part.write_text(page, encoding="utf-8", errors="replace")
    part.replace(path)
    return path


def charted(sections: Any, samples: Any) -> dict[str, str]:
    """What a page of curves and samples needs in scripts: Plotly, report.js, and the data for it."""
    from plotly.offline import get_plotlyjs

    data = embedded({"sections": sections, "samples": samples})
    return {"script": room_text("report.js"), "plotly": get_plotlyjs(), "data": data}


def room_text(name: str) -> str:
    """A file that lies beside this one."""
    return (files("pipeline.lab") / name).read_text()


def embedded(value: Any) -> str:
    """JSON that can stand inside a script element: no "<" of a completion ends it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def number(value: float | None) -> str:
    """Three or four significant digits, thousands apart; very small and very large ones with an exponent."""
    if value is None or not math.isfinite(value):
        return "–"
    size = abs(value)
    if value == int(value) and size < 1e6:
        return f"{int(value):,}"
    if size >= 1e6 or size < 1e-3:
        return f"{value:.2e}"
    if size < 0.1:
        return f"{value:.3g}"
    return f"{value:,.0f}" if size >= 1000 else f"{value:.{2 if size >= 10 else 3}f}"


def percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def seconds_text(value: float) -> str:
    """0.83 s, 42.1 s, 1 min 07 s, 2 h 03 min."""
    if value < 60:
        return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    return f"{minutes} min {seconds:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def trend_path(trend: Sequence[float]) -> str:
    """An SVG polyline's points in a box of 100 by 20."""
    last = max(len(trend) - 1, 1)
    return " ".join(f"{100 * i / last:.1f},{18 - 16 * y:.1f}" for i, y in enumerate(trend))
