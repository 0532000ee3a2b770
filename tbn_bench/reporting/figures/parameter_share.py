"""The weights of each network by type of layer, and the bits that its smallest tiled version stores
of each type."""

import functools
import textwrap
from collections.abc import Iterable
from typing import Any

import altair as alt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tbn_bench import catalog
from tbn_bench.reporting import style
from tbn_bench.reporting.groups import Group, groups, panel_titles
from tbn_bench.reporting.load import Records

TITLE = "Parameters and stored bits by type of layer"
TYPES = ("convolution", "1x1 convolution", "linear")
KEPT = "kept in full precision"
NEEDS = "a trained tiled network"
_SHARES = ("weights, %", "stored bits of the smallest tiled version, %")
_MOST_NAME = 0.42  # of a figure's width, for the names of networks
_LETTER_INCHES = 0.056  # mean width of a letter at 7 pt
_LINE_INCHES = 0.11  # of a name
_COLUMNS = ["panel", "share", "network", "method", "type", "percent", "total", "runs"]


def layer_type(row: dict[str, Any]) -> str:
    """By the shape of the weight."""
    shape = row["shape"]
    if len(shape) == 2:
        return TYPES[2]
    if all(n == 1 for n in shape[2:]):
        return TYPES[1]
    return TYPES[0]


def _smallest(records: Records) -> list[Group]:
    """Per model and data set, the tiled network with the fewest bits per weight that has a plan."""
    best: dict[tuple[str, str], Group] = {}
    for g in groups(records):
        bits = g.first["bits_per_weight"]
        has_plan = (g.sweep, g.group_id) in records.plans
        if catalog.parse(g.binarizer)[0] != "tbn" or not has_plan or bits is None:
            continue
        key = (g.model, g.data)
        if key not in best or bits < best[key].first["bits_per_weight"]:
            best[key] = g
    return list(best.values())


@functools.lru_cache(maxsize=1)  # print, page and sidecar ask
def frame(records: Records) -> pd.DataFrame:
    """A row per network, panel and type: percent."""
    rows: list[dict[str, Any]] = []
    smallest = _smallest(records)
    titles = panel_titles(g.panel for g in smallest)
    for g in smallest:
        plan = records.plans[g.sweep, g.group_id]
        if any(row.get("shape") is None for row in plan):  # a sparse record: its types are unknown
            continue
        weights = dict.fromkeys((*TYPES, KEPT), 0)
        stored = weights.copy()
        for row in plan:
            kind = layer_type(row)
            weights[kind] += row["numel"]
            stored[kind if row["binarized"] else KEPT] += row["stored_bits"]
        for share, parts in zip(_SHARES, (weights, stored), strict=True):
            rows += _shares(share, g, titles[g.panel], parts)
    return pd.DataFrame(rows, columns=_COLUMNS)


def _shares(share: str, g: Group, title: str, parts: dict[str, int]) -> list[dict[str, Any]]:
    """parts: type -> weights or bits."""
    total = sum(parts.values()) or 1
    return [
        {
            "panel": "All networks",
            "share": share,
            "network": title,
            "method": g.label,
            "type": kind,
            "percent": 100 * n / total,
            "total": total,
            "runs": g.run_ids[0] if g.run_ids else g.group_id,
        }
        for kind, n in parts.items()
    ]


def _colours() -> dict[str, str]:
    return {kind: style.nth_colour(i) for i, kind in enumerate((*TYPES, KEPT))}


def print_panel(panel: pd.DataFrame, width: float) -> Figure:
    across = 2 if width > style.COLUMN_INCHES else 1
    down = len(_SHARES) // across
    names = _broken(panel["network"].unique(), width)
    lines = sum(name.count("\n") + 1 for name in names.values())
    figure = Figure(figsize=(width, down * (0.7 + 0.08 * len(names) + _LINE_INCHES * lines)))
    for place, share in enumerate(_SHARES):
        axes = figure.add_subplot(down, across, place + 1)
        _draw(axes, panel[panel["share"] == share], names)
        axes.tick_params(axis="y", labelleft=place % across == 0)
        axes.set(xlabel=share.replace("of the smallest", "of the\nsmallest"), xlim=(0, 100))
        axes.invert_yaxis()
    style.legend(figure, list(_colours()))
    return figure


def _broken(names: Iterable[str], width: float) -> dict[str, str]:
    """Network -> its name in lines that leave most of the width to the bars."""
    letters = int(_MOST_NAME * width / _LETTER_INCHES)
    return {name: textwrap.fill(name, letters, break_on_hyphens=False) for name in names}


def _draw(axes: Axes, panel: pd.DataFrame, names: dict[str, str]) -> None:
    """A bar per network, stacked by type; names: as shown, where longer ones take more room."""
    table = panel.pivot_table(index="network", columns="type", values="percent", sort=False)
    shown = [names[network] for network in table.index]
    places = []
    end = 0.0
    for name in shown:
        room = 1 + 0.62 * name.count("\n")
        places.append(end + room / 2)
        end += room
    left = pd.Series(0.0, index=table.index)
    for kind, colour in _colours().items():
        axes.barh(
            places,
            table[kind],
            left=left,
            label=kind,
            color=colour,
            height=0.75,
        )
        left += table[kind]
    axes.set_yticks(places, shown)


def chart(records: Records) -> Any:
    data = frame(records)
    if data.empty:
        return None
    by_type = alt.Scale(domain=list(_colours()), range=list(_colours().values()))
    colours = alt.Color("type:N", scale=by_type)
    total = alt.Tooltip("total:Q", format=",")
    charts = []
    for share, part in data.groupby("share", sort=False):
        shown = part[part["percent"] > 0].drop(columns=["panel", "share"]).round({"percent": 2})
        bars = alt.Chart(shown).mark_bar()
        bars = bars.encode(
            y=alt.Y("network:N", sort=None, title=None, axis=alt.Axis(labelLimit=260)),
            x=alt.X("percent:Q", title=str(share), scale=alt.Scale(domain=[0, 100])),
            color=colours,
            tooltip=["network", "method", "type", "percent", total, "runs"],
        )
        charts.append(bars.properties(width=330))
    return alt.concat(*charts, columns=2)
