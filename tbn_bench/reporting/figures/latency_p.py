"""Time and bytes of weights against p, a panel per network and batch: every exact implementation, the best dense one as a level, and the
ceilings of this machine: distinct multiply-adds at the measured peak, bytes of weights at the measured bandwidth."""

from typing import Any

import altair as alt
import pandas as pd
from matplotlib.figure import Figure

from tbn_bench.reporting import style
from tbn_bench.reporting.figures.accuracy_p import family, p_of
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.tables.comparison import EXACT

TITLE = "Latency against p, with its ceilings"
_X, _Y = "p: weights per stored sign (1: binary weights)", "ms per call, lower is better"
_CEILINGS = {"arithmetic at the measured peak": "gmacs", "weights at memory bandwidth": "read_gb_s"}

_GREYS = dict(zip(_CEILINGS, ("#6E6E6E", "#B8B8B8"), strict=True))


def _ceiling(name: str, row: dict[str, Any]) -> float | None:
    """Milliseconds that the case cannot fall below, by the peaks of one core measured beside it: tile_macs are of one sample; bytes are read
    at the rate of the next larger block."""
    peaks = row["ceilings"] if isinstance(row["ceilings"], dict) else {}
    if _CEILINGS[name] == "gmacs":
        peak = peaks.get("matrix_gmacs") or peaks.get("lookup_gmacs")
        return row["tile_macs"] * row["batch"] / row["threads"] / peak / 1e6 if peak else None
    rates = {float(k.removesuffix(" MB")): v for k, v in (peaks.get("read_gb_s") or {}).items()}
    size = min(
        (k for k in rates if k * 1e6 >= row["weight_bytes"]), default=max(rates, default=None)
    )
    return (
        None
        if size is None or style.missing(row["weight_bytes"])
        else row["weight_bytes"] / row["threads"] / rates[size] / 1e6
    )


def _level(dense: pd.DataFrame) -> dict[str, Any] | None:
    return None if dense.empty else dense.loc[dense["time_ms_p50"].astype(float).idxmin()].to_dict()


def frame(records: Records) -> pd.DataFrame:
    """kind: measured, level or ceiling; line: the implementation or the ceiling."""
    timed = records.latency
    timed = timed[
        timed["data"].notna() & (timed["cache"] == "hot")
    ]  # single layers and cold caches stand in the table
    timed = timed[
        timed["unavailable"].isna()
        & timed["ceilings"].notna()
        & (timed["tolerance"].astype(float) <= EXACT)
    ]
    rows: list[dict[str, Any]] = []
    for (device, _), part in timed.groupby(["device", "case"], sort=True):
        tiled = [
            row | {"p": p}
            for row in part.to_dict("records")
            if (p := p_of(row["binarizer"])) is not None
        ]
        places = sorted({row["p"] for row in tiled})
        if len(set(places) - {1.0}) < 2:
            continue
        first = part.iloc[0]
        panel = f"{first['model']}, batch {first['batch']}, {first['threads']} {'thread' if first['threads'] == 1 else 'threads'}, {device}"
        several = len({family(row["binarizer"]) for row in tiled if row["p"] > 1}) > 1
        for row in tiled:
            p, line = row["p"], row["implementation"]
            line = (
                "native" if line.startswith("native") else line
            )  # its level goes with the device; the table names it
            which = f", {family(row['binarizer'])}" if several and p > 1 else ""
            rows.append(_mark(panel, line + which, p, row, "measured"))
            for name in _CEILINGS if line.startswith("native") and row.get("tile_macs") else ():
                if (ms := _ceiling(name, row)) is not None:
                    rows.append(
                        {
                            **_mark(panel, name + which, p, row, "ceiling"),
                            "y": ms,
                            "low": ms,
                            "high": ms,
                        }
                    )
        dense = _level(part[part["binarizer"] == "full_precision"])
        if dense is not None:
            rows += [
                _mark(panel, f"best dense: {dense['implementation']}", x, dense, "level")
                for x in (places[0], places[-1])
            ]
    return pd.DataFrame(rows)


