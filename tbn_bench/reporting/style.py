"""One colour per family of methods and one marker per variant, the same in every figure; print sizes; how numbers are written."""

import math
from typing import Any

import matplotlib as mpl

from tbn_bench import catalog

DASH = "—"
COLUMN_INCHES = 3.3
# Okabe and Ito's palette, which colour-blind readers can tell apart (jfly.uni-koeln.de/color).
_PALETTE = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C564B", "#7F7F7F", "#9467BD")
_FIRST = ("full_precision", "bwn", "tbn", "sign")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
_SHAPES = (
    "circle",
    "square",
    "triangle-up",
    "diamond",
    "triangle-down",
    "cross",
    "stroke",
    "wedge",
    "triangle-left",
    "triangle-right",
)

PRINT = {
    "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "legend.fontsize": 7, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "pdf.fonttype": 42, "ps.fonttype": 42, "svg.hashsalt": "tbn_bench", "svg.fonttype": "path", "axes.spines.top": False,
    "axes.spines.right": False, "lines.markersize": 4, "lines.linewidth": 1.1, "figure.constrained_layout.use": True,
}  # fmt: skip


def methods(specs: Any) -> list[str]:
    """The distinct binarizer specs in reading order: full precision, bwn, then tbn by growing p, then the rest by name."""

    def key(spec: str) -> tuple[int, str, float, str]:
        name, options = catalog.parse(spec)
        rank = _FIRST.index(name) if name in _FIRST else len(_FIRST)
        return rank, name, float(options.get("p", 0) or 0), spec

    return sorted(set(specs), key=key)


_IDENTITY = ("p", "tile_length", "per_layer")


def labels(specs: Any) -> dict[str, str]:
    """spec -> what a reader sees: options that all specs of a family share are dropped, p, tile_length and per_layer never."""
    parsed = {spec: catalog.parse(spec) for spec in methods(specs)}
    out = {}
    for spec, (name, options) in parsed.items():
        family = [o for n, o in parsed.values() if n == name]
        shown = {k: v for k, v in options.items() if k in _IDENTITY or any(o.get(k, ...) != v for o in family)}
        parts = [f"{k}={_short(v)}" for k, v in sorted(shown.items(), key=lambda kv: (kv[0] not in _IDENTITY, kv[0]))]
        out[spec] = f"{name}({', '.join(parts)})" if parts else name
    return out


def _short(value: Any) -> str:
    """A long per-layer list by its largest p and its length."""
    return f"[max {max(value)}, {len(value)} layers]" if isinstance(value, list) and len(value) > 4 else repr(value)


def colour(spec: str) -> str:
    name = catalog.parse(spec)[0]
    known = [*_FIRST, *(n for n in catalog.names("binarizers") if n not in _FIRST)]
    return _PALETTE[known.index(name) % len(_PALETTE)] if name in known else _PALETTE[-1]


def _variant(spec: str, specs: Any) -> int:
    name = catalog.parse(spec)[0]
    return [s for s in methods(specs) if catalog.parse(s)[0] == name].index(spec) % len(_MARKERS)


def marker(spec: str, specs: Any) -> str:
    return _MARKERS[_variant(spec, specs)]


def shape(spec: str, specs: Any) -> str:
    """marker's counterpart in Vega-Lite."""
    return _SHAPES[_variant(spec, specs)]


_DASHES = ([1, 0], [5, 2], [2, 2], [8, 3, 2, 3], [1, 3])


def dash(spec: str, specs: Any) -> list[int]:
    """The line pattern that goes with marker."""
    return _DASHES[_variant(spec, specs) % len(_DASHES)]


def missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def text(value: Any, form: str = "") -> str:
    """A cell: an em dash where the value is unknown. form: a format specification, or "%" for a fraction shown in percent."""
    if missing(value):
        return DASH
    if form == "%":
        return f"{100 * value:.2f}"
    return format(value, form) if form else str(value)


def printing() -> Any:
    """The context in which print figures are drawn."""
    return mpl.rc_context(PRINT)
