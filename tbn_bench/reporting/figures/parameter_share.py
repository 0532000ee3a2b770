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
from tbn_bench.reporting import names, style
from tbn_bench.reporting.groups import Group, groups
from tbn_bench.reporting.load import Records

TITLE = "Parameters and stored bits by type of layer"
TYPES = ("convolution", "1x1 convolution", "linear")
KEPT = "kept in full precision"
NEEDS = "a trained tiled network"
_SHARES = ("weights, %", "stored bits of the smallest tiled version, %")
_MOST_NAME = 0.42  # of a figure's width, for the names of networks
_SHARE_OF_WIDTH = 0.3  # of a figure, for the name of one share
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
    """A row per network, panel and type: percent.

    Networks of one name and with the same parts are one.
    """
    rows: list[dict[str, Any]] = []
    parts_of: dict[tuple[Any, ...], tuple[Group, tuple[dict[str, int], dict[str, int]]]] = {}
    for g in _smallest(records):
        plan = records.plans[g.sweep, g.group_id]
        if any(row.get("shape") is None for row in plan):  # a sparse record: its types are unknown
            continue
        weights = dict.fromkeys((*TYPES, KEPT), 0)
        stored = weights.copy()
        for row in plan:
            kind = layer_type(row)
            weights[kind] += row["numel"]
            stored[kind if row["binarized"] else KEPT] += row["stored_bits"]
        drawn = (names.network(g.model), *weights.values(), *stored.values())
        parts_of.setdefault(drawn, (g, (weights, stored)))
    titles = _titles([g for g, _ in parts_of.values()])
    for title, (g, both) in zip(titles, parts_of.values(), strict=True):
        for share, parts in zip(_SHARES, both, strict=True):
            rows += _shares(share, g, title, parts)
    return pd.DataFrame(rows, columns=_COLUMNS)


def _titles(found: list[Group]) -> list[str]:
    """The network of each group; where several have its name, with the data set, then the sweep."""
    models = [names.network(g.model) for g in found]
    short = []
    for g, model in zip(found, models, strict=True):
        is_alone = models.count(model) == 1
        short.append(model if is_alone else f"{model}, {names.data_set(g.data)}")
    titles = []
    for g, title in zip(found, short, strict=True):
        is_alone = short.count(title) == 1
        titles.append(title if is_alone else f"{title} ({g.sweep})")
    return titles


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
    shown = _broken(panel["network"].unique(), width)
    lines = sum(name.count("\n") + 1 for name in shown.values())
    figure = Figure(figsize=(width, 0.9 + 0.08 * len(shown) + _LINE_INCHES * lines))
    for place, share in enumerate(_SHARES):
        axes = figure.add_subplot(1, len(_SHARES), place + 1)
        _draw(axes, panel[panel["share"] == share], shown)
        axes.tick_params(axis="y", labelleft=place == 0)
        axes.set(
            xlabel=style.title_text(share, _SHARE_OF_WIDTH * width),
            xlim=(0, 100),
            xticks=(0, 50, 100),
        )
        axes.invert_yaxis()
    style.legend(figure, list(_colours()))
    return figure


def _broken(names: Iterable[str], width: float) -> dict[str, str]:
    """Network -> its name in lines that leave most of the width to the bars."""
    letters = int(_MOST_NAME * width / _LETTER_INCHES)
    return {name: textwrap.fill(name, letters, break_on_hyphens=False) for name in names}


def _draw(axes: Axes, panel: pd.DataFrame, lines: dict[str, str]) -> None:
    """A bar per network, stacked by type; lines: network -> its name as shown.

    Longer names take more room.
    """
    table = panel.pivot_table(index="network", columns="type", values="percent", sort=False)
    shown = [lines[network] for network in table.index]
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
