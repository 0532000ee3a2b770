"""What the published tables share: a row per data set, architecture, method and score, of theirs or of ours, with both numbers in it."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from tbn_bench import catalog
from tbn_bench.reporting import groups, published, style, tracks
from tbn_bench.reporting.groups import Group
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.write import Column, Table, column
from tbn_bench.scores import FIRST, SCORES

_ABLATIONS = ("ablation", "tile_size", "copies")  # sweeps that vary a part of a method
_VARIED = {
    "alpha",
    "alpha_source",
    "min_layer_size",
    "tile_length",
    "copies",
}  # options that such a study names
_PIXELS = {
    "cifar10": 32,
    "cifar100": 32,
    "mnist": 28,
    "fashion_mnist": 28,
    "digits": 8,
    "imagenet": 224,
}
TIMM = ("model", "img_size", "top1", "top1_err", "param_count")
_OWN = ("data", "binarizer", "score", "value", "half", "n", "epochs", "bits_per_weight", "mbit", "reported", "reported_bits_per_weight",
        "reported_sources", "sweep", "group_id")  # fmt: skip
NOTE = (
    "Reported: others' numbers by their own recipes, mostly at the best test epoch; the paper's printed tables could not be read, so what "
    "was only remembered is left out. Ours: on the test set at the epoch chosen on held-out data, mean over n seeds with Student's 95 % "
    "interval (none for one seed), after the epochs that stand beside it; few epochs are no reproduction. — not run, or not published. "
    "Mbit: stored bits of weights and scales, without biases and normalisation."
)


@dataclass(frozen=True)
class Scope:
    """What one published table is about. models, data: names of the catalogue, empty: any. ablation: it varies a part of a method."""

    title: str
    models: frozenset[str]
    data: frozenset[str]
    scores: tuple[str, ...] = (FIRST,)
    ablation: bool = False
    note: str = ""

    def has(self, data: str, model: str, score: str) -> bool:
        known = (not self.models or name_of(model) in self.models) and (
            not self.data or name_of(data) in self.data
        )
        return known and score in self.scores

    def has_line(self, line: dict[str, Any]) -> bool:
        """Real activations only: others stand in the comparison of their track."""
        named = line["spec"] is not None and line["activation_bits"] == 32
        return bool(
            named
            and self.has(line["dataset"], line["model"], line["metric"])
            and is_ablation(line["spec"]) == self.ablation
        )

    def has_group(self, group: Group) -> bool:
        weights_only = group.track in (tracks.REFERENCE, tracks.WEIGHTS_ONLY)
        return (
            weights_only
            and self.has(group.data, group.model, group.score)
            and is_study(group.sweep) == self.ablation
        )


def name_of(call: str | None) -> str | None:
    """'vit(depth=2)' -> 'vit'; None for a paper's own name."""
    try:
        return catalog.parse(call or "")[0]
    except ValueError:
        return None


def is_ablation(spec: str) -> bool:
    """Whether a line of the ledger names what an ablation varies."""
    return bool(_VARIED & set(catalog.parse(spec)[1]))


def is_study(sweep: str) -> bool:
    return sweep.startswith(_ABLATIONS)


def of(records: Records, scope: Scope, apart: Iterable[dict[str, Any]] = ()) -> Table | None:
    """The table of a scope; None where nothing was run or published. apart: published lines that nothing of ours may stand beside."""
    lines = [line for line in records.published.to_dict("records") if scope.has_line(line)]
    rows = _ordered(
        [
            *_own_rows(records, scope, lines),
            *_their_rows(lines),
            *_their_rows(apart, scope.scores[0]),
        ],
        scope,
    )
    if not rows:
        return None
    sources = cite(rows, _cells)
    for row in rows:
        row["reported_bits_per_weight"] = row["reported_bits_per_weight"] or _plain(row["lines"])
        row["reported_sources"] = (
            "; ".join(dict.fromkeys(line["source"] for line in row["lines"])) or None
        )
    legend = published.legend(
        row[key] for row in rows for key in ("reported", "reported_bits_per_weight")
    )
    ids = sorted({run_id for row in rows for run_id in row["run_ids"]})
    note = " ".join(part for part in (scope.note, NOTE, legend) if part)
    return Table(
        scope.title, _columns(rows, scope), rows, note, ids, sources=sources, raw=(*TIMM, *_OWN)
    )


