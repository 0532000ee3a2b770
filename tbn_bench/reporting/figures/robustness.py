"""Accuracy against the rate of faults, and against the severity of corruptions.

A panel per data set, network and kind of fault; a line per method. Intervals are Student's 95 %:
over the draws of a fault, or over the images of a corruption.
"""

import functools
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from tbn_bench.records.robustness import RobustnessRecord
from tbn_bench.reporting import names
from tbn_bench.reporting.figures import _chart, _panels, _print
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.tables.robustness import labelled
from tbn_bench.scores import FIRST, SCORES

TITLE = "Accuracy under faults and corruptions"
NEEDS = "measurements of packed networks: tbn-bench robustness RUN"
_RATES = _panels.Layout("probability of a flip", log=10, joined=True)
_SEVERITIES = _panels.Layout("severity", joined=True)
# (fault, code) -> title of its panel, in the order of the panels
_KINDS = {
    ("bits", None): "stored bits",
    ("bits", "hamming"): "stored bits, Hamming code",
    ("weights", None): "signs of weights",
    ("scales", None): "bits of scales",
    ("gaussian_noise", None): "noise",
    ("gaussian_blur", None): "blur",
    ("contrast", None): "contrast",
    ("jpeg", None): "JPEG",
}


@functools.lru_cache(maxsize=1)  # print, page and sidecar ask
def frame(records: Records) -> pd.DataFrame:
    """A row per run and condition. by_rate: whether x is the rate of a fault."""
    by_network: dict[str, list[RobustnessRecord]] = {}
    for record in records.robustness:
        data = names.data_set(record.info["data"])
        network = f"{data}, {names.network(record.info['model'])}"
        by_network.setdefault(network, []).append(record)
    rows: list[dict[str, Any]] = []
    commands = set()
    for network, members in by_network.items():
        for (fault, code), kind in _KINDS.items():
            for label, record in labelled(members):
                commands.add(record.provenance.get("command") or "")
                mine = [row for row in record.rows if row["fault"] == fault]
                own = [row for row in mine if row.get("code") == code]
                rows += [_mark(f"{network}: {kind}", label, record, row) for row in own]
    out = _panels.frame(rows)
    out.attrs["commands"] = sorted(commands - {""})
    return out


def _mark(panel: str, label: str, record: RobustnessRecord, row: dict[str, Any]) -> dict[str, Any]:
    spec = record.info["binarizer"]
    factor = SCORES[FIRST].factor
    by_rate = row.get("rate") is not None
    mark = {
        "panel": panel,
        "method": names.method(spec),
        "label": label,
        "binarizer": spec,
        "line": label,
        "x": row["rate"] if by_rate else row["severity"],
        "y": factor * row[FIRST],
        "axis": SCORES[FIRST].axis,
        "seeds": 1,
        "runs": record.run_id,
        "by_rate": by_rate,
    }
    for end in ("low", "high"):
        if row.get(end) is not None:
            mark[end] = factor * row[end]
    return mark


def print_panel(panel: pd.DataFrame, width: float) -> Figure:
    layout = _RATES if panel["by_rate"].iloc[0] else _SEVERITIES
    return _print.panel_figure(panel, width, layout)


def chart(records: Records) -> Any:
    """The panels of both kinds in one specification; None without records."""
    data = frame(records)
    if data.empty:
        return None
    by_rate = data["by_rate"].astype(bool)
    found = []
    for layout, rows in ((_RATES, data[by_rate]), (_SEVERITIES, data[~by_rate])):
        drawn = _chart.chart_panels(rows.drop(columns="by_rate"), layout)
        if drawn is not None:
            found.append(drawn)
    return _beside(found)


def _beside(charts: list[dict[str, Any]]) -> dict[str, Any]:
    """One specification with the panels of several; their data sets get names of their own."""
    out = charts[0]
    for number, chart in enumerate(charts[1:], 1):
        for panel in chart["concat"]:
            old = panel["data"]["name"]
            new = f"{old}-{number}"
            panel["data"] = {"name": new}
            out["datasets"][new] = chart["datasets"][old]
            out["concat"].append(panel)
    return out
