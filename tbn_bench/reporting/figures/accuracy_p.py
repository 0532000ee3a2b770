"""The score on the test set against p, by which each layer's signs are divided: tiles as a line, methods without p as level lines.

Published values stand hollow in the panel of the same data set and model, or in one of their own where we have no run (the paper's teaser).
"""

from collections import Counter
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from tbn_bench import catalog
from tbn_bench.reporting import style
from tbn_bench.reporting.figures import _panels, _published
from tbn_bench.reporting.groups import Group
from tbn_bench.reporting.load import Records

TITLE = "Accuracy against p"
_X = "p: weights per stored sign (1: binary weights)"
_LEVEL, _ONE = "full_precision", "bwn"  # drawn over the whole width; p = 1


def p_of(spec: str) -> float | None:
    """Its p; the largest of a list per layer; 1 for plain binary weights; None where the method has none."""
    name, options = catalog.parse(spec)
    if name == _ONE:
        return 1.0
    layers = options.get("per_layer")
    if layers:
        return style.largest(layers)
    return style.largest(options.get("p")) if name == "tbn" else None


def family(spec: str) -> str:
    """The spec without p: what the points of one line share."""
    name, options = catalog.parse(spec)
    rest = [f"{k}={v!r}" for k, v in options.items() if k not in ("p", "per_layer")]
    return f"{name}({', '.join(rest)})" if rest else name


def _rows(title: str, marks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Placed on the axis. Empty where no two p of tiles are compared."""
    places = {p for m in marks if (p := p_of(m["binarizer"])) is not None}
    if len(places - {1.0}) < 2:
        return []
    rows = []
    for i, m in enumerate(marks):
        p, spec = p_of(m["binarizer"]), family(m["binarizer"])
        line = f"published {i}" if m.get("published") else spec
        for x in (min(places), max(places)) if spec == _LEVEL else (p,) if p is not None else ():
            rows.append({**m, "panel": title, "x": x, "binarizer": spec, "line": line})
    return apart(rows)


def apart(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Several configurations of one spec (rates, epochs) are no curve: where a line has two marks at one p, each is a line of its own."""
    count = Counter((row["line"], row["x"]) for row in rows)
    double = {line for (line, _), n in count.items() if n > 1}
    return [
        row | {"line": f"{row['line']} {row['runs']}"} if row["line"] in double else row
        for row in rows
    ]


def _plain(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the variants of tiles that an ablation compares (ablations.py)."""
    return [line for line in lines if line["method"] != "tbn" or family(line["spec"]) == "tbn"]


def frame(records: Records) -> pd.DataFrame:
    all_panels: list[tuple[str, list[Group]]] = _panels.drawn(records)
    found = [
        (title, gs) for title, gs in all_panels if any((p_of(g.binarizer) or 1) > 1 for g in gs)
    ]
    rows: list[dict[str, Any]] = []
    for title, gs in found:
        lines = _plain(_published.of_panel(records, gs))
        rows += _rows(title, [*map(_panels.scored, gs), *map(_published.mark, lines)])
    for data, model, lines in _published.others(
        records, [(gs[0].data, gs[0].model) for _, gs in found]
    ):
        rows += _rows(f"{data}, {model}, published", list(map(_published.mark, _plain(lines))))
    names = style.labels({row["binarizer"] for row in rows})
    return _panels.frame(
        [
            row
            | {"method": names[row["binarizer"]] + (", published" if row.get("published") else "")}
            for row in rows
        ]
    )


def print_figure(records: Records) -> Figure | None:
    data = frame(records)
    return _panels.print_panels(data, style.methods(data["binarizer"]), _X, log=2, joined=True)


def chart(records: Records) -> Any:
    data = frame(records)
    return _panels.chart_panels(data, style.methods(data["binarizer"]), _X, log=2, joined=True)
