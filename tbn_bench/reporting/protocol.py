"""The origin of numbers, and the warnings that a reader needs before comparing them.

Warnings: panels of mixed protocol, numbers from changed or unknown files, timings of unknown
networks.
"""

import functools
import re
from collections.abc import Iterator

import pandas as pd

from tbn_bench import catalog, fingerprint
from tbn_bench.catalog import given
from tbn_bench.reporting.groups import groups, panels
from tbn_bench.reporting.load import Records

_SHELVES = {"binarizers": "binarizer", "models": "model", "data": "data"}
_SAME = {"test_samples": "test samples", "epochs": "epochs"}  # of all runs in a panel


@functools.lru_cache(maxsize=2)
def flags(records: Records) -> tuple[str, ...]:
    """One sentence per problem, empty if there is none. Cached: every sidecar asks."""
    return (
        *_mixed(records),
        *_changed(records),
        *_stale(records),
        *_unknown(records),
        *_timed(records),
        *_simulated(records),
    )


def _mixed(records: Records) -> Iterator[str]:
    """Panels share sweep, data and model; whatever else a comparison assumes is checked here."""
    runs = records.finished.set_index(["sweep", "run_id"])
    judged = [g for g in groups(records) if g.result is not None]
    for title, members in panels(judged):
        keys = []
        for g in members:
            for run_id in g.run_ids:
                keys.append((g.sweep, run_id))
        own = runs.loc[keys]

        for key, words in _SAME.items():
            found = own[key].dropna().astype(int).unique()
            if len(found) < 2:
                continue
            listed = ", ".join(map(str, sorted(found)))
            yield f"{title}: one panel has runs of {listed} {words}"


def _changed(records: Records) -> Iterator[str]:
    frames = {
        "runs": records.runs,
        "timings": records.latency,
        "measurements on simulators": records.mcu,
    }
    for what, frame in frames.items():
        count = int(frame["dirty"].eq(True).sum())
        if count:
            yield f"{count} of {len(frame)} {what} were made by files that differ from their commit"


def _stale(records: Records) -> Iterator[str]:
    """Runs whose numbers other code would give now."""
    stale = records.runs[records.runs["stale"].notna()]
    for (sweep, parts), rows in stale.groupby(["sweep", "stale"], sort=True):
        changed = fingerprint.named(parts.split(", "))
        yield (
            f"sweep {sweep}: {changed} has changed since (runs: {len(rows)}); "
            "tbn-bench sweep FILE --stale rerun trains them again"
        )


def _unknown(records: Records) -> Iterator[str]:
    """Entries of plugins that are not loaded: nobody can say whether their code has changed."""
    missing: dict[str, None] = {}
    for shelf, field in _SHELVES.items():
        for call in records.runs[field].unique():
            name = call.partition("(")[0]
            if name != given.NAME and name not in catalog.names(shelf):
                missing[name] = None
    if missing:
        yield (
            f"{', '.join(missing)}: not known here, so whether the code has changed since is not "
            "checked; tbn-bench report --plugin FILE checks it"
        )


def _timed(records: Records) -> Iterator[str]:
    run_ids = records.latency["run_id"]
    is_known = run_ids.isin(records.runs["run_id"])
    unknown = records.latency[run_ids.notna() & ~is_known]
    for (case, run_id), _ in unknown.groupby(["case", "run_id"], sort=True):
        yield f"{case}: timed network {run_id} has no record here"


def _simulated(records: Records) -> Iterator[str]:
    simulated = set(records.mcu["run_id"].dropna())
    lost = simulated.difference(records.runs["run_id"])
    if lost:
        yield (
            "networks on simulated microcontrollers without a record of their training here: "
            f"{', '.join(sorted(lost))}"
        )


def origins(data: pd.DataFrame, records: Records) -> tuple[list[str], list[str]]:
    """(run ids, cited sources) of the rows of a figure's frame.

    Its column `runs` has run ids, or SWEEP/GROUP ID for all runs of a group (its id is that of its
    run of seed 0), or the source of a published mark. If runs are only counted, the frame's attrs
    have run_ids.
    """
    if "run_ids" in data.attrs:
        return sorted(data.attrs["run_ids"]), []
    column = data["runs"] if "runs" in data else data["run"]
    cited = pd.Series(False, index=data.index)
    if "published" in data:
        cited = data["published"].astype(bool)
    named_groups = set()
    words: set[str] = set()
    for text in column[~cited].astype(str):
        if re.fullmatch(r".*/[0-9a-f]{12}", text):
            named_groups.add(text)
        else:
            words.update(re.findall(r"\b[0-9a-f]{12}\b", text))

    runs = records.runs
    group_names = runs["sweep"] + "/" + runs["group_id"]
    is_used = runs["run_id"].isin(words) | group_names.isin(named_groups)
    simulated = words.intersection(records.mcu["run_id"].dropna())
    run_ids = simulated.union(runs[is_used]["run_id"])
    sources = set(column[cited].astype(str))
    return sorted(run_ids), sorted(sources)
