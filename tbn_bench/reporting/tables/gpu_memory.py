"""GPU memory at inference, batch 1: what the author's figures and traces show. kernels.py has our times and bytes."""

from typing import Any

from tbn_bench.reporting import published, style
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.tables._paper import cite
from tbn_bench.reporting.write import Column, Table, column

_PEAK, _RESTING = "gpu_peak_MiB", "gpu_resting_MiB"


def gpu_memory(records: Records) -> Table | None:
    """A row per data set, model and method; None where nothing is published."""
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for line in records.published.to_dict("records"):
        if line["metric"] in (_PEAK, _RESTING) and line["spec"]:
            key = (line["dataset"], line["model"], line["spec"])
            row = rows.setdefault(key, dict(zip(("data", "model", "binarizer"), key, strict=True)) | {"lines": {}, "ours": None})
            row["lines"].setdefault(line["metric"], []).append(line)
    if not rows:
        return None
    order = {spec: i for i, spec in enumerate(style.methods(key[2] for key in rows))}
    found = [rows[key] for key in sorted(rows, key=lambda key: (*key[:2], order[key[2]]))]
    sources = cite(found, lambda row: row["lines"])
    names = style.labels(row["binarizer"] for row in found)
    columns = [
        column("data", "data", numeric=False), column("model", "model", numeric=False),
        Column("binarizer", "method", lambda r: names[r["binarizer"]], numeric=False),
        column(_PEAK, "peak MiB, reported"), column(_RESTING, "resting MiB, reported"), column("ours", "peak MiB, ours"),
    ]  # fmt: skip
    note = (
        "Allocated GPU memory of one forward pass of a single input. The author's tiled kernels keep a tile of full-precision values, one "
        f"per distinct weight. Ours was not run. {published.legend(row.get(key) for row in found for key in (_PEAK, _RESTING))}"
    ).strip()
    return Table("GPU memory, published and ours", columns, found, note, sources=sources)