def _own_rows(records: Records, scope: Scope, lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row per group and score of ours, with the lines that are about it."""
    rows = []
    for g in groups.groups(records):
        if scope.has_group(g):
            for score in scope.scores:
                if score in g.results or score == g.score:
                    rows.append(_own_row(g, score, matched(lines, g, score)))
    return rows


def matched(lines: Iterable[dict[str, Any]], g: Group, score: str) -> list[dict[str, Any]]:
    """The lines that a group of ours stands beside."""
    return [
        line for line in lines
        if line["metric"] == score and published.is_same(line["spec"], g.binarizer) and published.is_about(line, g.data, g.model)
        and line["activation_bits"] == tracks.activation_bits(g.track)
    ]  # fmt: skip


def _own_row(g: Group, score: str, lines: list[dict[str, Any]]) -> dict[str, Any]:
    result, first = g.results.get(score), g.first
    row = _row(g.data, g.model, g.binarizer, score, lines)
    if result is not None:
        row |= {"value": result.mean, "half": result.half, "n": result.n} | (
            timm(result.mean) if score == FIRST else {}
        )
    bits = first["stored_bits_weights"]
    return row | {
        "epochs": first["epochs"], "bits_per_weight": first["bits_per_weight"], "mbit": None if style.missing(bits) else bits / 1e6,
        "param_count": None if style.missing(first["weights"]) else round(first["weights"] / 1e6, 2), "sweep": g.sweep,
        "group_id": g.group_id, "run_ids": g.run_ids,
    }  # fmt: skip


def timm(top1: float) -> dict[str, float]:
    """TIMM's accuracies, in percent as in timm's results; elsewhere they are fractions."""
    return {"top1": round(100 * top1, 3), "top1_err": round(100 - 100 * top1, 3)}


def _row(
    data: str, model: str, spec: str, score: str, lines: list[dict[str, Any]]
) -> dict[str, Any]:
    """A row without anything of ours: those keys are None."""
    row = dict.fromkeys((*TIMM, *_OWN)) | {"run_ids": [], "lines": lines}
    size = catalog.parse(data)[1].get("size") if name_of(data) else None
    return row | {
        "data": data,
        "model": model,
        "binarizer": spec,
        "score": score,
        "img_size": size or _PIXELS.get(name_of(data) or ""),
    }


def _their_rows(lines: Iterable[dict[str, Any]], score: str | None = None) -> list[dict[str, Any]]:
    """A row per published cell, beside those of ours: without a run of the very setting it is not run. score: where the metric is none."""
    cells: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for line in lines:
        key = (
            line["dataset"],
            line["model"],
            line["spec"] or line["method"],
            score or line["metric"],
        )
        cells.setdefault(key, []).append(line)
    return [_row(*key, lines=found) for key, found in cells.items()]


def _ordered(rows: list[dict[str, Any]], scope: Scope) -> list[dict[str, Any]]:
    """By data, model, method, score; a published cell that stands in a row of ours is not said twice."""
    taken = {id(line) for row in rows if row["sweep"] for line in row["lines"]}
    kept = [
        row for row in rows if row["sweep"] or not all(id(line) in taken for line in row["lines"])
    ]
    order = {spec: i for i, spec in enumerate(style.methods(row["binarizer"] for row in kept))}
    return sorted(
        kept,
        key=lambda r: (
            natural(r["data"]),
            r["model"],
            order[r["binarizer"]],
            scope.scores.index(r["score"]),
            r["sweep"] or "",
            r["group_id"] or "",
        ),
    )


def natural(text: str) -> list[tuple[int, str]]:
    """2 steps before 12 steps."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", text)]


