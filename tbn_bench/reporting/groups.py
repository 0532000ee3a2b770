"""Runs that differ only in seed, as one row: the unit that tables and figures compare."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from tbn_bench.reporting import style
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.stats import Interval, t_interval


@dataclass(frozen=True)
class Group:
    """Runs of one configuration over seeds. top1 is None where none has finished."""

    sweep: str
    group_id: str
    data: str
    model: str
    binarizer: str
    top1: Interval | None
    run_ids: list[str]
    unfinished: list[str]
    first: dict[str, Any]

    @property
    def panel(self) -> tuple[str, str]:
        return self.data, self.model


def groups(records: Records) -> list[Group]:
    """All groups, by sweep, data, model, then method in reading order."""
    order = {spec: i for i, spec in enumerate(style.methods(records.runs["binarizer"]))}
    found = []
    for (sweep, group_id), runs in records.runs.groupby(["sweep", "group_id"], sort=True):
        done = runs[runs["status"] == "finished"]
        first = (done if len(done) else runs).iloc[0]
        top1 = t_interval(done["test/top1"].astype(float).tolist()) if len(done) else None
        unfinished = sorted(runs[runs["status"] != "finished"]["run_id"])
        found.append(
            Group(str(sweep), str(group_id), first["data"], first["model"], first["binarizer"], top1,
                  sorted(done["run_id"]), unfinished, {k: _plain(v) for k, v in first.items()})
        )  # fmt: skip
    return sorted(found, key=lambda g: (g.sweep, g.data, g.model, order[g.binarizer], g.group_id))


def _plain(value: Any) -> Any:
    return None if pd.isna(value) else value.item() if hasattr(value, "item") else value


def panels(found: list[Group]) -> list[tuple[str, list[Group]]]:
    """(title, groups) per sweep, data set and model: what may be drawn on one pair of axes."""
    out: dict[tuple[str, str, str], list[Group]] = {}
    for g in found:
        out.setdefault((g.sweep, g.data, g.model), []).append(g)
    return [(f"{data}, {model}", gs) for (_, data, model), gs in out.items()]
