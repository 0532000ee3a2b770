"""Where numbers come from, and what a reader must know before comparing: panels of mixed protocol, numbers from changed files, timings of
networks that are not there."""

import functools
import re
from collections.abc import Iterator

import pandas as pd

from tbn_bench.reporting.groups import groups, panels
from tbn_bench.reporting.load import Records

_SAME = {"test_samples": "test samples", "epochs": "epochs"}  # of all runs in a panel


@functools.lru_cache(maxsize=2)
def flags(records: Records) -> tuple[str, ...]:
    """One sentence each, empty where all is well. Every sidecar asks."""
    return (*_mixed(records), *_changed(records), *_timed(records), *_simulated(records))


def _mixed(records: Records) -> Iterator[str]:
    """Panels share sweep, data and model; what else a comparison takes for granted is looked up."""
    runs = records.finished.set_index(["sweep", "run_id"])
    for title, gs in panels([g for g in groups(records) if g.result is not None]):
        own = runs.loc[[(g.sweep, run_id) for g in gs for run_id in g.run_ids]]
        for key, words in _SAME.items():
            found = sorted(own[key].dropna().astype(int).unique())
            if len(found) > 1:
                yield f"{title}: runs of {', '.join(map(str, found))} {words} stand in one panel"


def _changed(records: Records) -> Iterator[str]:
    for what, frame in (
        ("runs", records.runs),
        ("timings", records.latency),
        ("measurements on simulators", records.mcu),
    ):
        if count := int(frame["dirty"].eq(True).sum()):
            yield f"{count} of {len(frame)} {what} were made by files that differ from their commit"


def _timed(records: Records) -> Iterator[str]:
    known, timed = set(records.runs["run_id"]), records.latency[records.latency["run_id"].notna()]
    for (case, run_id), _ in timed[~timed["run_id"].isin(known)].groupby(
        ["case", "run_id"], sort=True
    ):
        yield f"{case}: timed network {run_id} has no record here"


def _simulated(records: Records) -> Iterator[str]:
    lost = sorted(set(records.mcu["run_id"].dropna()) - set(records.runs["run_id"]))
    if lost:
        yield f"networks on simulated microcontrollers without a record of their training here: {', '.join(lost)}"


def origins(data: pd.DataFrame, records: Records) -> tuple[list[str], list[str]]:
    """(run ids, cited sources) of what a figure's frame draws. Its column runs names run ids, or SWEEP/GROUP ID for all runs of a group (whose
    id is that of its run of seed 0), or, for a published mark, the source. Where runs are only counted, the frame's attrs have run_ids."""
    if "run_ids" in data.attrs:
        return sorted(data.attrs["run_ids"]), []
    column = data["runs"] if "runs" in data else data["run"]
    cited = (
        data["published"].astype(bool)
        if "published" in data
        else pd.Series(False, index=data.index)
    )
    said = set(column[~cited].astype(str))
    groups_named = {text for text in said if re.fullmatch(r".*/[0-9a-f]{12}", text)}
    words = {word for text in said - groups_named for word in re.findall(r"\b[0-9a-f]{12}\b", text)}
    runs = records.runs
    used = runs["run_id"].isin(words) | (runs["sweep"] + "/" + runs["group_id"]).isin(groups_named)
    simulated = words & set(records.mcu["run_id"].dropna())
    return sorted({*runs[used]["run_id"], *simulated}), sorted(set(column[cited].astype(str)))
