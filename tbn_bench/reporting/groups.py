"""Runs that differ only in seed, as one row: the unit that tables and figures compare."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from tbn_bench import catalog
from tbn_bench.reporting import names, style, tracks
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.stats import Interval, t_interval
from tbn_bench.scores import NAMED

Panel = tuple[str, str, str]  # sweep, data, model


@dataclass(frozen=True)
class Group:
    """Runs of one configuration over seeds.

    label: display name of the method, different from those of other methods of the panel. shown_as:
    the call that the network amounts to: that of BWN if a TBN tiled no layer, else the binarizer.
    results: every score of the test set by name. result: the score that the runs are judged by,
    None if no run has finished. by_seed: the values of that score. held_out: its mean over runs on
    held-out data, at the epoch whose network was tested; None if it was not logged.
    """

    sweep: str
    group_id: str
    data: str
    model: str
    binarizer: str
    label: str
    track: str
    score: str
    results: dict[str, Interval]
    run_ids: list[str]
    unfinished: list[str]
    first: dict[str, Any]
    by_seed: dict[int, float] = field(default_factory=dict)
    held_out: float | None = None
    shown_as: str = ""

    @property
    def result(self) -> Interval | None:
        return self.results.get(self.score)

    @property
    def panel(self) -> Panel:
        """Groups of one panel may be compared: one sweep (so one protocol), data set and model."""
        return self.sweep, self.data, self.model


@functools.lru_cache(maxsize=2)
def groups(records: Records) -> list[Group]:
    """All groups, by sweep, data, model, then method in reading order.

    The list is cached and every table and figure reads it: do not change it.
    """
    runs = records.runs
    columns = _columns(records)
    labels = _labels(runs)
    found = []
    for (sweep, group_id), rows in runs.groupby(["sweep", "group_id"]).indices.items():
        is_done = columns.finished[rows]
        done = rows[is_done]
        first = _first(runs, done if len(done) else rows)
        label = labels[str(sweep), first["data"], first["model"]][first["binarizer"]]
        shown_as = first["binarizer"]
        if _tiles_nothing(shown_as, records.plans.get((str(sweep), str(group_id)), [])):
            shown_as = "bwn"
            label = f"BWN ({label} that tiles no layer)"
        group = Group(
            sweep=str(sweep),
            group_id=str(group_id),
            data=first["data"],
            model=first["model"],
            binarizer=first["binarizer"],
            label=label,
            track=first["track"],
            score=first["score"],
            results=columns.results(done),
            run_ids=sorted(columns.run_ids[done]),
            unfinished=sorted(columns.run_ids[rows[~is_done]]),
            first=first,
            by_seed=columns.by_seed(done, first["score"]),
            held_out=columns.mean_held_out(done),
            shown_as=shown_as,
        )
        found.append(group)

    methods = style.methods(runs["binarizer"])

    def place(g: Group) -> tuple[str, str, str, int, str]:
        method = methods.index(g.binarizer)
        return g.sweep, g.data, g.model, method, g.group_id

    return sorted(found, key=place)


def _tiles_nothing(binarizer: str, plan: list[dict[str, Any]]) -> bool:
    """Whether a TBN has p = 1 in every layer, since all are smaller than min_layer_size."""
    name, _ = catalog.parse(binarizer)
    binarized = [row for row in plan if row.get("binarized")]
    if name != "tbn" or not binarized:
        return False
    return all(row.get("p") == 1 for row in binarized)


def _labels(runs: pd.DataFrame) -> dict[Panel, dict[str, str]]:
    """Panel -> spec -> display name."""
    found = {}
    for panel, specs in runs.groupby(["sweep", "data", "model"])["binarizer"].unique().items():
        found[panel] = names.methods(sorted(specs))
    return found


@dataclass(frozen=True)
class _Columns:
    """Columns of the runs as arrays, each (runs,).

    A frame for each of thousands of groups would take most of a report's time.
    """

    finished: np.ndarray
    run_ids: np.ndarray
    seeds: np.ndarray
    scores: dict[str, np.ndarray]
    held_out: np.ndarray

    def mean_held_out(self, rows: np.ndarray) -> float | None:
        values = self.held_out[rows]
        known = values[~np.isnan(values)]
        return float(known.mean()) if known.size else None

    def results(self, rows: np.ndarray) -> dict[str, Interval]:
        """The interval of each score that some of the rows have."""
        out = {}
        for name, column in self.scores.items():
            values = column[rows]
            known = values[~np.isnan(values)]
            if known.size:
                out[name] = t_interval(known.tolist())
        return out

    def by_seed(self, rows: np.ndarray, score: str) -> dict[int, float]:
        """The values of one score, of the rows that have it."""
        values = self.scores[score]
        found = {}
        for row in rows:
            seed = int(self.seeds[row])
            value = float(values[row])
            if not np.isnan(value):
                found[seed] = value
        return found


def _columns(records: Records) -> _Columns:
    runs = records.runs
    scores = {}
    for name in NAMED:
        scores[name] = runs[f"test/{name}"].to_numpy(dtype=float)
    status = runs["status"].to_numpy()
    return _Columns(
        finished=status == "finished",
        run_ids=runs["run_id"].to_numpy(),
        seeds=runs["seed"].to_numpy(),
        scores=scores,
        held_out=_held_out(records),
    )


def _held_out(records: Records) -> np.ndarray:
    """(runs,) the held-out score of each run at its best epoch; NaN where it was not logged."""
    runs = records.runs
    keys = ["sweep", "run_id"]
    tested = runs[[*keys, "best_epoch"]].rename(columns={"best_epoch": "epoch"})
    tested = tested.assign(place=np.arange(len(runs))).dropna(subset=["epoch"])
    curves = records.curves[[*keys, "epoch", "val/score"]]
    typed = {"sweep": str, "run_id": str, "epoch": float}
    found = curves.astype(typed).merge(tested.astype(typed), on=[*keys, "epoch"])
    values = np.full(len(runs), np.nan)
    values[found["place"]] = pd.to_numeric(found["val/score"], errors="coerce")
    return values


def _first(runs: pd.DataFrame, rows: np.ndarray) -> dict[str, Any]:
    """The first of these rows, in Python's own values."""
    first = {}
    for key, value in runs.iloc[rows[0]].items():
        first[str(key)] = _plain(value)
    return first


