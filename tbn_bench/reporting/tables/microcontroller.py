"""The published microcontroller experiment, an MLP 784-128-10 on MNIST.

Speed, memory, storage and accuracy, published and ours.
"""

from tbn_bench import catalog
from tbn_bench.reporting import published, style
from tbn_bench.reporting.groups import Group, groups
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.published import Line
from tbn_bench.reporting.table import (
    Column,
    Row,
    Table,
    column,
    method_column,
    run_ids,
    text_column,
)
from tbn_bench.reporting.tables._cited import cite
from tbn_bench.reporting.tables._paper import TIMM, name_of, ours, param_count, timm
from tbn_bench.reporting.tables.mcu import estimated
from tbn_bench.scores import FIRST

_DATA = "mnist"
_MODEL = "mlp(hidden=[128], bias=False)"
_METHODS = ("bwn", "tbn(p=4)")  # the two rows of the published table
# The device columns are from records of this core, compiler and activations.
_CORE = "m4"
_COMPILER = "m4-gcc"
_ACTIVATIONS = "u8"
# metric -> key of its cell
_REPORTED = {FIRST: "reported", published.FLASH: "reported_kB", "time_ms": "reported_ms"}
_HEADS = {
    "reported": "top-1 %, reported",
    "reported_kB": "weights kB, reported",
    "reported_ms": "ms, reported",
}
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
    "group_id",
)
_VALUES = [f"{key}_value" for key in _REPORTED.values()]
_SOURCES = [f"{key}_source" for key in _REPORTED.values()]
_RAW = (*TIMM, "data", "binarizer", *_VALUES, *_SOURCES, *_OWN)


def microcontroller(records: Records) -> Table | None:
    """Published and own numbers; None if nothing is published about MNIST and nothing was run."""
    found = [g for g in groups(records) if _is_trained(g)]
    lines = [line for line in records.published.to_dict("records") if _is_published(line)]
    measured = _measured(records)
    if not found and not lines and not measured:
        return None
    rows = _own_rows(found, measured)
    known = {row["binarizer"] for row in rows}
    rows += [_blank(_DATA, _MODEL, spec) for spec in _METHODS if spec not in known]
    rows += _theirs(lines)
    sources = cite(rows, lambda row: row["lines"])
    ids = run_ids(rows)

    return Table(
        "Microcontroller, published and ours",
        _columns(rows),
        rows,
        _note(rows),
        ids,
        _commands(records, rows, ids),
        sources,
        _RAW,
    )


def _is_trained(g: Group) -> bool:
    """Whether a group of ours is of the published network."""
    return name_of(g.data) == _DATA and published.is_same(_MODEL, g.model) and g.score == FIRST


def _is_published(line: Line) -> bool:
    if line["metric"] not in _REPORTED:
        return False
    return name_of(line["dataset"]) == _DATA


def _own_rows(found: list[Group], measured: list[Row]) -> list[Row]:
    """A row per group, then a row per measured network whose training has no record here."""
    rows = []
    left = measured
    for g in found:
        own = [m for m in measured if m["run_id"] in g.run_ids]
        rows.append(_own(g, own))
        left = [m for m in left if m["run_id"] not in g.run_ids]
    return rows + _alone(left)


def _columns(rows: list[Row]) -> list[Column]:
    reported = []
    for key, head in _HEADS.items():
        if key == "reported" or any(row[key] for row in rows):
            reported.append(column(key, head))
    return [
        text_column("data", "data"),
        text_column("model", "model"),
        method_column(row["binarizer"] for row in rows),
        *reported,
        Column("value", "top-1 %, ours", ours),
        column("n", "n", "d"),
        column("epochs", "epochs", "d"),
        column("stored_bytes", "stored bytes, ours", ",d"),
        column("top1_c", "top-1 %, C code", "%"),
        column("flash_bytes", "flash bytes, C code", ",.0f"),
        column("peak_bytes", "peak bytes, simulated", ",.0f"),
        column("frames_per_s", "frames/s, estimate", ",.1f"),
    ]


def _used(rows: list[Row]) -> list[Row]:
    """The measurements that the rows show."""
    return [row["measured"] for row in rows if row["measured"]]


