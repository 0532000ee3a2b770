"""Top-1 of the C code against the size of its tables (weights and scales).

A panel per network, data set and kind of activations. Hollow: published networks on
microcontrollers, on the same data set at any resolution and with activations as wide. Their sizes
are as printed, in kB that may be of 1000 or 1024 bytes.
"""

import functools
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from tbn_bench.reporting import names
from tbn_bench.reporting.figures import _chart, _panels, _print
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.published import FLASH, networks
from tbn_bench.scores import FIRST, SCORES

TITLE = "Accuracy against bytes on microcontrollers"
NEEDS = "microcontroller measurements: tbn-bench mcu"
_LAYOUT = _panels.Layout("KiB of weights and scales, lower is better", log=2, front=True)
_WIDTHS = {"u8": 8, "f32": 32}  # bits


@functools.lru_cache(maxsize=1)  # print, page and sidecar ask
def frame(records: Records) -> pd.DataFrame:
    """A row per network of ours, once for all cores with the same tables, and per published one."""
    own = _simulated(records)
    rows: list[dict[str, Any]] = []
    for (data, model, activations), found in _panels_of(own):
        marks = []
        labels = names.methods(row["binarizer"] for row in found)
        for row in found:
            marks.append(_mark(row) | {"label": labels[row["binarizer"]]})
        width = _WIDTHS.get(activations)
        for network in networks(records.published, data, width):
            marks.append(_hollow(network))
        place = {
            "panel": f"{names.data_set(data)}, {names.network(model)}, {activations} activations",
            "axis": SCORES[FIRST].axis,
        }
        rows += [mark | place for mark in marks]
    out = _panels.frame(rows)
    commands = {row["command"] for row in own if row["command"]}
    out.attrs["commands"] = sorted(commands)
    return out


def _simulated(records: Records) -> list[dict[str, Any]]:
    """Networks of ours whose C code has a size and an accuracy."""
    found = []
    for row in records.mcu.to_dict("records"):
        if row["table_bytes"] and row["top1_c"] is not None:
            found.append(row)
    return found


def _panels_of(
    rows: list[dict[str, Any]],
) -> list[tuple[tuple[str, str, str], list[dict[str, Any]]]]:
    """((data, model, activations), rows) by model, data and activations, of which u8 come first.

    A network that was simulated on several cores with the same tables has one row.
    """
    panels: dict[tuple[str, str, str], dict[tuple[Any, ...], dict[str, Any]]] = {}
    for row in rows:
        key = (
            row["data"],
            row["model"],
            row["activations"],
        )
        network = (
            row["binarizer"],
            row["run_id"],
            row["table_bytes"],
            row["top1_c"],
        )
        panel = panels.setdefault(key, {})
        panel.setdefault(network, row)

    def order(key: tuple[str, str, str]) -> tuple[str, str, bool, str]:
        data, model, activations = key
        return model, data, activations != "u8", activations

    in_order = sorted(panels, key=order)
    return [(key, list(panels[key].values())) for key in in_order]


def _mark(row: dict[str, Any]) -> dict[str, Any]:
    flash = ""
    if row["flash_bytes"]:
        flash = f"; {row['flash_bytes']:,} B of flash with code ({row['device']})"
    return {
        "method": names.method(row["binarizer"]),
        "binarizer": row["binarizer"],
        "x": row["table_bytes"] / 1024,
        "y": SCORES[FIRST].factor * row["top1_c"],
        "seeds": 1,
        "runs": f"{row['run_id'] or row['case']}{flash}",
    }


def _hollow(network: dict[str, Any]) -> dict[str, Any]:
    """Named by its method and the first word of its name, such as FC or CNN."""
    kind = network["model"].split()[0]
    return {
        "binarizer": f"{network['method']}(network={kind!r})",
        "method": f"{network['method']} {kind}",
        "label": f"{network['method']} {kind}, published",
        "x": network[FLASH],
        "y": SCORES[FIRST].factor * network[FIRST],
        "published": True,
        "runs": f"{network['source']}: {network['model']} on {network['dataset']}",
    }


def print_panel(panel: pd.DataFrame, width: float) -> Figure:
    return _print.panel_figure(panel, width, _LAYOUT)


def chart(records: Records) -> Any:
    return _chart.chart_panels(frame(records), _LAYOUT)
