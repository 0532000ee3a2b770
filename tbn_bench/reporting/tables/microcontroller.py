"""The published microcontroller experiment, an MLP 784-128-10 on MNIST: speed, memory, storage and accuracy."""

from typing import Any

from tbn_bench.reporting import published, style
from tbn_bench.reporting.groups import Group, groups
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.tables._paper import TIMM, cite, name_of, ours, timm
from tbn_bench.reporting.write import Column, Table, column
from tbn_bench.scores import FIRST

_DATA, _MODEL, _METHODS = "mnist", "mlp(hidden=[128], bias=False)", ("bwn", "tbn(p=4)")  # the two rows of the published table


def microcontroller(records: Records) -> Table | None:
    """Published and own numbers; None where nothing is published about MNIST and nothing was run."""
    found = [g for g in groups(records) if name_of(g.data) == _DATA and published.is_same(_MODEL, g.model) and g.score == FIRST]
    lines = [line for line in records.published.to_dict("records") if line["dataset"] == _DATA and line["metric"] == FIRST]
    if not found and not lines:
        return None
    missing = [spec for spec in _METHODS if spec not in {g.binarizer for g in found}]
    rows = [*map(_own, found), *(_blank(_MODEL, spec) for spec in missing)]
    rows += [_blank(line["model"], line["spec"] or line["method"]) | {"lines": {"reported": [line]}} for line in lines]
    sources = cite(rows, lambda row: row["lines"])
    names = style.labels(row["binarizer"] for row in rows)
    columns = [
        column("model", "model", numeric=False), Column("binarizer", "method", lambda r: names[r["binarizer"]], numeric=False),
        column("reported", "top-1 %, reported"), Column("value", "top-1 %, ours", ours), column("n", "n", "d"), column("epochs", "epochs", "d"),
        column("stored_bytes", "stored bytes, ours", ",d"), column("frames_per_s", "frames/s, device"), column("peak_bytes", "peak bytes, device"),
    ]  # fmt: skip
    note = (
        "MNIST. Speed, memory and storage of the published table could not be read in any source and are left out; nothing of ours has run on "
        f"a microcontroller yet. Stored bytes: of the packed file's tensors. {published.legend(row.get('reported') for row in rows)}"
    ).strip()
    return Table(
        "Microcontroller, published and ours",
        columns,
        rows,
        note,
        sorted({i for row in rows for i in row["run_ids"]}),
        sources=sources,
        raw=(
            *TIMM,
            "data",
            "binarizer",
            "reported",
            "value",
            "half",
            "n",
            "epochs",
            "stored_bytes",
            "frames_per_s",
            "peak_bytes",
        ),
    )


def _blank(model: str, spec: str) -> dict[str, Any]:
    keys = (*TIMM, "value", "half", "n", "epochs", "stored_bytes", "frames_per_s", "peak_bytes", "reported")
    return dict.fromkeys(keys) | {
        "data": _DATA,
        "model": model,
        "binarizer": spec,
        "score": FIRST,
        "img_size": 28,
        "run_ids": [],
        "lines": {},
    }


def _own(g: Group) -> dict[str, Any]:
    row = _blank(g.model, g.binarizer) | {"epochs": g.first["epochs"], "run_ids": g.run_ids}
    if g.result is not None:
        size = g.first["stored_bytes"]
        row |= timm(g.result.mean) | {"param_count": round(g.first["weights"] / 1e6, 2)}
        row |= {
            "value": g.result.mean,
            "half": g.result.half,
            "n": g.result.n,
            "stored_bytes": None if style.missing(size) else int(size),
        }
    return row
