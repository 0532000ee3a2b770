"""The main table: accuracy with its interval, bits, bytes and measured latency, a row per method.

There is one table per track. Tasks other than classification have tables of their own
(forecasting.py, segmentation.py) with the same columns.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tbn_bench.reporting import names, narrower, published, style, tracks
from tbn_bench.reporting.groups import Group, Panel, by_track, groups, panel_titles
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.settings import settings
from tbn_bench.reporting.stats import leaders
from tbn_bench.reporting.table import Column, Row, Table, column, text_column
from tbn_bench.reporting.tables.best_configurations import best_first
from tbn_bench.scores import FIRST, SCORES

# Relative error of float32 implementations. Lossy peers (bf16, int8) are in the latency table only.
EXACT = 1e-5
MOST = 40  # configurations of one sweep, data set and network


def _reported_text(row: Row) -> str:
    return str(row.get("reported_text", style.DASH))


_REPORTED = Column("reported_top1_percent", "reported top-1 %", _reported_text)


@dataclass(frozen=True)
class _Timings:
    """The timings of one table. device: the most frequent one, None if nothing was timed."""

    device: str | None
    batches: list[int]
    commands: set[str]


def _timings(records: Records, ids: list[str]) -> _Timings:
    latency = records.latency
    timed = latency[latency["run_id"].isin(ids)]
    if timed.empty:
        return _Timings(None, [], set())
    device = timed["device"].value_counts().index[0]
    on_device = timed[timed["device"] == device]
    batches = {int(batch) for batch in on_device["batch"].dropna()}
    return _Timings(
        device=device,
        batches=sorted(batches),
        commands=set(timed["command"].dropna()),
    )


def fastest(records: Records, group: Group, batch: int, device: str | None) -> Row:
    """The fastest exact implementation of any run of the group at this batch.

    It ran with warm caches, on one thread or a GPU. Empty if nothing fits.
    """
    known = _fastest(records)
    found = [known.get((run_id, batch, device), {}) for run_id in group.run_ids]
    return min(filter(None, found), key=_time_ms, default={})


@functools.lru_cache(maxsize=2)  # every row of every table asks
def _fastest(records: Records) -> dict[tuple[str, int, str | None], Row]:
    """(run id, batch, device) -> the row of its fastest exact implementation."""
    timed = records.latency
    timed = timed[
        (timed["threads"] == 1)
        & timed["unavailable"].isna()
        & timed["time_ms_p50"].notna()
        & ~(timed["tolerance"].astype(float) > EXACT)
        & ~timed["cache"].astype(str).str.startswith("flushed")
    ]
    found: dict[tuple[str, int, str | None], Row] = {}
    for row in sorted(timed.to_dict("records"), key=_time_ms):
        found.setdefault((row["run_id"], row["batch"], row["device"]), row)
    return found


def _time_ms(row: Row) -> float:
    return float(row["time_ms_p50"])


def _result(name: str) -> Column:
    """Mean and interval of one score. For one seed, the cell says so."""
    score = SCORES[name]

    def show(row: Row) -> str:
        mean = row.get(name)
        half = row.get(f"{name}_half")
        if mean is None:
            return style.DASH
        mean_text = score.text(mean, False)
        if half is None:
            return f"{mean_text} (1 seed)"
        half_text = score.text(half, False)
        return f"{mean_text} ± {half_text}"

    return Column(
        name,
        f"{score.label} (95 % interval)",
        show,
        mark=f"{name}_mark",
        half=f"{name}_half",
    )


def _marks(found: list[Group]) -> dict[tuple[str, str], str]:
    """(sweep, group id) -> "best" or "second" of its panel, where stats.leaders separates them.

    Full precision is not ranked.
    """
    panels: dict[tuple[Any, ...], list[Group]] = {}
    for g in found:
        if g.by_seed and g.track != tracks.REFERENCE:
            panel = (g.panel, g.track, g.score)
            panels.setdefault(panel, []).append(g)

    marks = {}
    for rivals in panels.values():
        ahead = leaders([_signed_by_seed(g) for g in rivals])
        for place, mark in zip(ahead, ("best", "second"), strict=False):
            winner = rivals[place]
            marks[winner.sweep, winner.group_id] = mark
    return marks


def _signed_by_seed(g: Group) -> dict[int, float]:
    """The scores by seed; more is better."""
    score = SCORES[g.score]
    signed = {}
    for seed, value in g.by_seed.items():
        signed[seed] = score.signed(value)
    return signed


def comparison(records: Records) -> Table | None:
    return of_track(records, tracks.WEIGHTS_ONLY)


def of_track(records: Records, track: str) -> Table | None:
    """The comparison of one track with full precision; None if the track has no run."""
    split = by_track(groups(records))
    found = [g for g in split.get(track, []) if g.score == FIRST]
    title = f"Comparison, {tracks.title(track)}"
    return of_groups(records, found, (FIRST,), title)


def of_scores(
    records: Records, chosen: tuple[str, ...], others: tuple[str, ...], title: str
) -> Table | None:
    """The comparison of all runs that are judged by one of the chosen scores.

    The table shows the other scores too.
    """
    found = [g for g in groups(records) if g.score in chosen]
    results = chosen + others
    return of_groups(records, found, results, title)


def of_groups(
    records: Records, found: list[Group], results: tuple[str, ...], title: str
) -> Table | None:
    """A part per sweep, data set and network, with a row per group; None if there is no group."""
    if not found:
        return None
    ids = sorted(set[str]().union(*(g.run_ids for g in found)))
    timings = _timings(records, ids)
    marks = _marks(found)
    titles = panel_titles(g.panel for g in found)
    panels: dict[Panel, list[Group]] = {}
    for g in found:
        panels.setdefault(g.panel, []).append(g)
    controls = _narrower(records, panels)
    in_order = sorted(panels.items(), key=_largest_test_set_first)

    parts = []
    rows = []
    for panel, members in in_order:
        own = _rows(records, members, timings, marks)
        small = controls.get(panel, [])
        for g in small:
            (row,) = _rows(records, [g], timings, marks)
            own.append(row | {"method": narrower.label(g)})
        parts.append(_part(records, members, small, own, results, titles[panel]))
        rows += own
    columns = _all_columns(parts)
    commands = records.runs[records.runs["run_id"].isin(ids)]["command"]
    return Table(
        title,
        columns,
        rows,
        _note(rows, timings.device),
        ids,
        sorted(timings.commands.union(commands)),
        raw=_raw_keys(columns),
        parts=tuple(parts),
    )


def _narrower(records: Records, panels: dict[Panel, list[Group]]) -> dict[Panel, list[Group]]:
    """Panel -> the narrower binary networks that it shows as controls, the widest first.

    Their own panels, which have nothing else, are taken out of `panels`.
    """
    found = {}
    for panel, members in panels.items():
        small = narrower.narrower(records, members)
        small = [g for g in small if len(panels.get(g.panel, ())) == 1]
        if small:
            found[panel] = sorted(small, key=lambda g: -g.first["weights"])
    for small in found.values():
        for g in small:
            panels.pop(g.panel, None)
    return found


def _largest_test_set_first(panel: tuple[Panel, list[Group]]) -> float:
    _, members = panel
    return -max(g.first["test_samples"] or 0 for g in members)


def _rows(
    records: Records, found: list[Group], timings: _Timings, marks: dict[tuple[str, str], str]
) -> list[Row]:
    """A row per group of one panel: by method, then by the settings that vary."""
    shared = settings(records, found)
    full = [g for g in found if g.binarizer == "full_precision"]
    rows = []
    for g in sorted(found, key=shared.place):
        row = _row(records, g, timings)
        row[f"{g.score}_mark"] = marks.get((g.sweep, g.group_id))
        for batch in timings.batches:
            dense = [fastest(records, each, batch, timings.device) for each in full]
            row[f"ratio_b{batch}"] = _ratio(dense, row[f"time_ms_p50_b{batch}"])
        for name, values in shared.varied.items():
            row[name] = values[g.group_id]
        rows.append(row)
    return rows


def _ratio(dense: list[Row], time_ms: float | None) -> float | None:
    """How many times as fast as the fastest float32 implementation of full precision."""
    times = [row["time_ms_p50"] for row in dense if row]
    if not times or not time_ms:
        return None
    return float(min(times)) / time_ms


def _part(
    records: Records,
    found: list[Group],
    small: list[Group],
    rows: list[Row],
    results: tuple[str, ...],
    title: str,
) -> Table:
    """The table of one sweep, data set and network. small: narrower networks beside `found`.

    Settings that the sweep varied have columns; the others are in the heading. A column without a
    value is left out, and of a long search all but the best rows.
    """
    shared = settings(records, found)
    kept = {g.group_id for g in _best(found) + small}
    total = len(rows)
    rows = [row for row in rows if row["group_id"] in kept]
    columns = [
        *_track_columns(found),
        text_column("method", "method"),
        *(column(name, name, numeric=False) for name in shared.varied),
        *_result_columns(rows, results),
        column("n", "seeds", "d"),
        column("bits_per_weight", "bits per weight", ".3f"),
        column("tile_bits", "binary bits", ",d"),
        column("stored_bytes", "stored bytes", ",d"),
        *_if_any(rows, column("file_bytes", "file bytes", ",d")),
        column("distinct_macs", "distinct MACs", ",d"),
        *_if_any(rows, column("activation_macs", "activation MACs", ",d")),
        *_if_any(rows, column("additions", "additions", ",d")),
        *_if_any(rows, column("train_pflop", "training PFLOP", ".3f")),
        *_if_any(rows, column("cpu_seconds", "training CPU s", ",.0f")),
        *_latency_columns(rows),
    ]
    run_ids = sorted(set[str]().union(*(g.run_ids for g in found + small)))
    note = f"Sweep {found[0].sweep}: {shared.heading}{_commits(records, run_ids)}."
    if len(rows) < total:
        note += f" The best {len(rows)} of {total} configurations on held-out data."
    return Table(title, columns, rows, note, run_ids)


def _best(found: list[Group]) -> list[Group]:
    """All groups, or of a long search the best on held-out data."""
    judged = [g for g in found if g.held_out is not None]
    if len(found) <= MOST or not judged:
        return found
    kept = {id(g) for g in best_first(judged)[:MOST]}
    return [g for g in found if id(g) in kept]


def _commits(records: Records, run_ids: list[str]) -> str:
    """The commits that the runs were made at."""
    runs = records.runs
    found = runs[runs["run_id"].isin(run_ids)]["commit"].dropna()
    short = sorted({str(commit)[:7] for commit in found})
    if not short:
        return ""
    return f"; commit{'s' if len(short) > 1 else ''} {', '.join(short)}"


def _all_columns(parts: list[Table]) -> list[Column]:
    """The columns of all parts, after the names of their data set and network."""
    columns = {
        "data": text_column("data", "data"),
        "model": text_column("model", "network"),
    }
    for part in parts:
        for c in part.columns:
            columns.setdefault(c.key, c)
    return list(columns.values())


def _track_columns(found: list[Group]) -> list[Column]:
    """The track, if the table has several."""
    compared = {g.track for g in found}
    compared.discard(tracks.REFERENCE)
    if len(compared) < 2:
        return []
    return [text_column("track", "track")]


def _result_columns(rows: list[Row], results: tuple[str, ...]) -> Iterator[Column]:
    for name in results:
        if name == FIRST or any(name in row for row in rows):
            yield _result(name)
    yield from _if_any(rows, _REPORTED)


def _if_any(rows: list[Row], wanted: Column) -> list[Column]:
    """The column, if any row has a value for it."""
    if not _any(rows, wanted.key):
        return []
    return [wanted]


def _any(rows: list[Row], key: str) -> bool:
    return any(row.get(key) for row in rows)


def _latency_columns(rows: list[Row]) -> Iterator[Column]:
    for key in rows[0]:
        if key.startswith("time_ms_p50_b") and _any(rows, key):
            batch = key.removeprefix("time_ms_p50_b")
            yield column(key, f"CPU ms, batch {batch}", ".3f")
            yield column(f"ratio_b{batch}", f"× fastest FP32, batch {batch}", ".2f")


def _raw_keys(columns: list[Column]) -> tuple[str, ...]:
    """The keys of the CSV: those of the columns, and the half of each score's interval."""
    keys = ["sweep", "group_id", "binarizer"]
    for c in columns:
        keys.append(c.key)
        if c.key in SCORES:
            keys.append(f"{c.key}_half")
    return tuple(keys)


