"""The figures' Vega-Lite specifications, one panel at a time with their rows once.

Also how the legend draws each method.
"""

from typing import Any

import pandas as pd

from tbn_bench.reporting import names, style
from tbn_bench.reporting.page.packing import columns

_JOINS = ("concat", "hconcat", "vconcat")
# of a panel's subtitle; the page itself shows the title
_NOTE = {"anchor": "start", "fontSize": 11, "fontWeight": "normal"}
# Vega's named shapes as paths within a unit square; its other shapes are paths already.
_PATHS = {
    "circle": "M1,0A1,1,0,1,1,-1,0A1,1,0,1,1,1,0Z",
    "square": "M-.9,-.9H.9V.9H-.9Z",
    "diamond": "M0,-1L1,0L0,1L-1,0Z",
    "cross": "M-1,-.4H-.4V-1H.4V-.4H1V.4H.4V1H-.4V.4H-1Z",
    "triangle-up": "M0,-1L1,.8H-1Z",
    "triangle-down": "M0,1L1,-.8H-1Z",
    "triangle-left": "M-1,0L.8,-1V1Z",
    "triangle-right": "M1,0L-.8,-1V1Z",
}


def figure(name: str, title: str, spec: dict[str, Any]) -> dict[str, Any]:
    """A chart of several panels as panels to choose from.

    Each is drawn separately, as wide as the reader's window allows. Panels without their own titles
    stay together.
    """
    parts = _parts(spec)
    outer_keys = ("$schema", "config", "data", "params")
    outer = {key: spec[key] for key in outer_keys if key in spec}
    panels = []
    for part in parts:
        own = {key: value for key, value in part.items() if key != "title"}
        heading = part.get("title")
        if isinstance(heading, dict) and heading.get("subtitle"):
            own["title"] = _NOTE | {"text": heading["subtitle"]}
        panels.append({"title": _title(part), "spec": outer | own})
    return {
        "name": name,
        "title": title,
        "panels": panels,
        "datasets": spec.get("datasets", {}),
    }


def _parts(spec: dict[str, Any]) -> list[dict[str, Any]]:
    joined = [spec[join] for join in _JOINS if join in spec]
    parts: list[dict[str, Any]] = joined[0] if joined else [spec]
    titles = {_title(part) for part in parts}
    if len(titles) < len(parts):
        return [spec | {"title": "", "datasets": {}}]
    return parts


def _title(spec: dict[str, Any]) -> str:
    title = spec.get("title") or ""
    text = title.get("text", "") if isinstance(title, dict) else title
    whole = " ".join(text) if isinstance(text, list) else str(text)
    return whole.replace("\u00a0", " ")


def drawing(figures: list[dict[str, Any]], runs: pd.DataFrame, first: str) -> dict[str, Any]:
    """All that the page's script draws from.

    first: the title of the panel that the page shows first.

    groups: the run ids behind rows that name a group as sweep/group_id, once per group.
    """
    named = set()
    for drawn in figures:
        for rows in drawn["datasets"].values():
            named |= {row.get("runs") for row in rows}
    ids = runs.groupby(["sweep", "group_id"])["run_id"].agg(_joined)
    groups = {}
    for (sweep, group_id), run_ids in ids.items():
        name = f"{sweep}/{group_id}"
        if name in named:
            groups[name] = run_ids
    return {
        "figures": [_packed_rows(drawn) for drawn in figures],
        "first": first,
        "methods": methods(runs["binarizer"]),
        "groups": groups,
        "paths": _PATHS,
    }


def _packed_rows(drawn: dict[str, Any]) -> dict[str, Any]:
    """The figure with its rows as columns."""
    datasets = {name: columns(rows) for name, rows in drawn["datasets"].items()}
    return drawn | {"datasets": datasets}


def _joined(run_ids: pd.Series) -> str:
    return ", ".join(sorted(run_ids))


def methods(binarizers: Any) -> list[dict[str, Any]]:
    """Display name, colour, outline of the marker and line pattern of each method."""
    by_name: dict[str, str] = {}
    for spec in style.methods(binarizers):
        by_name.setdefault(names.method(spec), spec)
    found = []
    for name, spec in by_name.items():
        shape = style.shape(spec)
        look = {
            "label": name,
            "colour": style.colour(spec),
            "path": _PATHS.get(shape, shape),
            "dash": style.dash(spec),
        }
        found.append(look)
    return found