def _plain(value: Any) -> Any:
    """Python's own number instead of numpy's; None if it is missing."""
    if pd.isna(value):
        return None
    return value.item() if hasattr(value, "item") else value


def by_track(found: list[Group]) -> dict[str, list[Group]]:
    """Track -> its groups, with full precision of the same panels as the reference.

    A panel with only full precision counts as weights only.
    """
    lowered = [g for g in found if g.track != tracks.REFERENCE]
    compared = {g.panel for g in lowered}
    out = {}
    for track in tracks.TRACKS:
        own = {g.panel for g in lowered if g.track == track}
        if track == tracks.WEIGHTS_ONLY:
            alone = {g.panel for g in found} - compared
            own |= alone
        members = [g for g in found if g.panel in own and g.track in (track, tracks.REFERENCE)]
        if members:
            out[track] = members
    return out


def panels(found: list[Group]) -> list[tuple[str, list[Group]]]:
    """(title, groups) per track, sweep, data set and model; groups of one panel may share axes.

    No title occurs twice.
    """
    split = by_track(found)
    titles = panel_titles({g.panel for g in found})
    out = []
    for track, members in split.items():
        by_panel: dict[Panel, list[Group]] = {}
        for g in members:
            by_panel.setdefault(g.panel, []).append(g)

        for panel, own in by_panel.items():
            title = titles[panel]
            if track != tracks.WEIGHTS_ONLY:
                title += f", {track}"
            out.append((title, own))
    return out


def panel_titles(found: Iterable[Panel]) -> dict[Panel, str]:
    """Panel -> data set and network by their display names, such as CIFAR-10, ResNet-18.

    Panels that would have one title show their sweep, and what else differs.
    """
    panels = sorted(set(found))
    by_title: dict[str, list[Panel]] = {}
    for panel in panels:
        _, data, model = panel
        title = f"{names.data_set(data)}, {names.network(model)}"
        by_title.setdefault(title, []).append(panel)

    titles = {}
    for title, members in by_title.items():
        for panel, text in zip(members, _told_apart(title, members), strict=True):
            titles[panel] = text
    return titles


def _told_apart(title: str, members: list[Panel]) -> list[str]:
    """A text for each panel of one title."""
    if len(members) == 1:
        return [title]
    sweeps = [sweep for sweep, _, _ in members]
    if len(set(sweeps)) == len(members):
        return [f"{title}, sweep {sweep}" for sweep in sweeps]
    data = names.distinct([data for _, data, _ in members], names.data_set)
    models = names.distinct([model for _, _, model in members], names.network)
    return [f"{data[d]}, {models[m]}, sweep {sweep}" for sweep, d, m in members]
