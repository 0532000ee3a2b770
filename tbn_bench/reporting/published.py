"""The ledger of published numbers, results/published/<method>.csv: read, checked, and set beside our rows, never mixed into them.

Fractions (top1, accuracy, iou) as in our store. metric top1 is what the paper, its authors' README or their logs report, or the
one known re-implementation; top1_rerun what others got beside it; top1_last_epoch an author's log without selection;
top1_unfinished a log that stops early. Where the metric is a score of ours (scores.py) it is that score, of the same data; others are
shown, never compared. second_hand: quoted by somebody else, not read in the source. A note with the word "inferred" says that a part of
the setting is not stated by the source. Only what was read somewhere is in the ledger: remembered numbers are not.
"""

import csv
import io
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from tbn_bench import catalog
from tbn_bench.records import store
from tbn_bench.records.store import read_file
from tbn_bench.reporting import style
from tbn_bench.scores import FIRST, SCORES

COLUMNS = (
    "method",
    "spec",
    "dataset",
    "model",
    "weight_bits",
    "activation_bits",
    "metric",
    "value",
    "second_hand",
    "source",
    "note",
)
ACTIVATION_BITS = (1, 8, 32)
DAGGER = "†"
INFERRED = "‡"
LEGEND = {
    DAGGER: "Second-hand: quoted by others, not read in the source.",
    INFERRED: "A part of the setting was inferred, the source does not state it.",
}
FLASH = "stored_kB"  # metric: flash for the weights, in kB as printed
_FEW = 3  # reported values that are listed one by one; more are shown as a range


def read(results: Path, problems: list[str]) -> pd.DataFrame:
    """A row per line of results/published/*.csv, empty where there is no such folder. What is wrong is named in `problems`."""
    rows: list[dict[str, Any]] = []
    for path in sorted((results / "published").glob("*.csv")):
        try:
            for line, values in _lines(path):
                row, faults = _checked(values)
                rows += [row] if not faults else []
                problems += (
                    [f"{path}, line {line}: {'; '.join(faults)}; correct the line"]
                    if faults
                    else []
                )
        except (OSError, ValueError, csv.Error) as error:
            problems.append(f"{store.shown(path)}: {error}")
    return pd.DataFrame(rows, columns=list(COLUMNS), dtype=object)  # None stays None


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) after the header. Raises ValueError for another header or a file that is not UTF-8."""
    reader = csv.reader(io.StringIO(read_file(path).decode(), newline=""))
    header = next(reader, [])
    if tuple(header) != COLUMNS:
        raise ValueError(f"the first line must be {','.join(COLUMNS)}, got {','.join(header)!r}")
    for values in reader:
        yield reader.line_num, values


def _checked(values: list[str]) -> tuple[dict[str, Any], list[str]]:
    """(row, faults): the typed row where there are no faults. Empty cells are None."""
    if len(values) != len(COLUMNS):
        return {}, [f"expected {len(COLUMNS)} cells, got {len(values)}"]
    row: dict[str, Any] = {k: v.strip() or None for k, v in zip(COLUMNS, values, strict=True)}
    faults = [
        f"{key} must not be empty" for key in ("method", "metric", "source") if row[key] is None
    ]
    faults += [*_value_faults(row), *_bits_faults(row), *_spec_faults(row)]
    if row["second_hand"] not in ("true", "false"):
        faults.append(f"second_hand must be true or false, got {row['second_hand']!r}")
    row["second_hand"] = row["second_hand"] == "true"
    return row, faults


def _number(text: str | None) -> float:
    """NaN for what is no finite number."""
    try:
        value = float(text or "nan")
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def is_fraction(metric: str) -> bool:
    return (
        metric.startswith("top")
        or metric.endswith(("accuracy", "iou"))
        or (metric in SCORES and SCORES[metric].factor == 100)
    )


def _value_faults(row: dict[str, Any]) -> list[str]:
    text, row["value"] = row["value"], _number(row["value"])
    if math.isnan(row["value"]):
        return [f"value must be a finite number, got {text!r}"]
    if is_fraction(row["metric"] or "") and not 0 < row["value"] <= 1:
        return [f"{row['metric']} must be a fraction in (0, 1], got {text} (93.1 % is 0.931)"]
    return []


def _bits_faults(row: dict[str, Any]) -> list[str]:
    weights, activations = row["weight_bits"], row["activation_bits"]
    row["weight_bits"] = None if weights is None else _number(weights)
    row["activation_bits"] = int(activations) if (activations or "").isdecimal() else None
    faults = []
    if weights is not None and not row["weight_bits"] > 0:
        faults.append(f"weight_bits must be a positive number or empty, got {weights!r}")
    if row["activation_bits"] not in ACTIVATION_BITS:
        faults.append(
            f"activation_bits must be one of {', '.join(map(str, ACTIVATION_BITS))}, got {activations!r}"
        )
    return faults


def _spec_faults(row: dict[str, Any]) -> list[str]:
    if row["spec"] is None:
        return []
    try:
        name = catalog.parse(row["spec"])[0]
    except ValueError as error:
        return [f"spec: {error}"]
    return (
        []
        if name == row["method"]
        else [f"spec must be of the method {row['method']!r}, got {row['spec']!r}"]
    )


def marks(line: dict[str, Any]) -> str:
    """What a reader must know of a value before he trusts it; LEGEND explains them."""
    return DAGGER * bool(line["second_hand"]) + INFERRED * ("inferred" in (line["note"] or ""))


def legend(texts: Iterable[str | None]) -> str:
    """The explanations of the marks that stand in these cells."""
    used = "".join(text or "" for text in texts)
    return " ".join(f"{mark} {why}" for mark, why in LEGEND.items() if mark in used)


def matching(
    ledger: pd.DataFrame,
    binarizer: str,
    data: str,
    model: str,
    activation_bits: int,
    metric: str = FIRST,
) -> list[dict[str, Any]]:
    """The lines of one metric that are about this method, data set, model and width of activations.

    A line is meant where each option it names has our value; options that only we name are ignored, except sizes of the data set or
    model, which make another one.
    """
    lines = ledger[
        (ledger["metric"] == metric) & (ledger["activation_bits"] == activation_bits)
    ].to_dict("records")
    return [
        line for line in lines if is_same(line["spec"], binarizer) and is_about(line, data, model)
    ]


def is_about(line: dict[str, Any], data: str, model: str) -> bool:
    """Whether a line's data set and model are these of ours."""
    return is_same(line["dataset"], data, True) and is_same(line["model"], model, True)


