"""Time and bytes of weights against p, a panel per network and batch.

It shows every exact implementation, the best dense one as a level, and the ceilings of this
machine: distinct multiply-adds at the measured peak, bytes of weights at the measured bandwidth.
"""

import functools
from typing import Any

import altair as alt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tbn_bench.reporting import ceilings, names, style
from tbn_bench.reporting.figures import _chart
from tbn_bench.reporting.figures.accuracy_p import P_TITLE, family, p_of
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.tables.comparison import EXACT

TITLE = "Latency against p, with its ceilings"
NEEDS = "timings of networks at two values of p: tbn-bench latency"
_Y = "ms per call, lower is better"
_CEILINGS = {
    "arithmetic at the measured peak": ceilings.arithmetic_ms,
    "weights at memory bandwidth": ceilings.reading_ms,
}
_GREYS = dict(zip(_CEILINGS, ("#6E6E6E", "#B8B8B8"), strict=True))
_BLACK = "#000000"
_BEST_DENSE = "best dense"
_BELOW = 10  # times below the fastest mark, a bound is outside the axes
_MARKERS = "osD^vP*X"


@functools.lru_cache(maxsize=1)  # print, page and sidecar ask
def frame(records: Records) -> pd.DataFrame:
    """kind: measured, level or ceiling; line: the implementation or the ceiling."""
    rows: list[dict[str, Any]] = []
    for (device, _), part in _timed(records).groupby(["device", "case"], sort=True):
        rows += _rows(device, part)
    return pd.DataFrame(rows)


def _timed(records: Records) -> pd.DataFrame:
    """Networks that were timed hot, by exact implementations, on a machine with known ceilings.

    The table has single layers and cold caches.
    """
    timed = records.latency
    timed = timed[timed["data"].notna() & (timed["cache"] == "hot")]
    has_time = timed["unavailable"].isna() & timed["time_ms_p50"].notna()
    is_measured = has_time & timed["ceilings"].notna()
    is_exact = timed["tolerance"].astype(float) <= EXACT
    return timed[is_measured & is_exact]


def _rows(device: str, part: pd.DataFrame) -> list[dict[str, Any]]:
    """The marks of one case; empty where no two p of tiles are compared."""
    tiled = []
    for row in part.to_dict("records"):
        p = p_of(row["binarizer"])
        if p is not None:
            tiled.append(row | {"p": p})
    places = sorted({row["p"] for row in tiled})
    if len(set(places) - {1.0}) < 2:
        return []
    panel = _panel(device, part.iloc[0])
    variants = names.methods(sorted({family(row["binarizer"]) for row in tiled if row["p"] > 1}))
    rows = []
    for row in tiled:
        is_variant = len(variants) > 1 and row["p"] > 1
        suffix = f", {variants[family(row['binarizer'])]}" if is_variant else ""
        rows += _tiled_marks(panel, suffix, row)
    dense = part[part["binarizer"] == "full_precision"]
    if not dense.empty:
        fastest = dense.loc[dense["time_ms_p50"].astype(float).idxmin()].to_dict()
        line = f"{_BEST_DENSE}: {fastest['implementation']}"
        rows += [_mark(panel, line, p, fastest, "level") for p in (places[0], places[-1])]
    return rows


def _panel(device: str, row: pd.Series) -> str:
    threads = row["threads"]
    unit = "thread" if threads == 1 else "threads"
    return f"{names.network(row['model'])}, batch {row['batch']}, {threads} {unit}, {device}"


def _tiled_marks(panel: str, suffix: str, row: dict[str, Any]) -> list[dict[str, Any]]:
    """The measured time and, of native kernels, the ceilings.

    A native kernel is named without its level: the level goes with the device, and the table names
    it.
    """
    implementation = row["implementation"]
    is_native = implementation.startswith("native")
    line = "native" if is_native else implementation
    p = row["p"]
    marks = [_mark(panel, line + suffix, p, row, "measured")]
    if not is_native or not row.get("tile_macs"):
        return marks
    for name, bound in _CEILINGS.items():
        ms = bound(row)
        if ms is not None:
            mark = _mark(panel, name + suffix, p, row, "ceiling")
            marks.append({**mark, "y": ms, "low": ms, "high": ms})
    return marks