def _cells(row: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    widths = [line for line in row["lines"] if line["weight_bits"] is not None]
    return {"reported": row["lines"], "reported_bits_per_weight": [] if _plain(widths) else widths}


def cite(
    rows: list[dict[str, Any]], cells: Callable[[dict[str, Any]], dict[str, list[dict[str, Any]]]]
) -> list[str]:
    """Writes the cells that published lines make, with the numbers of their sources in reading order; returns the footnotes.

    cells: row -> key of a cell -> its lines; a key that ends in bits_per_weight shows their width, others their value.
    """
    numbers: dict[str, int] = {}
    said: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        for key, lines in cells(row).items():
            for line in lines:
                numbers.setdefault(line["source"], len(numbers) + 1)
                said.setdefault(line["source"], []).append(line)
            row[key] = _cell(lines, numbers, _width if key.endswith("bits_per_weight") else _value)
    return [f"{source}{_common(said[source])}" for source in numbers]


def _value(line: dict[str, Any]) -> str:
    return published.shown(line["metric"], line["value"])


def _width(line: dict[str, Any]) -> str:
    return f"{line['weight_bits']:g}"


def _plain(lines: list[dict[str, Any]]) -> str | None:
    """A bit width that the method's definition fixes needs no source: 32, 2 or 1."""
    widths = {line["weight_bits"] for line in lines} - {None}
    return f"{widths.pop():g}" if len(widths) == 1 and all(w == int(w) for w in widths) else None


def _cell(
    lines: list[dict[str, Any]], numbers: dict[str, int], text: Callable[[dict[str, Any]], str]
) -> str | None:
    """'93.1† [1], 93.24 [2]': each value once, with its marks and sources."""
    values: dict[str, dict[str, None]] = {}
    for line in sorted(lines, key=lambda line: (line["value"], numbers[line["source"]])):
        values.setdefault(text(line) + published.marks(line), {})[
            f"[{numbers[line['source']]}]"
        ] = None
    return ", ".join(f"{value} {''.join(sources)}" for value, sources in values.items()) or None


def _common(lines: list[dict[str, Any]]) -> str:
    """What the ledger notes of every line of one source."""
    clauses = [re.split(r"; |, " if len(lines) > 1 else "; ", line["note"] or "") for line in lines]
    shared = [c for c in dict.fromkeys(clauses[0]) if c and all(c in other for other in clauses)]
    return f" ({'; '.join(shared)})" if shared else ""


def _columns(rows: list[dict[str, Any]], scope: Scope) -> list[Column]:
    names = style.labels(row["binarizer"] for row in rows)
    label = SCORES[scope.scores[0]].label if len(scope.scores) == 1 else "score"
    several = (
        [Column("score", "score", lambda r: SCORES[r["score"]].label, numeric=False)]
        if len(scope.scores) > 1
        else []
    )
    their_bits = (
        [column("reported_bits_per_weight", "bits/weight, reported")]
        if any(r["reported_bits_per_weight"] for r in rows)
        else []
    )
    return [
        column("data", "data", numeric=False), column("model", "model", numeric=False),
        Column("binarizer", "method", lambda r: names[r["binarizer"]], numeric=False), *several,
        *their_bits, column("bits_per_weight", "bits/weight, ours", ".3f"), column("mbit", "Mbit, ours", ".3f"),
        column("reported", f"{label}, reported"), Column("value", f"{label}, ours", ours), column("n", "n", "d"), column("epochs", "epochs", "d"),
    ]  # fmt: skip


def ours(row: dict[str, Any]) -> str:
    """Mean and interval in the unit of the row's score."""
    if row["value"] is None:
        return style.DASH
    score = SCORES[row["score"]]
    return score.text(row["value"], False) + (
        f" ± {score.text(row['half'], False)}" if row["half"] is not None else ""
    )