def networks(ledger: pd.DataFrame, data: str, activation_bits: int | None) -> list[dict[str, Any]]:
    """Networks with both a top-1 and a FLASH, each a value under its metric, on a data set by its name alone: at any resolution."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for line in ledger.to_dict("records"):
        named = (
            line["dataset"]
            and line["model"]
            and line["dataset"].partition("(")[0] == data.partition("(")[0]
        )
        if (
            named
            and line["activation_bits"] == activation_bits
            and line["metric"] in (FIRST, FLASH)
        ):
            key = tuple(line[k] for k in ("method", "dataset", "model", "source"))
            found.setdefault(key, {k: line[k] for k in ("method", "dataset", "model", "source")})[
                line["metric"]
            ] = line["value"]
    return [network for network in found.values() if FIRST in network and FLASH in network]


def reported(
    ledger: pd.DataFrame,
    binarizer: str,
    data: str,
    model: str,
    activation_bits: int,
    metric: str = FIRST,
) -> str | None:
    """What `matching` finds as a cell (fractions in percent): listed, or a range where there are many. None where nothing was published."""
    found: dict[float, str] = {}
    for line in matching(ledger, binarizer, data, model, activation_bits, metric):
        found[line["value"]] = min(
            found.get(line["value"], DAGGER + INFERRED), marks(line), key=len
        )
    return (
        _cell([shown(metric, value) + found[value] for value in sorted(found)]) if found else None
    )


def _options(call: str) -> tuple[str, dict[str, Any]]:
    """Name and options; a p per layer counts as its largest p, which is how the TBN authors name theirs."""
    name, options = catalog.parse(call)
    layers = options.pop("per_layer", None)
    return name, options | ({"p": style.largest(layers)} if layers else {})


def is_same(theirs: str | None, ours: str, sizes_count: bool = False) -> bool:
    """Whether a call of the ledger means ours: every option it names has our value; sizes_count: so must every size that only we name."""
    try:
        name, named = _options(theirs or "")
    except ValueError:  # a paper's own name, such as VGG-7, or none
        return False
    own_name, own = _options(ours)
    if name != own_name or any(own.get(k, ...) != v for k, v in named.items()):
        return False
    return not (sizes_count and any(_is_size(v) for k, v in own.items() if k not in named))


def _is_size(value: Any) -> bool:
    return isinstance(value, int | float | list | tuple | dict) and not isinstance(value, bool)


def percent(fraction: float) -> str:
    """Without decimals that the source does not print: 0.931 -> 93.1."""
    return f"{100 * fraction:.4g}"


def shown(metric: str, value: float) -> str:
    """As its source prints it; fractions in percent."""
    return percent(value) if is_fraction(metric) else f"{value:g}"


def _cell(values: list[str]) -> str:
    """values: in rising order."""
    if len(values) <= _FEW:
        return ", ".join(values)
    inside = "".join(
        f", some {mark}" for mark in LEGEND if any(mark in value for value in values[1:-1])
    )
    return f"{values[0]} to {values[-1]} ({len(values)} values{inside})"
