"""Shared by the tables of published numbers.

A row is one data set, architecture, method and score, published or ours, and shows both numbers.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tbn_bench import catalog
from tbn_bench.reporting import groups, names, published, style, tracks
from tbn_bench.reporting.groups import Group
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.published import Line
from tbn_bench.reporting.table import (
    Column,
    Row,
    Table,
    column,
    run_ids,
    text_column,
)
from tbn_bench.reporting.tables._cited import cite, plain_width
from tbn_bench.scores import FIRST, NAMED, SCORES

# Sweeps that vary a part of a method have names that begin so.
_STUDIES = ("ablation", "tile_size", "copies")
# The options that such a sweep varies.
_VARIED = {"alpha", "alpha_source", "min_layer_size", "tile_length", "copies"}
_PIXELS = {
    "cifar10": 32,
    "cifar100": 32,
    "mnist": 28,
    "fashion_mnist": 28,
    "digits": 8,
    "imagenet": 224,
}
TIMM = ("model", "img_size_pixels", "top1_percent", "top1_err_percent", "param_count_million")
_OWN = (
    "data",
    "binarizer",
    "score",
    "value",
    "half",
    "n",
    "epochs",
    "bits_per_weight",
    "mbit",
    "reported_value",
    "reported_source",
    "reported_bits_per_weight_value",
    "reported_bits_per_weight_source",
    "other_sources",
    "sweep",
    "group_id",
)
NOTE = (
    "Reported: the number of other authors, with their own recipe, that the paper report compares "
    "with; also reported: others that we know. Most are of the best test epoch. The "
    "paper's printed tables could not be read; values known only from memory are left out. Ours: "
    "on the test set, at the epoch chosen on held-out data, mean over n seeds with Student's 95 % "
    "interval (none for one seed), after the number of epochs in the table. Few epochs are no "
    "reproduction. —: not run, or not published. Mbit: stored bits of weights and scales, without "
    "biases and normalisation."
)


@dataclass(frozen=True)
class Scope:
    """The subject of one published table.

    models, data: names of the catalogue; empty: any. ablation: it varies a part of a method.
    """

    title: str
    models: frozenset[str]
    data: frozenset[str]
    scores: tuple[str, ...] = (FIRST,)
    ablation: bool = False
    note: str = ""

    def has(self, data: str, model: str, score: str) -> bool:
        if self.models and name_of(model) not in self.models:
            return False
        if self.data and name_of(data) not in self.data:
            return False
        return score in self.scores

    def has_line(self, line: Line) -> bool:
        """Only lines with real activations: the comparison of their track has the others."""
        spec = line["spec"]
        if spec is None or line["activation_bits"] != 32:
            return False
        if not self.has(line["dataset"], line["model"], line["metric"]):
            return False
        return is_ablation(spec) == self.ablation

    def has_group(self, group: Group) -> bool:
        if group.track not in (tracks.REFERENCE, tracks.WEIGHTS_ONLY):
            return False
        if not self.has(group.data, group.model, group.score):
            return False
        return is_study(group.sweep) == self.ablation


def name_of(call: str | None) -> str | None:
    """'vit(depth=2)' -> 'vit'; None for a name that only the paper uses."""
    try:
        return catalog.parse(call or "")[0]
    except ValueError:
        return None


def is_ablation(spec: str) -> bool:
    """Whether a line of the ledger names an option that ablations vary."""
    _, options = catalog.parse(spec)
    return not _VARIED.isdisjoint(options)


def is_study(sweep: str) -> bool:
    return sweep.startswith(_STUDIES)


def of(records: Records, scope: Scope, apart: Iterable[Line] = ()) -> Table | None:
    """The table of a scope; None if nothing was run or published.

    apart: published lines that get rows of their own, because none of our runs compares with them.
    """
    lines = [line for line in records.published.to_dict("records") if scope.has_line(line)]
    own = _own_rows(records, scope, lines)
    theirs = [*_their_rows(lines), *_their_rows(apart, scope.scores[0])]
    rows = _ordered([*own, *theirs], scope)
    if not rows:
        return None
    sources = cite(rows, _cells)
    networks = _networks(rows)
    for row in rows:
        _complete_reported(row)
        row["network"] = networks[row["data"]][row["model"]]

    columns = _columns(rows, scope)
    return Table(
        scope.title,
        columns,
        rows,
        _note(rows, scope),
        run_ids(rows),
        sources=sources,
        raw=(*TIMM, *_OWN),
        parts=_parts(rows, columns),
    )


def _networks(rows: list[Row]) -> dict[str, dict[str, str]]:
    """data set -> model -> its display name, which no other model on the same data has."""
    models: dict[str, list[str]] = {}
    for row in rows:
        models.setdefault(row["data"], []).append(row["model"])
    return {data: names.distinct(own, names.network) for data, own in models.items()}


def _complete_reported(row: Row) -> None:
    """Adds the width that needs no source, and the other sources for the CSV."""
    lines = row["lines"]
    if row["reported_bits_per_weight"] is None:
        row["reported_bits_per_weight"] = plain_width(lines)
    others = [line["source"] for line in lines[1:]]
    row["other_sources"] = "; ".join(dict.fromkeys(others)) or None


def _parts(rows: list[Row], columns: list[Column]) -> tuple[Table, ...]:
    """A table per data set and network."""
    kept = [c for c in columns if c.key not in ("data", "network")]
    groups_of: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups_of.setdefault((row["data"], row["model"]), []).append(row)
    parts = []
    for own in groups_of.values():
        title = f"{_data_set(own[0])}, {own[0]['network']}"
        parts.append(Table(title, kept, own, run_ids=run_ids(own)))
    return tuple(parts)


def _note(rows: list[Row], scope: Scope) -> str:
    cells = []
    for row in rows:
        cells.append(row["reported"])
        cells.append(row["also_reported"])
        cells.append(row["reported_bits_per_weight"])
    legend = published.legend(cells)
    parts = (scope.note, NOTE, legend)
    return " ".join(filter(None, parts))


def _own_rows(records: Records, scope: Scope, lines: list[Line]) -> list[Row]:
    """A row per group and score of ours, with the lines that are about it."""
    rows = []
    for group in groups.groups(records):
        if not scope.has_group(group):
            continue
        for score in scope.scores:
            if score in group.results or score == group.score:
                rows.append(_own_row(group, score, matched(lines, group, score)))
    return rows


def matched(lines: Iterable[Line], g: Group, score: str) -> list[Line]:
    """The lines that may be compared with a group of ours."""
    return [line for line in lines if _is_comparable(line, g, score)]


def _is_comparable(line: Line, g: Group, score: str) -> bool:
    return (
        line["metric"] == score
        and published.is_same(line["spec"], g.binarizer)
        and published.is_about(line, g.data, g.model)
        and line["activation_bits"] == tracks.activation_bits(g.track)
    )


def _own_row(g: Group, score: str, lines: list[Line]) -> Row:
    row = _row(g.data, g.model, g.binarizer, score, lines)
    result = g.results.get(score)
    if result is not None:
        row["value"] = result.mean
        row["half"] = result.half
        row["n"] = result.n
    if result is not None and score == FIRST:
        row |= timm(result.mean)
    return row | {
        "epochs": g.first["epochs"],
        "bits_per_weight": g.first["bits_per_weight"],
        "mbit": _mbit(g),
        "param_count_million": param_count(g),
        "sweep": g.sweep,
        "group_id": g.group_id,
        "run_ids": g.run_ids,
    }


def _mbit(g: Group) -> float | None:
    """The stored bits of the weights and scales, in millions."""
    bits = g.first["stored_bits_weights"]
    if style.missing(bits):
        return None
    return bits / 1e6


def timm(top1: float) -> dict[str, float]:
    """TIMM's accuracies, in percent as in timm's results."""
    percent = 100 * top1
    return {
        "top1_percent": round(percent, 3),
        "top1_err_percent": round(100 - percent, 3),
    }


def param_count(g: Group) -> float | None:
    """TIMM's count of the weights, in millions."""
    weights = g.first["weights"]
    if style.missing(weights):
        return None
    return round(weights / 1e6, 2)