def _mark(panel: str, line: str, p: float, row: dict[str, Any], kind: str) -> dict[str, Any]:
    return {"panel": panel, "method": line, "p": p, "y": row["time_ms_p50"], "low": row["time_ms_p20"], "high": row["time_ms_p80"],
            "weight bytes": row["weight_bytes"], "n": row["n"], "kind": kind, "runs": row["run_id"] or f"{row['case']}"}  # fmt: skip


def _looks(data: pd.DataFrame) -> dict[str, str]:
    """Line -> colour: black for dense, greys for ceilings."""
    kinds = data.drop_duplicates("method").set_index("method")["kind"]
    lines = sorted(kinds[kinds == "measured"].index)
    return {
        m: style.nth_colour(lines.index(m))
        if k == "measured"
        else "#000000"
        if k == "level"
        else _GREYS[m.partition(",")[0]]
        for m, k in kinds.items()
    }


def print_figure(records: Records) -> Figure | None:
    data = frame(records)
    if data.empty:
        return None
    figure, all_axes = style.print_grid(data["panel"].nunique(), 2.5)
    looks = _looks(data)
    for axes, (panel, part) in zip(all_axes, data.groupby("panel", sort=False), strict=True):
        for line, own in part.groupby("method", sort=False):
            own, kind = own.sort_values("p"), own["kind"].iloc[0]
            dash, marker = {"measured": ("-", "o"), "level": ("--", ""), "ceiling": (":", "")}[kind]
            error = [own["y"] - own["low"], own["high"] - own["y"]] if kind == "measured" else None
            label = line if kind != "level" else "best dense"
            axes.errorbar(
                own["p"],
                own["y"],
                yerr=error,
                color=looks[line],
                linestyle=dash,
                marker=marker,
                label=label,
                linewidth=0.9,
            )
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set(title="\n".join(style.wrapped(str(panel))), xlabel=_X, ylabel=_Y)
    measured = data[data["kind"] != "level"]
    style.legend(
        figure,
        [
            *sorted(measured[measured["kind"] == "measured"]["method"].unique()),
            "best dense",
            *sorted(data[data["kind"] == "ceiling"]["method"].unique()),
        ],
    )
    return figure


def chart(records: Records) -> Any:
    data = frame(records)
    if data.empty:
        return None
    looks = _looks(data)
    colours = alt.Color(
        "method:N",
        scale=alt.Scale(domain=list(looks), range=list(looks.values())),
        legend=style.CHART_LEGEND,
    )
    dashes = alt.StrokeDash(
        "kind:N",
        scale=alt.Scale(domain=["measured", "level", "ceiling"], range=[[1, 0], [6, 3], [2, 3]]),
    )
    chosen = alt.selection_point(name="chosen", fields=["method"], bind="legend")
    charts = []
    for panel, part in data.groupby("panel", sort=False):
        base = alt.Chart(part.drop(columns="panel")).encode(
            x=alt.X("p:Q", scale=alt.Scale(type="log", base=2, padding=18), title=_X), y=alt.Y("y:Q", scale=alt.Scale(type="log"), title=_Y),
            color=colours, opacity=alt.condition(chosen, alt.value(1.0), alt.value(0.12)),
        )  # fmt: skip
        marks = base.mark_point(size=50, filled=True).encode(
            tooltip=[
                "method",
                "p",
                alt.Tooltip("y:Q", title="ms"),
                "low",
                "high",
                "n",
                "weight bytes",
                "runs",
            ]
        )
        charts.append(
            (base.mark_line().encode(strokeDash=dashes) + marks).properties(
                title=style.wrapped(str(panel)), width=330, height=240
            )
        )
    return alt.concat(*charts, columns=2).add_params(chosen)