def _note(rows: list[Row], device: str | None) -> str:
    note = (
        "Scores are on the test set, at the epoch chosen on held-out data. They are means over "
        "seeds with Student's 95 % interval; a single seed has no interval, and the cell says so. "
        "Bold is the best method of a sweep, data set, model and track, underlined (italic in "
        "Markdown) the second best; full precision is not ranked. A method is marked only if the "
        "95 % intervals of its differences from every worse method, paired by seed, are above 0. "
        "So there is no mark if one of these methods has fewer than three seeds. Binary bits: the "
        "learned signs only. Stored bytes: signs, scales, biases, normalisation, float layers. "
        "Distinct MACs: multiply-adds with weights for one sample, after equal dot products are "
        "computed once."
    )
    note += _note_on_activations(rows)
    if _any(rows, "file_bytes"):
        note += " File bytes: the packed network with its header."
    if _any(rows, "additions"):
        note += (
            " Additions: additions that a layout needs besides its multiply-adds; records of early "
            "versions do not have them."
        )
    if _any(rows, "cpu_seconds"):
        note += (
            " Training CPU s: of the first seed, on whatever processor trained it; training PFLOP "
            "compares methods."
        )
    if _any(rows, "reported_top1_percent"):
        note += (
            " Reported: the value in the method's paper, README or authors' logs for the same "
            "data, model and activation bits, with their own recipe and often at the best test "
            "epoch. Our numbers do not include it (sources under Published numbers)."
        )
    if legend := published.legend(row.get("reported_text") for row in rows):
        note += f" {legend}"
    if device:
        note += (
            f" Latency on {device}: the fastest float32 implementation of each method after its "
            "parity check, in CPU time of one thread per call (bf16 and int8 are under Latency). "
            "× fastest FP32: how many times as fast as the fastest float32 implementation of full "
            "precision; the tables of kernels compare with eager torch."
        )
    return note


