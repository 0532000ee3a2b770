"""The ledger of published numbers, results/published/<method>.csv: read and checked.

The numbers appear beside ours and are never mixed into them.

Fractions (top1, accuracy, iou) are as in our records. The metrics are:

- top1: as the paper, its authors' README or their logs report it, or the one known
  re-implementation;
- top1_rerun: other people's result of the same method;
- top1_last_epoch: an author's log without selection of an epoch;
- top1_unfinished: a log that stops early.

A metric that is a score of ours (scores.py) is that score, of the same data. Others are shown and
never compared. second_hand: quoted by somebody else, not read in the source. The word "inferred" in
a note says that the source does not state a part of the setting. Every number in the ledger was
read in a source; remembered numbers are left out.
"""

import csv
import functools
import io
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from tbn_bench import catalog
from tbn_bench.install import shipped
from tbn_bench.records.files import read_file
from tbn_bench.records.text import shown as shown_path
from tbn_bench.reporting import style
from tbn_bench.scores import FIRST, NAMED

Line = dict[str, Any]
"""A line of the ledger: COLUMNS by name. Empty cells are None."""

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
RULE = (
    "One value per cell is the target: a value read in its source before one that is quoted by "
    "others; of those, the logs and scripts of the authors of TBN before other repositories; of "
    "several runs of one source, the best. All other values that we know are beside it."
)
# The repositories of the authors whose tables these are.
_AUTHORS = "https://github.com/mattgorb/"
ACTIVATION_BITS = (1, 8, 32)
DAGGER = "†"
INFERRED = "‡"
LEGEND = {
    DAGGER: "Second-hand: quoted by others, not read in the source.",
    INFERRED: "A part of the setting was inferred, because the source does not state it.",
}
FLASH = "stored_kB"  # metric: flash for the weights, in kB as printed
# Options of a data set that change its training images alone: a recipe, not another data set.
_TRAINING = frozenset(
    {"augment", "crop_border", "crop_padding", "flip", "split_seed", "train_size", "val_size"}
)
_FEW = 3  # so many reported values are listed one by one; more are shown as a range


def home(results: Path) -> Path:
    """The folder that has `published`: results, or else that of the package's own ledger."""
    if (results / "published").is_dir():
        return results
    return shipped.folder("published").parent


