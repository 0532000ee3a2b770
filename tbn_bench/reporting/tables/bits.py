"""Where the stored bits of each method go: signs, scales, codebooks, weights kept in float, and what is not a weight."""

from typing import Any

from tbn_bench.reporting import style
from tbn_bench.reporting.groups import Group, groups
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.write import Column, Table, column

_RAW = ("model", "param_count", "data", "binarizer", "tile_bits", "alpha_bits", "codebook_bits", "float_bits", "side_bits", "bias_bits",
        "norm_bits", "other_bits", "padding_bits", "stored_bytes", "bits_per_weight")  # fmt: skip
_SIDES = ("bias_bits", "norm_bits", "other_bits")


def bits(records: Records) -> Table | None:
    """A row per data set, model and method with a finished run; None where there is none."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for g in groups(records):
        if g.run_ids and not style.missing(g.first["stored_bits"]):
            row = _row(g, records.plans.get((g.sweep, g.group_id), []))
            kept = rows.setdefault(
                tuple(row.values()), row | {"run_ids": []}
            )  # sweeps that store the same share a row
            kept["run_ids"] += g.run_ids
    if not rows:
        return None
    found = list(rows.values())
    names = style.labels(row["binarizer"] for row in found)
    sides = [key for key in _SIDES if any(row[key] is not None for row in found)]
    columns = [
        column("data", "data", numeric=False), column("model", "model", numeric=False),
        Column("binarizer", "method", lambda r: names[r["binarizer"]], numeric=False),
        column("tile_bits", "signs or codes", ",d"), column("alpha_bits", "scales", ",d"), column("codebook_bits", "codebooks", ",d"),
        column("float_bits", "weights kept in float", ",d"),
        *([column(key, key.removesuffix("_bits"), ",d") for key in sides] or [column("side_bits", "biases, norms, other", ",d")]),
        column("padding_bits", "padding", ",d"), column("stored_bytes", "bytes", ",d"), column("bits_per_weight", "bits/weight", ".3f"),
    ]  # fmt: skip
    note = (
        "Bits, from the records; the parts and the padding to whole bytes add up to 8 x bytes. Signs: tiles, or a bit per weight where "
        "p = 1; codes of ternary weights and of codebooks. Bits/weight: signs, scales, codebooks and weights kept in float, over all weights."
    )
    ids = sorted({run_id for row in found for run_id in row["run_ids"]})
    return Table("Stored bits by part", columns, found, note, ids, raw=_RAW)


def _row(g: Group, plan: list[dict[str, Any]]) -> dict[str, Any]:
    """plan: a row per weight of one run of the group; without it only what the run's summary says is known."""
    first = g.first
    stored, of_weights, size = (
        _whole(first.get(key)) for key in ("stored_bits", "stored_bits_weights", "stored_bytes")
    )
    return {
        "data": g.data, "model": g.model, "binarizer": g.binarizer,
        "param_count": None if style.missing(first["weights"]) else round(first["weights"] / 1e6, 2),  # timm's unit
        "tile_bits": _whole(first.get("tile_bits")),
        "alpha_bits": _sum(plan, "alpha_bits"), "codebook_bits": _sum(plan, "codebook_bits"),
        "float_bits": _float_bits(plan),
        "side_bits": None if stored is None or of_weights is None else stored - of_weights,
        **{key: _whole(first.get(key)) for key in _SIDES},
        "padding_bits": None if stored is None or size is None else 8 * size - stored,
        "stored_bytes": size, "bits_per_weight": first["bits_per_weight"],
    }  # fmt: skip


def _float_bits(plan: list[dict[str, Any]]) -> int | None:
    """Of weights that are not binarized; None where a row does not say."""
    kept = [row.get("weight_bits") for row in plan if not row["binarized"]]
    return None if not plan or None in kept else sum(map(int, kept))


def _sum(plan: list[dict[str, Any]], key: str) -> int | None:
    return sum(int(row.get(key) or 0) for row in plan) if plan else None


def _whole(value: Any) -> int | None:
    return None if style.missing(value) else int(value)
