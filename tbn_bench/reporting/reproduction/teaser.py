"""The teaser figure as SVG: accuracy against bits of ResNet-18 on CIFAR-10, published and ours."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from markupsafe import Markup, escape

from tbn_bench.reporting import names, published, style
from tbn_bench.reporting.groups import Group
from tbn_bench.reporting.reproduction.cells import Found
from tbn_bench.reporting.reproduction.sizes import Key, Size
from tbn_bench.reporting.tables._paper import is_ablation, is_study
from tbn_bench.scores import FIRST

TITLE = "Accuracy against bits per weight: ResNet-18 on CIFAR-10"
NOTE = (
    "Hollow: published, large for the target and small for other published values. Filled: ours, "
    "with the 95 % interval over seeds. Bits per weight are those of the plan, signs and scales."
)
DATA = "cifar10"
MODEL = "resnet_cifar(depth=18)"
_WIDE = 760
_NARROW = 350
_HEIGHT = 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 20, 28, 52


@dataclass(frozen=True)
class Point:
    """A mark. bits: per weight. top1: in percent. half: of the interval, in points."""

    method: str
    spec: str
    bits: float
    top1: float
    origin: str
    is_ours: bool = False
    is_target: bool = True
    half: float = 0.0


def points(found: Found, groups: list[Group], sizes: dict[Key, Size]) -> list[Point]:
    """Published points, then ours. A published network that no plan knows is left out."""
    out = []
    for cell in found.cells:
        is_shown = cell.network == (DATA, MODEL) and cell.score == FIRST
        size = sizes.get((DATA, MODEL, cell.spec))
        if not is_shown or size is None or not _is_weights_only(cell.target["activation_bits"]):
            continue
        if is_ablation(cell.spec):
            continue
        for line in cell.lines:
            point = Point(
                method=names.method(cell.spec),
                spec=cell.spec,
                bits=size.stored_bits / size.weights,
                top1=100 * line["value"],
                origin=line["source"],
                is_target=line is cell.target,
            )
            out.append(point)
    return out + [_own(g) for g in groups if _is_shown(g)]


def _is_weights_only(activation_bits: int) -> bool:
    return activation_bits == 32


def _is_shown(g: Group) -> bool:
    """Whether a group is of the figure's network, with real activations, and no study."""
    if FIRST not in g.results or is_study(g.sweep) or not g.track.endswith("A32"):
        return False
    if style.missing(g.first["bits_per_weight"]):
        return False
    return published.is_data(DATA, g.data) and published.is_same(MODEL, g.model, True)


def _own(g: Group) -> Point:
    result = g.results[FIRST]
    return Point(
        method=names.method(g.binarizer),
        spec=g.binarizer,
        bits=g.first["bits_per_weight"],
        top1=100 * result.mean,
        origin=f"ours, {result.n} seeds, {g.first['epochs']} epochs, sweep {g.sweep}",
        is_ours=True,
        half=100 * (result.half or 0.0),
    )


def figures(found: list[Point]) -> list[tuple[str, Markup]]:
    """(class, SVG) for wide and for narrow screens; none if there are no points."""
    if not found:
        return []
    return [("wide", _svg(found, _WIDE)), ("narrow", _svg(found, _NARROW))]


@dataclass(frozen=True)
class _Axes:
    """Places in the drawing."""

    x: Callable[[float], float]
    y: Callable[[float], float]
    width: int
    ticks_x: list[float]
    ticks_y: list[int]

    @property
    def right(self) -> int:
        return self.width - _RIGHT

    @property
    def bottom(self) -> int:
        return _HEIGHT - _BOTTOM


def _axes(found: list[Point], width: int) -> _Axes:
    low = math.floor(min(math.log2(point.bits) for point in found) - 0.3)
    high = math.ceil(max(math.log2(point.bits) for point in found) + 0.3)
    bottom = math.floor(min(point.top1 - point.half for point in found) - 0.5)
    top = math.ceil(max(point.top1 + point.half for point in found) + 0.5)

    def x(bits: float) -> float:
        share = (math.log2(bits) - low) / (high - low)
        return _LEFT + share * (width - _LEFT - _RIGHT)

    def y(top1: float) -> float:
        share = (top1 - bottom) / (top - bottom)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _BOTTOM - _TOP)

    step_x = 1 if width == _WIDE else 2
    step_y = max(1, math.ceil((top - bottom) / 8))
    ticks_x = [2.0**power for power in range(low, high + 1, step_x)]
    ticks_y = list(range(bottom, top + 1, step_y))
    return _Axes(x, y, width, ticks_x, ticks_y)


def _svg(found: list[Point], width: int) -> Markup:
    axes = _axes(found, width)
    name = f"teaser-{width}"
    parts = [
        f'<svg viewBox="0 0 {width} {_HEIGHT}" role="img" aria-labelledby="{name}">',
        f'<title id="{name}">{escape(TITLE)}</title>',
        *_grid(axes),
        _path(found, axes),
    ]
    for point in found:
        parts.append(_mark(point, axes))
    parts += _labels(found, axes)
    parts.append("</svg>")
    return Markup("\n".join(parts))


def _grid(axes: _Axes) -> list[str]:
    parts = []
    for top1 in axes.ticks_y:
        y = axes.y(top1)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{axes.right}"/>')
        parts.append(_text(_LEFT - 8, y + 4, str(top1), "end"))
    for bits in axes.ticks_x:
        x = axes.x(bits)
        parts.append(f'<path class="grid" d="M{x:.1f} {_TOP}V{axes.bottom}"/>')
        parts.append(_text(x, axes.bottom + 18, f"{bits:.2g}", "middle"))
    middle = (_LEFT + axes.right) / 2
    parts.append(_text(middle, _HEIGHT - 12, "bits per weight, lower is smaller", "middle"))
    parts.append(_text(4, 14, "top-1 %, higher is better", "start"))
    return parts


def _path(found: list[Point], axes: _Axes) -> str:
    """A dashed line through the targets of TBN."""
    places = []
    for point in sorted(found, key=lambda point: point.bits):
        if point.is_target and not point.is_ours and point.spec.startswith("tbn"):
            places.append(f"{axes.x(point.bits):.1f},{axes.y(point.top1):.1f}")
    if not places:
        return ""
    return f'<polyline class="path" points="{" ".join(places)}"/>'


def _mark(point: Point, axes: _Axes) -> str:
    x = axes.x(point.bits)
    y = axes.y(point.top1)
    colour = style.ink(point.spec)
    fill = colour if point.is_ours else "var(--page)"
    radius = 6 if point.is_target else 3.5
    bar = ""
    if point.half:
        low = axes.y(point.top1 - point.half)
        high = axes.y(point.top1 + point.half)
        bar = f'<path stroke="{colour}" stroke-width="2" d="M{x:.1f} {low:.1f}V{high:.1f}"/>'
    said = escape(f"{point.method}, {point.bits:.3g} bits, {point.top1:.2f} %: {point.origin}")
    circle = (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{fill}" stroke="{colour}" '
        f'stroke-width="2"><title>{said}</title></circle>'
    )
    return bar + circle


def _labels(found: list[Point], axes: _Axes) -> list[str]:
    """The name of each method at its mark."""
    parts = []
    labelled = [point for point in found if point.is_target]
    for point in labelled:
        x = axes.x(point.bits)
        y = axes.y(point.top1)
        name = f"{point.method}, ours" if point.is_ours else point.method
        if x > axes.width / 2:
            parts.append(_text(x - 10, y - 8, name, "end"))
        else:
            parts.append(_text(x + 9, y + 15, name, "start"))  # the next point is above
    return parts


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