def _mark(panel: str, line: str, p: float, row: dict[str, Any], kind: str) -> dict[str, Any]:
    return {
        "panel": panel,
        "method": line,
        "p": p,
        "y": row["time_ms_p50"],
        "low": row["time_ms_p20"],
        "high": row["time_ms_p80"],
        "weight bytes": row["weight_bytes"],
        "n": row["n"],
        "kind": kind,
        "runs": row["run_id"] or f"{row['case']}",
    }


def _looks(data: pd.DataFrame) -> dict[str, str]:
    """Line -> colour: black for dense, greys for ceilings."""
    kinds = data.drop_duplicates("method").set_index("method")["kind"]
    measured = sorted(kinds[kinds == "measured"].index)
    looks = {}
    for line, kind in kinds.items():
        if kind == "measured":
            looks[line] = style.nth_colour(measured.index(line))
        elif kind == "level":
            looks[line] = _BLACK
        else:
            looks[line] = _GREYS[line.partition(",")[0]]
    return looks


def print_panel(panel: pd.DataFrame, width: float) -> Figure:
    figure = Figure(figsize=(width, 2.5))
    axes = figure.add_subplot()
    looks = _looks(panel)
    is_measured = panel["kind"] == "measured"
    measured = sorted(panel[is_measured]["method"].unique())
    for line, own in panel.groupby("method", sort=False):
        marker = _MARKERS[measured.index(line) % len(_MARKERS)] if line in measured else ""
        _draw(axes, str(line), own.sort_values("p"), looks[line], marker)
    style.set_log(axes.xaxis, base=2)
    style.set_log(axes.yaxis)
    low, _ = axes.get_ylim()
    axes.set_ylim(bottom=max(low, float(panel[is_measured]["y"].min()) / _BELOW))
    axes.set(xlabel=P_TITLE, ylabel=_Y)
    axes.set_title(style.title_text(str(panel["panel"].iloc[0]), width), loc="left")
    bottom, _ = axes.get_ylim()
    bounds = panel[(panel["kind"] == "ceiling") & (panel["y"] > bottom)]["method"]
    inside = [name for name in _CEILINGS if bounds.str.startswith(name).any()]
    style.legend(figure, [*measured, _BEST_DENSE, *inside])
    return figure


def _draw(axes: Axes, line: str, own: pd.DataFrame, colour: str, marker: str) -> None:
    """own: the rows of one line in the order of p."""
    kind = own["kind"].iloc[0]
    dash = {"measured": "-", "level": "--", "ceiling": ":"}[kind]
    label = {"measured": line, "level": _BEST_DENSE, "ceiling": line.partition(",")[0]}[kind]
    error = None
    if kind == "measured":
        error = [own["y"] - own["low"], own["high"] - own["y"]]
    axes.errorbar(
        own["p"],
        own["y"],
        yerr=error,
        color=colour,
        linestyle=dash,
        marker=marker,
        label=label,
        linewidth=0.9,
    )


def chart(records: Records) -> Any:
    data = frame(records)
    if data.empty:
        return None
    looks = _looks(data)
    in_colour = alt.Scale(domain=list(looks), range=list(looks.values()))
    colours = alt.Color("method:N", scale=in_colour, legend=style.CHART_LEGEND)
    by_kind = alt.Scale(domain=["measured", "level", "ceiling"], range=[[1, 0], [6, 3], [2, 3]])
    dashes = alt.StrokeDash("kind:N", scale=by_kind)
    numbers = [alt.Tooltip(f"{name}:Q") for name in ("low", "high", "n", "weight bytes")]
    base = alt.Chart(_chart.ROWS).encode(
        x=alt.X("p:Q", scale=alt.Scale(type="log", base=2, padding=18), title=P_TITLE),
        y=alt.Y("y:Q", scale=alt.Scale(type="log"), title=_Y),
        color=colours,
    )
    lines = base.mark_line().encode(strokeDash=dashes)
    ms = alt.Tooltip("y:Q", title="ms")
    marks = base.mark_point(size=50, filled=True).encode(
        tooltip=["method:N", "p:Q", ms, *numbers, "runs:N"]
    )
    panels = {
        str(panel): part.drop(columns="panel") for panel, part in data.groupby("panel", sort=False)
    }
    return _chart.alike((lines + marks).properties(**_chart.SIZE), panels)