def _commands(records: Records, rows: list[Row], ids: list[str]) -> list[str]:
    """The commands that measured and trained what the rows show."""
    commands = set()
    for m in _used(rows):
        if m["command"]:
            commands.add(m["command"])
    trained = records.runs["run_id"].isin(ids)
    commands.update(records.runs[trained]["command"])
    return sorted(commands)


def _measured(records: Records) -> list[Row]:
    """Records of the published network on the device of the columns, fewest instructions first."""

    def place(row: Row) -> tuple[bool, float, str]:
        return not row["count"], row["count"], row["case"]

    found = [row for row in records.mcu.to_dict("records") if _is_measured(row)]
    return sorted(found, key=place)


def _is_measured(row: Row) -> bool:
    return (
        row["core"] == _CORE
        and row["device"].startswith(_COMPILER)
        and row["activations"] == _ACTIVATIONS
        and name_of(row["data"]) == _DATA
        and published.is_same(_MODEL, row["model"])
    )


def _alone(measured: list[Row]) -> list[Row]:
    """A row per measured network, with its first measurement."""
    first: dict[tuple[str, str, str], Row] = {}
    for m in measured:
        key = (m["data"], m["model"], m["binarizer"])
        first.setdefault(key, m)
    methods = style.methods(m["binarizer"] for m in measured)

    def place(key: tuple[str, str, str]) -> tuple[str, int]:
        data, _, spec = key
        return data, methods.index(spec)

    rows = []
    for key in sorted(first, key=place):
        row = _blank(*key)
        rows.append(row | _device(first[key]))
    return rows


def _theirs(lines: list[Line]) -> list[Row]:
    """A row per published network."""
    rows: dict[tuple[str, str, str], Row] = {}
    for line in lines:
        method = line["spec"] or line["method"]
        key = (line["dataset"], line["model"], method)
        if key not in rows:
            rows[key] = _blank(*key)
        cells = rows[key]["lines"]
        cell = _REPORTED[line["metric"]]
        cells.setdefault(cell, []).append(line)
    return list(rows.values())


def _blank(data: str, model: str, spec: str) -> Row:
    """A row in which all numbers are None."""
    options = catalog.parse(data)[1]
    return dict.fromkeys((*_RAW, *_REPORTED.values(), "measured")) | {
        "data": data,
        "model": model,
        "binarizer": spec,
        "score": FIRST,
        "img_size_pixels": options.get("size", 28),
        "run_ids": [],
        "lines": {},
    }


def _device(m: Row) -> Row:
    """The cells of a row that are about the C code."""
    return {
        "top1_c": m["top1_c"],
        "flash_bytes": m["flash_bytes"],
        "peak_bytes": m["ram_bytes"],
        "frames_per_s": m["frames_per_s_estimate"],
        "device": m["device"],
        "measured_run": m["run_id"],
        "measured": m,
    }


def _own(g: Group, measured: list[Row]) -> Row:
    row = _blank(g.data, g.model, g.binarizer)
    row["epochs"] = g.first["epochs"]
    row["run_ids"] = g.run_ids
    result = g.result
    if result is not None:
        row |= timm(result.mean)
        row |= {
            "param_count_million": param_count(g),
            "group_id": g.group_id,
            "value": result.mean,
            "half": result.half,
            "n": result.n,
            "stored_bytes": style.whole(g.first["stored_bytes"]),
        }
    if measured:
        row |= _device(measured[0])
    return row


def _note(rows: list[Row]) -> str:
    used = _used(rows)
    device = "Nothing of ours has run on a microcontroller or a simulator of one yet."
    if used:
        tools = {f"{m['device']}, {m['simulator']}" for m in used}
        device = (
            "Nothing of ours ran on a board: the last four columns are the C code with "
            f"{_ACTIVATIONS} activations on a simulated Cortex-M4 ({'; '.join(sorted(tools))}), "
            "one seed; its top-1 is that of the whole test set; peak: arena and stack; "
            f"{estimated(used)}."
        )
    legend = published.legend(row.get("reported") for row in rows)
    note = (
        "MNIST. Speed, memory and storage of the published table could not be read in any source "
        f"and are left out. Other published networks are on devices of their own. {device} Stored "
        f"bytes: of the packed file's tensors. {legend}"
    )
    return note.strip()
