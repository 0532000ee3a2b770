"""The published microcontroller experiment, an MLP 784-128-10 on MNIST: speed, memory, storage and accuracy, theirs and ours."""

from typing import Any

from tbn_bench import catalog
from tbn_bench.reporting import published, style
from tbn_bench.reporting.groups import Group, groups
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.tables._paper import TIMM, cite, name_of, ours, timm
from tbn_bench.reporting.tables.mcu import estimated
from tbn_bench.reporting.write import Column, Table, column
from tbn_bench.scores import FIRST

_DATA, _MODEL, _METHODS = (
    "mnist",
    "mlp(hidden=[128], bias=False)",
    ("bwn", "tbn(p=4)"),
)  # the two rows of the published table
_CORE, _COMPILER, _ACTIVATIONS = (
    "m4",
    "m4-gcc",
    "u8",
)  # of the records that the device columns are from
_REPORTED = {
    FIRST: "reported",
    published.FLASH: "reported_kB",
    "time_ms": "reported_ms",
}  # metric -> cell
_OWN = (
    "value",
    "half",
    "n",
    "epochs",
    "stored_bytes",
    "top1_c",
    "flash_bytes",
    "peak_bytes",
    "frames_per_s",
    "device",
    "measured_run",
)
_RAW = (*TIMM, "data", "binarizer", *_REPORTED.values(), *_OWN)


def microcontroller(records: Records) -> Table | None:
    """Published and own numbers; None where nothing is published about MNIST and nothing was run."""
    found = [
        g
        for g in groups(records)
        if name_of(g.data) == _DATA and published.is_same(_MODEL, g.model) and g.score == FIRST
    ]
    lines = [
        line
        for line in records.published.to_dict("records")
        if name_of(line["dataset"]) == _DATA and line["metric"] in _REPORTED
    ]
    measured = _measured(records)
    if not found and not lines and not measured:
        return None
    known = {run_id for g in found for run_id in g.run_ids}
    rows = [_own(g, [m for m in measured if m["run_id"] in g.run_ids]) for g in found]
    rows += _alone([m for m in measured if m["run_id"] not in known])
    missing = [spec for spec in _METHODS if spec not in {row["binarizer"] for row in rows}]
    rows += [*(_blank(_DATA, _MODEL, spec) for spec in missing), *_theirs(lines)]
    sources = cite(rows, lambda row: row["lines"])
    names = style.labels(row["binarizer"] for row in rows)
    shown = [
        key for key in _REPORTED.values() if key == "reported" or any(row[key] for row in rows)
    ]
    heads = dict(
        zip(
            _REPORTED.values(),
            ("top-1 %, reported", "weights kB, reported", "ms, reported"),
            strict=True,
        )
    )
    columns = [
        column("data", "data", numeric=False), column("model", "model", numeric=False),
        Column("binarizer", "method", lambda r: names[r["binarizer"]], numeric=False),
        *(column(key, heads[key]) for key in shown), Column("value", "top-1 %, ours", ours), column("n", "n", "d"), column("epochs", "epochs", "d"),
        column("stored_bytes", "stored bytes, ours", ",d"), column("top1_c", "top-1 %, C code", "%"), column("flash_bytes", "flash bytes, C code", ",.0f"),
        column("peak_bytes", "peak bytes, simulated", ",.0f"), column("frames_per_s", "frames/s, estimate", ",.1f"),
    ]  # fmt: skip
    ids = sorted({i for row in rows for i in row["run_ids"]})
    commands = {
        row["measured"]["command"] for row in rows if row["measured"] and row["measured"]["command"]
    }
    commands |= set(records.runs[records.runs["run_id"].isin(ids)]["command"])
    return Table(
        "Microcontroller, published and ours",
        columns,
        rows,
        _note(rows),
        ids,
        sorted(commands),
        sources,
        _RAW,
    )


def _measured(records: Records) -> list[dict[str, Any]]:
    """Records of the published network on the core and compiler that the device columns are about; the fewest instructions first."""
    found = [
        row for row in records.mcu.to_dict("records")
        if row["core"] == _CORE and row["device"].startswith(_COMPILER) and row["activations"] == _ACTIVATIONS
        and name_of(row["data"]) == _DATA and published.is_same(_MODEL, row["model"])
    ]  # fmt: skip
    return sorted(found, key=lambda row: (not row["count"], row["count"], row["case"]))


def _alone(measured: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row per measured network whose training has no record here."""
    first: dict[tuple[Any, ...], dict[str, Any]] = {}
    for m in measured:
        first.setdefault((m["data"], m["model"], m["binarizer"]), m)
    order = style.methods(m["binarizer"] for m in measured)
    return [
        _blank(*key) | _device(m)
        for key, m in sorted(first.items(), key=lambda kv: (kv[0][0], order.index(kv[0][2])))
    ]


def _theirs(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row per published network."""
    cells: dict[tuple[str, ...], dict[str, list[dict[str, Any]]]] = {}
    for line in lines:
        key = (line["dataset"], line["model"], line["spec"] or line["method"])
        cells.setdefault(key, {}).setdefault(_REPORTED[line["metric"]], []).append(line)
    return [_blank(*key) | {"lines": found} for key, found in cells.items()]


def _blank(data: str, model: str, spec: str) -> dict[str, Any]:
    return dict.fromkeys((*_RAW, "measured")) | {
        "data": data,
        "model": model,
        "binarizer": spec,
        "score": FIRST,
        "img_size": catalog.parse(data)[1].get("size", 28),
        "run_ids": [],
        "lines": {},
    }


def _device(m: dict[str, Any]) -> dict[str, Any]:
    """Cells of the C code, for a row."""
    return {
        "top1_c": m["top1_c"], "flash_bytes": m["flash_bytes"], "peak_bytes": m["ram_bytes"], "frames_per_s": m["frames_per_s_estimate"],
        "device": m["device"], "measured_run": m["run_id"], "measured": m,
    }  # fmt: skip


def _own(g: Group, measured: list[dict[str, Any]]) -> dict[str, Any]:
    row = _blank(g.data, g.model, g.binarizer) | {"epochs": g.first["epochs"], "run_ids": g.run_ids}
    if g.result is not None:
        size = g.first["stored_bytes"]
        row |= timm(g.result.mean) | {"param_count": round(g.first["weights"] / 1e6, 2)}
        row |= {
            "value": g.result.mean,
            "half": g.result.half,
            "n": g.result.n,
            "stored_bytes": None if style.missing(size) else int(size),
        }
    return row | (_device(measured[0]) if measured else {})


def _note(rows: list[dict[str, Any]]) -> str:
    used = [row["measured"] for row in rows if row["measured"]]
    device = "Nothing of ours has run on a microcontroller or a simulator of one yet."
    if used:
        tools = "; ".join(sorted({f"{m['device']}, {m['simulator']}" for m in used}))
        device = (
            f"Nothing of ours ran on a board: the last four columns are the C code with {_ACTIVATIONS} activations on a simulated Cortex-M4 ({tools}), one "
            f"seed; its top-1 is that of the whole test set; peak: arena and stack; {estimated(used)}."
        )
    note = (
        "MNIST. Speed, memory and storage of the published table could not be read in any source and are left out. Other published networks are on "
        f"devices of their own. {device} Stored bytes: of the packed file's tensors. {published.legend(row.get('reported') for row in rows)}"
    )
    return note.strip()