def _row(data: str, model: str, spec: str, score: str, lines: list[Line]) -> Row:
    """A row in which the keys of our own numbers are None."""
    return dict.fromkeys((*TIMM, *_OWN)) | {
        "data": data,
        "model": model,
        "binarizer": spec,
        "score": score,
        "img_size_pixels": _image_size(data),
        "run_ids": [],
        "lines": published.by_authority(lines),
    }


def _image_size(data: str) -> int | None:
    """The side of the images in pixels; None if it is not known."""
    if name_of(data) is None:
        return None
    name, options = catalog.parse(data)
    return options.get("size") or _PIXELS.get(name)


def _their_rows(lines: Iterable[Line], score: str | None = None) -> list[Row]:
    """A row per published cell, beside our rows: if we did not run its very setting, it says so.

    score: replaces the metric of lines whose metric is no score of ours.
    """
    cells: dict[tuple[str, str, str, str], list[Line]] = {}
    for line in lines:
        key = (
            line["dataset"],
            line["model"],
            line["spec"] or line["method"],
            score or line["metric"],
        )
        cells.setdefault(key, []).append(line)
    return [_row(*key, found) for key, found in cells.items()]


def _ordered(rows: list[Row], scope: Scope) -> list[Row]:
    """By data, model, method, score. Published cells that one of our rows shows have no own row."""
    shown: set[int] = set()
    for row in rows:
        if row["sweep"]:
            shown.update(id(line) for line in row["lines"])
    kept = []
    for row in rows:
        if row["sweep"] or _has_other_lines(row, shown):
            kept.append(row)
    methods = style.methods(row["binarizer"] for row in kept)

    def place(row: Row) -> tuple[Any, ...]:
        return (
            natural(row["data"]),
            row["model"],
            methods.index(row["binarizer"]),
            scope.scores.index(row["score"]),
            row["sweep"] or "",
            row["group_id"] or "",
        )

    return sorted(kept, key=place)


