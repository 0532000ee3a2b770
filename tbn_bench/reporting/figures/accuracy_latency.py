"""The score on the test set against the measured time of the same runs' networks.

The time is that of the fastest exact implementation, hot, on one thread. Narrower binary networks
of the same sweep are controls.
"""

import functools
from collections.abc import Iterator
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from tbn_bench.reporting import narrower, style
from tbn_bench.reporting.figures import _chart, _panels, _print
from tbn_bench.reporting.groups import Group
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.tables.comparison import fastest

TITLE = "Accuracy against measured latency"
NEEDS = "timings of two trained networks: tbn-bench latency"
_LAYOUT = _panels.Layout("ms per call, lower is better", log=10, front=True)


@functools.lru_cache(maxsize=1)  # print, page and sidecar ask
def frame(records: Records) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for title, gs in _panels.drawn(records):
        for device, batch in _timed_on(records, gs):
            panel = f"{title}, batch {batch}, {device}"
            marks = [mark | {"panel": panel} for mark in _marks(records, gs, batch, device)]
            if len(marks) > 1:
                rows += marks
    return _panels.frame(rows)


def _marks(records: Records, gs: list[Group], batch: int, device: str) -> Iterator[dict[str, Any]]:
    """Of the groups of a panel that were timed, then of narrower networks."""
    for g in gs:
        best = fastest(records, g, batch, device)
        if best:
            yield _mark(g, best)
    for g in narrower.narrower(records, gs):
        best = fastest(records, g, batch, device)
        if best:
            yield _mark(g, best) | narrower.control(g)


def _timed_on(records: Records, gs: list[Group]) -> list[tuple[str, int]]:
    """(device, batch) of the timings of the groups' runs."""
    run_ids: list[str] = []
    for g in gs:
        run_ids += g.run_ids
    timed = records.latency[records.latency["run_id"].isin(run_ids)]
    timed = timed[timed["batch"].notna()]
    pairs = zip(timed["device"], timed["batch"], strict=True)
    return sorted({(str(device), int(batch)) for device, batch in pairs})


def _mark(g: Group, best: Any) -> dict[str, Any]:
    mark = _panels.scored(g)
    rounds = "" if style.missing(best["n"]) else f", n = {best['n']:.0f}"
    timed = f"timed: {best['implementation']} of {best['run_id']}{rounds}"
    mark["x"] = best["time_ms_p50"]
    mark["runs"] = f"{mark['runs']}; {timed}"
    return mark


def print_panel(panel: pd.DataFrame, width: float) -> Figure:
    return _print.panel_figure(panel, width, _LAYOUT)


def chart(records: Records) -> Any:
    return _chart.chart_panels(frame(records), _LAYOUT)
