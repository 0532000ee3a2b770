"""GPU memory at inference, batch 1: what the author's figures and traces show. kernels.py has our times and bytes."""

from typing import Any

from tbn_bench.reporting import published, style
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.tables._paper import cite
from tbn_bench.reporting.write import Column, Table, column

_PEAK, _RESTING = "gpu_peak_MiB", "gpu_resting_MiB"


def gpu_memory(records: Records) -> Table | None:
    """A row per data set, model and method, published or measured (by the implementation that takes least); None where there is neither."""
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}

    def row_of(*key: str) -> dict[str, Any]:
        return rows.setdefault(
            key,
            dict(zip(("data", "model", "binarizer"), key, strict=True))
            | {"lines": {}, "ours": None},
        )

    for line in records.published.to_dict("records"):
        if line["metric"] in (_PEAK, _RESTING) and line["spec"]:
            row_of(line["dataset"], line["model"], line["spec"])["lines"].setdefault(
                line["metric"], []
            ).append(line)
    measured = records.latency[records.latency["gpu_peak_bytes"].notna()]
    for (data, model, spec), same in measured.groupby(["data", "model", "binarizer"]):
        least = same.sort_values(["gpu_peak_bytes", "implementation"]).iloc[0]
        row = row_of(data, model, spec)
        row["ours"], row["implementation"] = (
            least["gpu_peak_bytes"] / 2**20,
            least["implementation"].split(",")[0],
        )
        row["ours_resting"] = least["gpu_resting_bytes"] / 2**20
    if not rows:
        return None
    order = {spec: i for i, spec in enumerate(style.methods(key[2] for key in rows))}
    found = [rows[key] for key in sorted(rows, key=lambda key: (*key[:2], order[key[2]]))]
    sources = cite(found, lambda row: row["lines"])
    names = style.labels(row["binarizer"] for row in found)
    columns = [
        column("data", "data", numeric=False), column("model", "model", numeric=False),
        Column("binarizer", "method", lambda r: names[r["binarizer"]], numeric=False),
        column(_PEAK, "peak MiB, reported"), column(_RESTING, "resting MiB, reported"),
        column("ours", "peak MiB, ours", ".2f"), column("ours_resting", "resting MiB, ours", ".2f"),
        column("implementation", "implementation, ours", numeric=False),
    ]  # fmt: skip
    note = (
        "Allocated GPU memory of one forward pass of a single input. The author's tiled kernels keep a tile of full-precision values, one "
        f"per distinct weight; our Triton kernels keep bits. {'' if len(measured) else 'Ours was not run. '}"
        f"{published.legend(row.get(key) for row in found for key in (_PEAK, _RESTING))}"
    ).strip()
    return Table("GPU memory, published and ours", columns, found, note, sources=sources)
