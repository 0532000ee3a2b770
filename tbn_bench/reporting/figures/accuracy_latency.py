"""The score on the test set against the measured time of the same runs' networks: the fastest exact implementation, hot, one thread."""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from tbn_bench.reporting import style
from tbn_bench.reporting.figures import _panels
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.tables.comparison import fastest

TITLE = "Accuracy against measured latency"
_X = "ms per call, lower is better"


def frame(records: Records) -> pd.DataFrame:
    names = style.labels(records.runs["binarizer"])
    rows: list[dict[str, Any]] = []
    for title, gs in _panels.drawn(records):
        timed = records.latency[records.latency["run_id"].isin([i for g in gs for i in g.run_ids])]
        for device, batch in sorted(
            {(str(d), int(b)) for d, b in zip(timed["device"], timed["batch"], strict=True)}
        ):
            panel = f"{title}, batch {batch}, {device}"
            for g in gs:
                if best := fastest(records, g, batch, device):
                    mark = _panels.scored(g) | {
                        "panel": panel,
                        "method": names[g.binarizer],
                        "x": best["time_ms_p50"],
                    }
                    rows.append(
                        mark
                        | {
                            "runs": f"{mark['runs']}; timed: {best['implementation']} of {best['run_id']}, n = {best['n']:.0f}"
                        }
                    )
    return _panels.frame(rows)


def print_figure(records: Records) -> Figure | None:
    return _panels.print_panels(
        frame(records), style.methods(records.runs["binarizer"]), _X, log=10
    )


def chart(records: Records) -> Any:
    return _panels.chart_panels(
        frame(records), style.methods(records.runs["binarizer"]), _X, log=10
    )