def read(results: Path, problems: list[str]) -> pd.DataFrame:
    """A row per line of results/published/*.csv; empty if there is no such folder.

    Faults are appended to `problems`, and their lines left out.
    """
    rows = []
    folder = results / "published"
    for path in sorted(folder.glob("*.csv")):
        try:
            for number, values in _lines(path):
                row, faults = _checked(values)
                if not faults:
                    rows.append(row)
                    continue
                said = "; ".join(faults)
                problems.append(f"{path}, line {number}: {said}; correct the line")
        except (OSError, ValueError, csv.Error) as error:
            problems.append(f"{shown_path(path)}: {error}")
    return pd.DataFrame(rows, columns=list(COLUMNS), dtype=object)  # None stays None


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) after the header.

    Raises ValueError for another header, or a file that is not UTF-8.
    """
    reader = csv.reader(io.StringIO(read_file(path).decode(), newline=""))
    header = next(reader, [])
    if tuple(header) != COLUMNS:
        raise ValueError(f"the first line must be {','.join(COLUMNS)}, got {','.join(header)!r}")
    for values in reader:
        yield reader.line_num, values


def _checked(values: list[str]) -> tuple[Line, list[str]]:
    """(row, faults): the typed row if there are no faults. Empty cells are None."""
    if len(values) != len(COLUMNS):
        return {}, [f"expected {len(COLUMNS)} cells, got {len(values)}"]
    row: Line = {}
    for key, value in zip(COLUMNS, values, strict=True):
        row[key] = value.strip() or None

    faults = []
    for key in ("method", "metric", "source"):
        if row[key] is None:
            faults.append(f"{key} must not be empty")
    faults += _value_faults(row)
    faults += _bits_faults(row)
    faults += _spec_faults(row)
    second_hand = row["second_hand"]
    if second_hand not in ("true", "false"):
        faults.append(f"second_hand must be true or false, got {second_hand!r}")
    row["second_hand"] = second_hand == "true"
    return row, faults


def _number(text: str | None) -> float:
    """NaN if the text is not a finite number."""
    try:
        value = float(text or "nan")
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def is_fraction(metric: str) -> bool:
    if metric.startswith("top"):
        return True
    if metric.endswith(("accuracy", "iou")):
        return True
    return metric in NAMED and NAMED[metric].factor == 100


def _value_faults(row: Line) -> list[str]:
    """Also turns the value into a number."""
    text = row["value"]
    value = _number(text)
    row["value"] = value
    if math.isnan(value):
        return [f"value must be a finite number, got {text!r}"]
    metric = row["metric"] or ""
    if is_fraction(metric) and not 0 < value <= 1:
        return [f"{metric} must be a fraction in (0, 1], got {text} (93.1 % is 0.931)"]
    return []


def _bits_faults(row: Line) -> list[str]:
    """Also turns the widths into numbers."""
    weights = row["weight_bits"]
    activations = row["activation_bits"]
    row["activation_bits"] = None
    faults = []
    if weights is not None:
        row["weight_bits"] = _number(weights)
        if not row["weight_bits"] > 0:
            faults.append(f"weight_bits must be a positive number or empty, got {weights!r}")
    if activations is not None and activations.isdecimal():
        row["activation_bits"] = int(activations)
    if row["activation_bits"] not in ACTIVATION_BITS:
        known = ", ".join(map(str, ACTIVATION_BITS))
        faults.append(f"activation_bits must be one of {known}, got {activations!r}")
    return faults


def _spec_faults(row: Line) -> list[str]:
    spec = row["spec"]
    if spec is None:
        return []
    try:
        name = catalog.parse(spec)[0]
    except ValueError as error:
        return [f"spec: {error}"]
    if name != row["method"]:
        return [f"spec must be of the method {row['method']!r}, got {spec!r}"]
    return []


def marks(line: Line) -> str:
    """The marks of the caveats on a value; LEGEND explains them."""
    found = ""
    if line["second_hand"]:
        found += DAGGER
    if "inferred" in (line["note"] or ""):
        found += INFERRED
    return found


def legend(texts: Iterable[str | None]) -> str:
    """The explanations of the marks in these cells."""
    used = "".join(text or "" for text in texts)
    explained = []
    for mark, reason in LEGEND.items():
        if mark in used:
            explained.append(f"{mark} {reason}")
    return " ".join(explained)


def matching(
    ledger: pd.DataFrame,
    binarizer: str,
    data: str,
    model: str,
    activation_bits: int,
    metric: str = FIRST,
) -> list[Line]:
    """The lines of one metric that are about this method, data set, model and activation width.

    A line fits if each option that it names has our value. Options that only we name are ignored,
    except sizes of the data set or model, which make another one.
    """
    named = {spec: is_same(spec, binarizer) for spec in ledger["spec"].unique()}
    is_wanted = (
        (ledger["metric"] == metric)
        & (ledger["activation_bits"] == activation_bits)
        & ledger["spec"].map(named).astype(bool)
    )
    lines = ledger[is_wanted].to_dict("records")
    return [line for line in lines if is_about(line, data, model)]


def is_about(line: Line, data: str, model: str) -> bool:
    """Whether a line's data set and model are these of ours."""
    return is_data(line["dataset"], data) and is_same(line["model"], model, True)


def is_data(theirs: str | None, ours: str) -> bool:
    """Whether a call of the ledger means our data set, however we augment and split it."""
    return is_same(theirs, ours, True, _TRAINING)