def _has_other_lines(row: Row, shown: set[int]) -> bool:
    found = {id(line) for line in row["lines"]}
    return not found <= shown


def natural(text: str) -> list[tuple[int, str]]:
    """A key for sorting that puts "2 steps" before "12 steps"."""
    key = []
    for part in re.split(r"(\d+)", text):
        if part.isdecimal():
            key.append((int(part), ""))
        else:
            key.append((0, part))
    return key


def _cells(row: Row) -> dict[str, list[Line]]:
    lines = row["lines"]
    widths = [line for line in lines if line["weight_bits"] is not None]
    needs_source = plain_width(widths) is None
    same, others = published.of_target(lines)
    return {
        "reported": same,
        "also_reported": others,
        "reported_bits_per_weight": widths if needs_source else [],
    }


def _columns(rows: list[Row], scope: Scope) -> list[Column]:
    columns = [
        Column("data", "data", _data_set, numeric=False),
        text_column("network", "network"),
        _method_column(rows),
    ]
    label = "score"
    if len(scope.scores) == 1:
        label = SCORES[scope.scores[0]].label
    else:
        columns.append(score_column())
    if any(row["reported_bits_per_weight"] for row in rows):
        columns.append(column("reported_bits_per_weight", "bits/weight, reported"))
    return [
        *columns,
        column("bits_per_weight", "bits/weight, ours", ".3f"),
        column("mbit", "Mbit, ours", ".3f"),
        column("reported", f"{label}, reported"),
        *_also_reported(rows),
        Column("value", f"{label}, ours", ours),
        column("n", "n", "d"),
        column("epochs", "epochs", "d"),
    ]


def _data_set(row: Row) -> str:
    return names.data_set(row["data"])


def _method_column(rows: list[Row]) -> Column:
    """The display name of each method. A published method without a spec has its own name."""
    labels = names.methods(row["binarizer"] for row in rows)

    def show(row: Row) -> str:
        return labels[row["binarizer"]]

    return Column("binarizer", "method", show, numeric=False)


def _also_reported(rows: list[Row]) -> list[Column]:
    if any(row["also_reported"] for row in rows):
        return [column("also_reported", "also reported")]
    return []


def score_column() -> Column:
    return Column("score", "score", _score_label, numeric=False)


def _score_label(row: Row) -> str:
    score = NAMED[row["score"]]
    return score.label


def ours(row: Row) -> str:
    """Mean and interval in the unit of the row's score."""
    if row["value"] is None:
        return style.DASH
    score = SCORES[row["score"]]
    mean = score.text(row["value"], False)
    if row["half"] is None:
        return mean
    half = score.text(row["half"], False)
    return f"{mean} ± {half}"
