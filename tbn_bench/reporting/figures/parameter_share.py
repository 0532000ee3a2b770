"""Where the weights of each network lie by type of layer, and what its smallest tiled version stores of each."""

from typing import Any

import altair as alt
import pandas as pd
from matplotlib.figure import Figure

from tbn_bench import catalog
from tbn_bench.reporting import style
from tbn_bench.reporting.groups import Group, groups
from tbn_bench.reporting.load import Records

TITLE = "Parameters and stored bits by type of layer"
TYPES = ("convolution", "1x1 convolution", "linear")
KEPT = "kept in full precision"
_PANELS = ("weights, %", "stored bits of the weights, smallest tiled version, %")


def layer_type(row: dict[str, Any]) -> str:
    """By the shape of the weight."""
    shape = row["shape"]
    return TYPES[2] if len(shape) == 2 else TYPES[1] if all(n == 1 for n in shape[2:]) else TYPES[0]


def _smallest(records: Records) -> list[Group]:
    """Per model and data set, the tiled network with the fewest bits per weight that has a plan."""
    best: dict[tuple[str, str], Group] = {}
    for g in groups(records):
        bits, key = g.first["bits_per_weight"], (g.model, g.data)
        if (
            catalog.parse(g.binarizer)[0] == "tbn"
            and (g.sweep, g.group_id) in records.plans
            and bits is not None
        ):
            best[key] = (
                g if key not in best or bits < best[key].first["bits_per_weight"] else best[key]
            )
    return list(best.values())


def frame(records: Records) -> pd.DataFrame:
    """A row per network, panel and type: percent."""
    rows: list[dict[str, Any]] = []
    for g in _smallest(records):
        plan = records.plans[g.sweep, g.group_id]
        for panel, column in zip(_PANELS, ("numel", "stored_bits"), strict=True):
            total, parts = sum(row[column] for row in plan) or 1, dict.fromkeys((*TYPES, KEPT), 0)
            for row in plan:
                parts[
                    KEPT if panel != _PANELS[0] and not row["binarized"] else layer_type(row)
                ] += row[column]
            rows += [
                {"panel": panel, "network": f"{g.model}, {g.data}", "method": g.binarizer, "type": kind, "percent": 100 * n / total, "total": total,
                 "runs": g.run_ids[0] if g.run_ids else g.group_id} for kind, n in parts.items()
            ]  # fmt: skip
    return pd.DataFrame(
        rows, columns=["panel", "network", "method", "type", "percent", "total", "runs"]
    )


def _colours() -> dict[str, str]:
    return {kind: style.nth_colour(i) for i, kind in enumerate((*TYPES, KEPT))}


def print_figure(records: Records) -> Figure | None:
    data = frame(records)
    if data.empty:
        return None
    networks = list(dict.fromkeys(data["network"]))
    figure = Figure(figsize=(2 * style.COLUMN_INCHES, 0.7 + 0.22 * len(networks)))
    first = None
    for place, panel in enumerate(_PANELS):
        first = axes = figure.add_subplot(1, 2, place + 1, sharey=first)
        table = data[data["panel"] == panel].pivot_table(
            index="network", columns="type", values="percent", sort=False
        )
        left = pd.Series(0.0, index=table.index)
        for kind, colour in _colours().items():
            axes.barh(
                range(len(table)), table[kind], left=left, label=kind, color=colour, height=0.75
            )
            left += table[kind]
        axes.set_yticks(
            range(len(table)),
            ["\n".join(style.wrapped(name)) for name in table.index],
            fontsize=5.5,
        )
        axes.tick_params(axis="y", labelleft=place == 0)
        axes.set(xlabel=panel, xlim=(0, 100))
    axes.invert_yaxis()
    style.legend(figure, list(_colours()))
    return figure


def chart(records: Records) -> Any:
    data = frame(records)
    if data.empty:
        return None
    colours = alt.Color(
        "type:N", scale=alt.Scale(domain=list(_colours()), range=list(_colours().values()))
    )
    charts = [
        alt.Chart(part[part["percent"] > 0].drop(columns="panel").round({"percent": 2})).mark_bar().encode(
            y=alt.Y("network:N", sort=None, title=None, axis=alt.Axis(labelLimit=260)),
            x=alt.X("percent:Q", title=str(panel), scale=alt.Scale(domain=[0, 100])), color=colours,
            tooltip=["network", "method", "type", "percent", alt.Tooltip("total:Q", format=","), "runs"],
        ).properties(width=330)
        for panel, part in data.groupby("panel", sort=False)
    ]  # fmt: skip
    return alt.concat(*charts, columns=2)
