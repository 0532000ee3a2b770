"""The stored bits of each method by part: signs, scales, codebooks, float weights, and the rest."""

from typing import Any

from tbn_bench.reporting import style
from tbn_bench.reporting.groups import Group, groups
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.table import (
    Column,
    Row,
    Table,
    column,
    method_column,
    run_ids,
    text_column,
)
from tbn_bench.reporting.tables._paper import param_count

_RAW = (
    "model",
    "param_count_million",
    "data",
    "binarizer",
    "tile_bits",
    "alpha_bits",
    "codebook_bits",
    "float_bits",
    "side_bits",
    "bias_bits",
    "norm_bits",
    "other_bits",
    "padding_bits",
    "stored_bytes",
    "bits_per_weight",
)
_SIDES = ("bias_bits", "norm_bits", "other_bits")
_NOTE = (
    "Bits, from the records. The parts and the padding to whole bytes add up to 8 x bytes. Signs: "
    "tiles, or one bit per weight if p = 1; also the codes of ternary weights and of codebooks. "
    "Bits/weight: bits of signs, scales, codebooks and float weights, divided by the number of all "
    "weights."
)


def bits(records: Records) -> Table | None:
    """A row per data set, model and method with a finished run; None if there is none."""
    by_content: dict[tuple[Any, ...], Row] = {}
    for g in groups(records):
        if not g.run_ids or style.missing(g.first["stored_bits"]):
            continue
        plan = records.plans.get((g.sweep, g.group_id), [])
        row = _row(g, plan)
        content = tuple(row.values())  # sweeps that store the same share a row
        shared = by_content.setdefault(content, row | {"run_ids": []})
        shared["run_ids"] += g.run_ids
    if not by_content:
        return None
    rows = list(by_content.values())

    return Table(
        "Stored bits by part",
        _columns(rows),
        rows,
        _NOTE,
        run_ids(rows),
        raw=_RAW,
    )


def _columns(rows: list[Row]) -> list[Column]:
    return [
        text_column("data", "data"),
        text_column("model", "model"),
        method_column(row["binarizer"] for row in rows),
        column("tile_bits", "signs or codes", ",d"),
        column("alpha_bits", "scales", ",d"),
        column("codebook_bits", "codebooks", ",d"),
        column("float_bits", "weights kept in float", ",d"),
        *_side_columns(rows),
        column("padding_bits", "padding", ",d"),
        column("stored_bytes", "bytes", ",d"),
        column("bits_per_weight", "bits/weight", ".3f"),
    ]


def _side_columns(rows: list[Row]) -> list[Column]:
    """What is not a weight: by part if a record has the parts, else their sum."""
    columns = []
    for key in _SIDES:
        if any(row[key] is not None for row in rows):
            header = key.removesuffix("_bits")
            columns.append(column(key, header, ",d"))
    return columns or [column("side_bits", "biases, norms, other", ",d")]


def _row(g: Group, plan: list[Row]) -> Row:
    """plan: a row per weight of one run of the group; if empty, only the summary is used."""
    first = g.first
    stored = style.whole(first.get("stored_bits"))
    of_weights = style.whole(first.get("stored_bits_weights"))
    size = style.whole(first.get("stored_bytes"))
    side = None
    padding = None
    if stored is not None and of_weights is not None:
        side = stored - of_weights
    if stored is not None and size is not None:
        padding = 8 * size - stored
    return {
        "data": g.data,
        "model": g.model,
        "binarizer": g.binarizer,
        "param_count_million": param_count(g),
        "tile_bits": style.whole(first.get("tile_bits")),
        "alpha_bits": _sum(plan, "alpha_bits"),
        "codebook_bits": _sum(plan, "codebook_bits"),
        "float_bits": _float_bits(plan),
        "side_bits": side,
        **{key: style.whole(first.get(key)) for key in _SIDES},
        "padding_bits": padding,
        "stored_bytes": size,
        "bits_per_weight": first["bits_per_weight"],
    }


def _float_bits(plan: list[Row]) -> int | None:
    """Of weights that are not binarized; None where a row does not say."""
    kept = [row.get("weight_bits") for row in plan if not row["binarized"]]
    if not plan or None in kept:
        return None
    return sum(map(int, kept))


def _sum(plan: list[Row], key: str) -> int | None:
    if not plan:
        return None
    return sum(int(row.get(key) or 0) for row in plan)