def networks(ledger: pd.DataFrame, data: str, activation_bits: int | None) -> list[Line]:
    """Networks with both a top-1 and a FLASH, each a value under its metric.

    Only the name of the data set is compared: any resolution fits.
    """
    wanted, _, _ = data.partition("(")
    found: dict[tuple[str, ...], Line] = {}
    for line in ledger.to_dict("records"):
        if not line["dataset"] or not line["model"]:
            continue
        if line["metric"] not in (FIRST, FLASH):
            continue
        name, _, _ = line["dataset"].partition("(")
        if name != wanted or line["activation_bits"] != activation_bits:
            continue
        named = {
            "method": line["method"],
            "dataset": line["dataset"],
            "model": line["model"],
            "source": line["source"],
        }
        key = tuple(named.values())
        network = found.setdefault(key, named)
        network[line["metric"]] = line["value"]
    return [network for network in found.values() if FIRST in network and FLASH in network]


def reported(
    ledger: pd.DataFrame,
    binarizer: str,
    data: str,
    model: str,
    activation_bits: int,
    metric: str = FIRST,
) -> str | None:
    """The lines of `matching` as a cell, fractions in percent; None if there are none.

    The values are listed, or given as a range if there are many.
    """
    marks_of: dict[float, str] = {}
    for line in matching(ledger, binarizer, data, model, activation_bits, metric):
        value = line["value"]
        known = marks_of.get(value, DAGGER + INFERRED)
        marks_of[value] = min(known, marks(line), key=len)
    if not marks_of:
        return None
    return _cell([shown(metric, value) + marks_of[value] for value in sorted(marks_of)])


def by_authority(lines: Iterable[Line]) -> list[Line]:
    """The lines of one cell, the one that ours is compared with first. RULE says it in words."""

    def place(line: Line) -> tuple[bool, bool, float]:
        is_authors = line["source"].startswith(_AUTHORS)
        score = NAMED.get(line["metric"])
        signed = score.signed(line["value"]) if score else line["value"]
        return line["second_hand"], not is_authors, -signed

    return sorted(lines, key=place)


def of_target(lines: list[Line]) -> tuple[list[Line], list[Line]]:
    """(the lines that have the target's value, the others). lines: as by_authority orders them."""
    same = []
    others = []
    for line in lines:
        found = same if line["value"] == lines[0]["value"] else others
        found.append(line)
    return same, others


@functools.lru_cache(maxsize=4096)  # asked for thousands of pairs; nobody changes the options
def _options(call: str) -> tuple[str, dict[str, Any]]:
    """Name and options. A p per layer counts as its largest p, as in the names of TBN's authors."""
    name, options = catalog.parse(call)
    layers = options.pop("per_layer", None)
    if layers:
        options["p"] = style.largest(layers)
    return name, options


def is_same(
    theirs: str | None,
    ours: str,
    sizes_count: bool = False,
    ignored: frozenset[str] = frozenset(),
) -> bool:
    """Whether a call of the ledger means ours: every option that it names has our value.

    sizes_count: it must also name every size that we name, but for the options in ignored.
    """
    try:
        name, named = _options(theirs or "")
    except ValueError:  # a paper's own name, such as VGG-7, or none
        return False
    own_name, own = _options(ours)
    if name != own_name:
        return False
    if any(own.get(key, ...) != value for key, value in named.items()):
        return False
    if not sizes_count:
        return True
    known = named.keys() | ignored
    unnamed = [value for key, value in own.items() if key not in known]
    return not any(map(_is_size, unnamed))


def _is_size(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, int | float | list | tuple | dict)


def percent(fraction: float) -> str:
    """Without decimals that the source does not print: 0.931 -> 93.1."""
    return f"{100 * fraction:.4g}"


def shown(metric: str, value: float) -> str:
    """As its source prints it; fractions in percent."""
    if is_fraction(metric):
        return percent(value)
    return f"{value:.10g}"


def _cell(values: list[str]) -> str:
    """values: in rising order."""
    if len(values) <= _FEW:
        return ", ".join(values)
    low, *inside, high = values
    text = f"{len(values)} values"
    marked = "".join(inside)
    for mark in LEGEND:
        if mark in marked:
            text += f", some {mark}"
    return f"{low} to {high} ({text})"
