"""Runs that differ only in seed, as one row: the unit that tables and figures compare."""

import functools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from tbn_bench.reporting import style, tracks
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.stats import Interval, t_interval
from tbn_bench.scores import SCORES


@dataclass(frozen=True)
class Group:
    """Runs of one configuration over seeds. results: every score of the test set by name; result: the one that the runs are judged by, None
    where none has finished; by_seed: the values it is made of."""

    sweep: str
    group_id: str
    data: str
    model: str
    binarizer: str
    track: str
    score: str
    results: dict[str, Interval]
    run_ids: list[str]
    unfinished: list[str]
    first: dict[str, Any]
    by_seed: dict[int, float] = field(default_factory=dict)

    @property
    def result(self) -> Interval | None:
        return self.results.get(self.score)

    @property
    def panel(self) -> tuple[str, str, str]:
        """What may be compared: one sweep (so one protocol), data set and model."""
        return self.sweep, self.data, self.model


@functools.lru_cache(maxsize=2)
def groups(records: Records) -> list[Group]:
    """All groups, by sweep, data, model, then method in reading order. Every table and figure asks for them: do not change the list."""
    runs = records.runs
    order = {spec: i for i, spec in enumerate(style.methods(runs["binarizer"]))}
    # Columns as arrays: a frame for each of thousands of groups would take most of a report's time.
    values = {name: runs[f"test/{name}"].to_numpy(dtype=float) for name in SCORES}
    finished, ids, seeds = (runs[key].to_numpy() for key in ("status", "run_id", "seed"))
    finished = finished == "finished"
    found = []
    for (sweep, group_id), rows in runs.groupby(["sweep", "group_id"]).indices.items():
        done, open_ = rows[finished[rows]], rows[~finished[rows]]
        first = runs.iloc[done[0] if len(done) else rows[0]]
        known = {
            name: column[done][~np.isnan(column[done])].tolist() for name, column in values.items()
        }
        results = {name: t_interval(scores) for name, scores in known.items() if scores}
        own = values[first["score"]]
        by_seed = {int(seeds[i]): float(own[i]) for i in done if not np.isnan(own[i])}
        found.append(
            Group(str(sweep), str(group_id), first["data"], first["model"], first["binarizer"],
                  first["track"], first["score"], results, sorted(ids[done]), sorted(ids[open_]), {k: _plain(v) for k, v in first.items()}, by_seed)
        )  # fmt: skip
    return sorted(found, key=lambda g: (g.sweep, g.data, g.model, order[g.binarizer], g.group_id))


def _plain(value: Any) -> Any:
    return None if pd.isna(value) else value.item() if hasattr(value, "item") else value


def by_track(found: list[Group]) -> dict[str, list[Group]]:
    """Track -> its groups, with full precision of the same panels as the reference; a panel of it alone is weights only."""
    lowered = [g for g in found if g.track != tracks.REFERENCE]
    compared = {g.panel for g in lowered}
    out = {}
    for track in tracks.TRACKS:
        own = {g.panel for g in lowered if g.track == track}
        if track == tracks.WEIGHTS_ONLY:
            own |= {g.panel for g in found if g.panel not in compared}
        out[track] = [g for g in found if g.panel in own and g.track in (track, tracks.REFERENCE)]
    return {track: gs for track, gs in out.items() if gs}


def panels(found: list[Group]) -> list[tuple[str, list[Group]]]:
    """(title, groups) per track, sweep, data set and model: what may be drawn on one pair of axes. No title comes twice."""
    split = by_track(found)
    out: list[tuple[str, list[Group]]] = []
    for track, groups_of in split.items():
        for panel in dict.fromkeys(g.panel for g in groups_of):
            sweep, data, model = panel
            title = f"{data}, {model}"
            title += (
                f", sweep {sweep}"
                if any(g.panel != panel and g.panel[1:] == panel[1:] for g in found)
                else ""
            )
            title += f", {tracks.title(track)}" if list(split) != [tracks.WEIGHTS_ONLY] else ""
            out.append((title, [g for g in groups_of if g.panel == panel]))
    return out
