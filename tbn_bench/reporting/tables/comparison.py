"""The main table: accuracy with its interval, bits, bytes and measured latency, one row per method; one table per track.

Tasks other than classification have tables of their own (forecasting.py, segmentation.py) with the same columns.
"""

from typing import Any

from tbn_bench.reporting import published, style, tracks
from tbn_bench.reporting.groups import Group, by_track, groups
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.stats import leaders
from tbn_bench.reporting.write import Column, Table, column
from tbn_bench.scores import FIRST, SCORES

EXACT = 1e-5  # float32 implementations; the lossy peers (bf16, int8) stand in the latency table


def fastest(records: Records, group: Group, batch: int, device: str | None) -> dict[str, Any]:
    """The fastest exact implementation of any run of the group at this batch, hot, on one thread or a GPU."""
    timed = records.latency
    timed = timed[
        timed["run_id"].isin(group.run_ids)
        & (timed["batch"] == batch)
        & (timed["threads"] == 1)
        & (timed["device"] == device)
        & timed["unavailable"].isna()
        & ~(timed["tolerance"].astype(float) > EXACT)
        & ~timed["cache"].astype(str).str.startswith("flushed")
    ]
    if timed.empty:
        return {}
    return timed.loc[timed["time_ms_p50"].astype(float).idxmin()].to_dict()


def _result(name: str) -> Column:
    """Mean and interval of one score; one seed says so."""
    score = SCORES[name]

    def show(row: dict[str, Any]) -> str:
        mean, half = row.get(name), row.get(f"{name}_half")
        if mean is None:
            return style.DASH
        return score.text(mean, False) + (
            f" ± {score.text(half, False)}" if half is not None else " (1 seed)"
        )

    return Column(name, f"{score.label} (95 % interval)", show, mark=f"{name}_mark")


def _marks(found: list[Group]) -> dict[tuple[str, str], str]:
    """(sweep, group id) -> "best" or "second" of its panel, full precision aside, where stats.leaders tells them apart."""
    panels: dict[tuple[Any, ...], list[Group]] = {}
    for g in found:
        if g.by_seed and g.track != tracks.REFERENCE:
            panels.setdefault((g.panel, g.track, g.score), []).append(g)
    out: dict[tuple[str, str], str] = {}
    for own in panels.values():
        ahead = leaders(
            [
                {seed: SCORES[g.score].signed(value) for seed, value in g.by_seed.items()}
                for g in own
            ]
        )
        out |= {
            (own[i].sweep, own[i].group_id): mark
            for i, mark in zip(ahead, ("best", "second"), strict=False)
        }
    return out


def comparison(records: Records) -> Table | None:
    return of_track(records, tracks.WEIGHTS_ONLY)


def of_track(records: Records, track: str) -> Table | None:
    """The comparison of one track, with full precision as the reference; None where the track has no run."""
    found = [g for g in by_track(groups(records)).get(track, []) if g.score == FIRST]
    return of_groups(records, found, (FIRST,), f"Comparison, {tracks.title(track)}")


def of_scores(
    records: Records, chosen: tuple[str, ...], others: tuple[str, ...], title: str
) -> Table | None:
    """The comparison of all runs that are judged by one of the chosen scores, with the others beside it."""
    return of_groups(
        records, [g for g in groups(records) if g.score in chosen], (*chosen, *others), title
    )