def _note_on_activations(rows: list[Row]) -> str:
    """Which products the distinct MACs do not count, and where they are."""
    note = " Products of activations with each other, as in attention, are not among them"
    if not _any(rows, "activation_macs"):
        return f"{note}; tbn-bench plan counts them."
    return (
        f"{note}: activation MACs counts these, which no method reduces; records of early versions "
        "do not have them."
    )


def _row(records: Records, g: Group, timings: _Timings) -> Row:
    first = g.first
    row: Row = {
        "sweep": g.sweep,
        "group_id": g.group_id,
        "data": names.data_set(g.data),
        "model": names.network(g.model),
        "method": g.label,
        "binarizer": g.binarizer,
        "track": g.track,
        "n": g.result.n if g.result else 0,
        "bits_per_weight": first["bits_per_weight"],
        "stored_bytes": style.whole(first["stored_bytes"]),
        "distinct_macs": style.whole(first["distinct_macs"]),
        "activation_macs": style.whole(first["activation_macs"]),
        "additions": style.whole(first["additions"]),
        "tile_bits": style.whole(first["tile_bits"]),
        "file_bytes": style.whole(first["file_bytes"]),
        "train_pflop": first["train_pflop"],
        "cpu_seconds": first["cpu_seconds"],
        "run_ids": g.run_ids,
    }
    row |= _reported(records.published, g)
    for name, interval in g.results.items():
        row[name] = interval.mean
        row[f"{name}_half"] = interval.half
    for batch in timings.batches:
        best = fastest(records, g, batch, timings.device)
        row[f"time_ms_p50_b{batch}"] = best.get("time_ms_p50")
    return row


def _reported(ledger: pd.DataFrame, g: Group) -> Row:
    """The published value of the same method, network and activations, in percent.

    Of several values, the one that our runs are compared with elsewhere (published.RULE).
    """
    bits = tracks.activation_bits(g.track)
    lines = published.matching(ledger, g.binarizer, g.data, g.model, bits)
    if not lines:
        return {}
    line = published.by_authority(lines)[0]
    value = published.shown(FIRST, line["value"])
    return {
        "reported_top1_percent": float(value),
        "reported_text": value + published.marks(line),
    }
