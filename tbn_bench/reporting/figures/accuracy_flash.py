"""Top-1 of the C code against the size of its tables (weights and scales), a panel per network, data set and kind of activations.

Hollow: what others published about networks on microcontrollers, on the same data set at any resolution and with activations as wide.
Their sizes are as printed, in kB that may be of 1000 or 1024 bytes.
"""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from tbn_bench.reporting import style
from tbn_bench.reporting.figures import _panels, _published
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.published import FLASH, networks
from tbn_bench.scores import FIRST, SCORES

TITLE = "Accuracy against bytes on microcontrollers"
_X = "KiB of weights and scales, lower is better"
_WIDTHS = {"u8": 8, "f32": 32}  # bits


def frame(records: Records) -> pd.DataFrame:
    """A row per network of ours, once for all cores that have the same tables, and per published one."""
    names = style.labels([*records.runs["binarizer"], *records.mcu["binarizer"]])
    own = [
        row
        for row in records.mcu.to_dict("records")
        if row["table_bytes"] and row["top1_c"] is not None
    ]
    panels: dict[tuple[str, str, str], dict[tuple[Any, ...], dict[str, Any]]] = {}
    for row in own:
        panel = panels.setdefault((row["data"], row["model"], row["activations"]), {})
        panel.setdefault((row["binarizer"], row["run_id"], row["table_bytes"], row["top1_c"]), row)
    rows: list[dict[str, Any]] = []
    for data, model, activations in sorted(
        panels, key=lambda panel: (panel[1], panel[0], panel[2] != "u8", panel[2])
    ):
        found = panels[data, model, activations]
        marks = [_mark(row) | {"method": names[row["binarizer"]]} for row in found.values()]
        marks += [
            _hollow(network)
            for network in networks(records.published, data, _WIDTHS.get(activations))
        ]
        rows += [
            mark
            | {"panel": f"{model}, {data}, {activations} activations", "axis": SCORES[FIRST].axis}
            for mark in marks
        ]
    out = _panels.frame(rows)
    out.attrs["commands"] = sorted({row["command"] for row in own if row["command"]})
    return out


def _mark(row: dict[str, Any]) -> dict[str, Any]:
    flash = (
        f"; {row['flash_bytes']:,} B of flash with code ({row['device']})"
        if row["flash_bytes"]
        else ""
    )
    return {"binarizer": row["binarizer"], "x": row["table_bytes"] / 1024, "y": SCORES[FIRST].factor * row["top1_c"], "seeds": 1,
            "runs": f"{row['run_id'] or row['case']}{flash}"}  # fmt: skip


def _hollow(network: dict[str, Any]) -> dict[str, Any]:
    """Named by its method and the first word of its name, such as FC or CNN."""
    kind = network["model"].split()[0]
    return {"binarizer": f"{network['method']}(network={kind!r})", "method": f"{network['method']} {kind}, published", "x": network[FLASH],
            "y": SCORES[FIRST].factor * network[FIRST], "published": True,
            "runs": f"{network['source']}: {network['model']} on {network['dataset']}"}  # fmt: skip


def _specs(records: Records, data: pd.DataFrame) -> list[str]:
    """As accuracy_bits has them, so that a method looks the same; those drawn here alone where two of them would look the same."""
    own = style.methods(data["binarizer"])
    specs = style.methods([*records.runs["binarizer"], *_published.lines(records)["spec"], *own])
    return (
        specs
        if len({(style.colour(spec), style.marker(spec, specs)) for spec in own}) == len(own)
        else own
    )


def print_figure(records: Records) -> Figure | None:
    data = frame(records)
    return _panels.print_panels(data, _specs(records, data), _X, log=2)


def chart(records: Records) -> Any:
    data = frame(records)
    return _panels.chart_panels(data, _specs(records, data), _X, log=2)