def of_groups(
    records: Records, found: list[Group], results: tuple[str, ...], title: str
) -> Table | None:
    """A row per group, a column per score that any of them has; None where there is no group."""
    if not found:
        return None
    ids = {run_id for g in found for run_id in g.run_ids}
    timed = records.latency[records.latency["run_id"].isin(ids)]
    device = timed["device"].value_counts().index[0] if len(timed) else None
    batches = sorted({int(b) for b in timed[timed["device"] == device]["batch"]})
    marks = _marks(found)
    rows = [
        _row(records, g, batches, device) | {f"{g.score}_mark": marks.get((g.sweep, g.group_id))}
        for g in found
    ]
    quoted = (
        [column("reported_top1_percent", "reported top-1 %")]
        if any(row["reported_top1_percent"] for row in rows)
        else []
    )
    latency_columns = [
        c
        for b in batches
        for c in (
            column(f"time_ms_p50_b{b}", f"ms, batch {b}", ".3f"),
            column(f"ratio_b{b}", f"× dense, batch {b}", ".2f"),
        )
    ]
    filed = (
        [column("file_bytes", "file bytes", ",d")] if any(row["file_bytes"] for row in rows) else []
    )
    added = (
        [column("additions", "additions", ",d")] if any(row["additions"] for row in rows) else []
    )
    names = style.labels(records.runs["binarizer"])
    several = len({g.track for g in found} - {tracks.REFERENCE}) > 1
    columns = [
        column("data", "data", numeric=False), column("model", "model", numeric=False), *([column("track", "track", numeric=False)] if several else []),
        Column("binarizer", "method", lambda r: names[r["binarizer"]], numeric=False),
        *(_result(name) for name in results if name == FIRST or any(name in row for row in rows)), *quoted, column("n", "seeds", "d"),
        column("bits_per_weight", "bits per weight", ".3f"), column("tile_bits", "binary bits", ",d"), column("stored_bytes", "stored bytes", ",d"),
        *filed, column("distinct_macs", "distinct MACs", ",d"), *added, *latency_columns,
    ]  # fmt: skip
    raw = [
        key for c in columns for key in ((c.key, f"{c.key}_half") if c.key in SCORES else (c.key,))
    ]
    commands = sorted(
        {*timed["command"], *records.runs[records.runs["run_id"].isin(ids)]["command"]}
    )
    return Table(
        title,
        columns,
        rows,
        _note(rows, device, bool(quoted)),
        sorted(ids),
        commands,
        raw=("sweep", *raw),
    )


def _note(rows: list[dict[str, Any]], device: str | None, quoted: bool) -> str:
    note = (
        "On the test set, at the epoch chosen on held-out data; mean over seeds with Student's 95 % interval (none for one seed, which is "
        "said). Bold, then underlined (italic in Markdown): best and second best of a sweep, data set, model and track beside full precision, and only "
        "where the 95 % interval of the differences, paired by seed, from every method behind it is above 0; where one of these has one seed "
        "there is none, so no mark. "
        "Binary bits: the learned signs alone. Stored bytes: signs, scales, biases, normalisation, float layers."
    )
    if any(row["file_bytes"] for row in rows):
        note += " File bytes: the packed network with its header."
    if any(row["additions"] for row in rows):
        note += " Additions: what a layout needs beside its multiply-adds; records of early versions do not have them."
    if quoted:
        note += (
            " Reported: what the method's paper, README or authors' logs give for the same data, model and activation bits, by "
            "their own recipe and often at the best test epoch; no part of our numbers (sources under Published numbers)."
        )
    if legend := published.legend(row["reported_top1_percent"] for row in rows):
        note += f" {legend}"
    if device:
        note += f" Latency on {device}: the fastest float32 implementation of each method, one thread, after its parity check (bf16 and int8 stand under Latency); × dense is against full precision in eager torch."
    return note


def _row(records: Records, g: Group, batches: list[int], device: str | None) -> dict[str, Any]:
    bits = tracks.activation_bits(g.track)
    row = {
        "sweep": g.sweep, "group_id": g.group_id, "data": g.data, "model": g.model, "binarizer": g.binarizer, "track": g.track,
        **{name: i.mean for name, i in g.results.items()}, **{f"{name}_half": i.half for name, i in g.results.items()},
        "n": g.result.n if g.result else 0,
        "bits_per_weight": g.first["bits_per_weight"], "stored_bytes": _whole(g.first["stored_bytes"]), "distinct_macs": _whole(g.first["distinct_macs"]), "additions": _whole(g.first["additions"]),
        "tile_bits": _whole(g.first["tile_bits"]), "file_bytes": _whole(g.first["file_bytes"]),
        "reported_top1_percent": published.reported(records.published, g.binarizer, g.data, g.model, bits),
        "run_ids": g.run_ids,
    }  # fmt: skip
    for batch in batches:
        best = fastest(records, g, batch, device)
        row |= {
            f"time_ms_p50_b{batch}": best.get("time_ms_p50"),
            f"ratio_b{batch}": best.get("ratio"),
        }
    return row


def _whole(value: Any) -> int | None:
    return None if style.missing(value) else int(value)
