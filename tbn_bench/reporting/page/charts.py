"""The figures' Vega-Lite specifications, one panel at a time and their rows once, and how the legend draws each method."""

from typing import Any

import pandas as pd

from tbn_bench.reporting import style

_JOINS = ("concat", "hconcat", "vconcat")
# Vega's named shapes as paths within a unit square; its other shapes are paths already.
_PATHS = {
    "circle": "M1,0A1,1,0,1,1,-1,0A1,1,0,1,1,1,0Z", "square": "M-.9,-.9H.9V.9H-.9Z", "diamond": "M0,-1L1,0L0,1L-1,0Z",
    "cross": "M-1,-.4H-.4V-1H.4V-.4H1V.4H.4V1H-.4V.4H-1Z", "triangle-up": "M0,-1L1,.8H-1Z", "triangle-down": "M0,1L1,-.8H-1Z",
    "triangle-left": "M-1,0L.8,-1V1Z", "triangle-right": "M1,0L-.8,-1V1Z",
}  # fmt: skip


def figure(name: str, title: str, spec: dict[str, Any]) -> dict[str, Any]:
    """A chart of several panels as panels to choose from; each is drawn alone, as wide as the reader's window allows. Panels without
    titles of their own stay together."""
    parts = next((spec[join] for join in _JOINS if join in spec), [spec])
    if len({_title(part) for part in parts}) < len(parts):
        parts = [spec | {"title": "", "datasets": {}}]
    outer = {k: spec[k] for k in ("$schema", "config", "data", "params") if k in spec}
    panels = [
        {"title": _title(part), "spec": outer | {k: v for k, v in part.items() if k != "title"}}
        for part in parts
    ]
    return {"name": name, "title": title, "panels": panels, "datasets": spec.get("datasets", {})}


def _title(spec: dict[str, Any]) -> str:
    title = spec.get("title") or ""
    text = title.get("text", "") if isinstance(title, dict) else title
    return (" ".join(text) if isinstance(text, list) else str(text)).replace("\u00a0", " ")


def drawing(figures: list[dict[str, Any]], runs: pd.DataFrame) -> dict[str, Any]:
    """All that the page's script draws from. groups: the run ids behind rows that name a group as sweep/group_id, said once."""
    named = {row.get("runs") for f in figures for rows in f["datasets"].values() for row in rows}
    ids = runs.groupby(["sweep", "group_id"])["run_id"].agg(lambda found: ", ".join(sorted(found)))
    groups = {
        name: ids[sweep, group]
        for sweep, group in ids.index
        if (name := f"{sweep}/{group}") in named
    }
    return {
        "figures": figures,
        "methods": methods(runs["binarizer"]),
        "groups": groups,
        "paths": _PATHS,
    }


def methods(binarizers: Any) -> list[dict[str, Any]]:
    """Label, colour, outline of the marker and line pattern of every method, in reading order."""
    specs = style.methods(binarizers)
    names = style.labels(specs)
    return [
        {"label": names[s], "colour": style.colour(s), "path": _PATHS.get(shape := style.shape(s, specs), shape), "dash": style.dash(s, specs)}
        for s in specs
    ]  # fmt: skip
