"""Draws docs/methods/<name>.svg from the binarizers themselves: what a weight becomes, and the gradient it gets.

    .venv/bin/python docs/methods/draw.py [FOLDER]

One latent weight of a seeded 3x3 convolution goes from -2 to 2 and the others stay. Below it stands dL/dw by autograd where dL/dB is 1 at that
weight and 0 elsewhere; a method with a schedule at its first, middle and last epoch; low_rank by one latent value of its factor U. Beside it the same for one input of the layer.
A page names what is drawn in a line `<!-- draw: SPEC; SPEC -->`, else it is the method without options. The same bytes on every run.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from tbn_bench import catalog
from tbn_bench.binarizers._base import Decision, Target
from tbn_bench.binarizers.low_rank import LowRankWeight
from tbn_bench.format.layouts import KINDS, Copies, default_shifts

HERE = Path(__file__).parent
SWEEP = torch.linspace(-2, 2, 161)
EPOCHS = 400
CENTRE = 4  # of the nine weights of the layer's first kernel: the one that moves
STYLE = {
    "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "legend.fontsize": 7, "lines.linewidth": 1.3, "figure.constrained_layout.use": True,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#e6e6e6", "grid.linewidth": 0.6,
    "svg.hashsalt": "tbn_bench", "svg.fonttype": "none", "font.sans-serif": ["DejaVu Sans"], "axes.prop_cycle": mpl.cycler(color=["#0072B2", "#D55E00", "#009E73", "#CC79A7"], linestyle=["-", "--", "-.", ":"]),
}  # fmt: skip

Curve = tuple[np.ndarray, np.ndarray]  # (values, gradients), one each per point of SWEEP


def specs(name: str) -> list[str]:
    """What to draw of a method, by its page."""
    page = HERE / f"{name}.md"
    found = (
        re.search(r"<!-- draw: (.+?) -->", page.read_text(encoding="utf-8"))
        if page.exists()
        else None
    )
    return found[1].split("; ") if found else [name]


def layer_of(spec: str) -> tuple[nn.Conv2d, Decision, nn.Module | None]:
    """(a 3x3 convolution from 4 to 8 channels, its decision, its input's binarizer); drawn alike for every method."""
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 8, 3, bias=False)
    nn.init.normal_(conv.weight, std=0.5)
    binarizer, target = catalog.build("binarizers", spec), Target("conv.weight", conv.weight, conv)
    decision, activation = binarizer.decide([target])[0], binarizer.activation(target)
    for module in filter(None, (decision.parametrization, activation)):
        module.eval()  # no draws, no clipping
    return conv, decision, activation


def swept(call: Callable[[torch.Tensor], torch.Tensor], start: torch.Tensor) -> Curve:
    """call(tensor) and its derivative at element CENTRE while that element of `start` goes through SWEEP."""
    values, gradients = [], []
    for point in SWEEP:
        x = start.detach().clone()
        x.view(-1)[CENTRE] = point
        x.requires_grad_()
        value = call(x).reshape(-1)[CENTRE]
        values.append(value.item())
        gradients.append(torch.autograd.grad(value, x)[0].reshape(-1)[CENTRE].item())
    return np.array(values), np.array(gradients)


def by_epoch(module: Any, start: torch.Tensor) -> dict[str, Curve]:
    """Label -> curve at the first, middle and last epoch; one without label where no schedule makes a difference."""
    found = {}
    for epoch in (0, EPOCHS // 2, EPOCHS - 1):
        if module is not None:
            module.begin_epoch(epoch, EPOCHS)
        found[f"epoch {epoch + 1} of {EPOCHS}"] = swept(module or (lambda x: x * 1), start)
    first, *others = found.values()
    return found if any(not np.array_equal(first[1], curve[1]) for curve in others) else {"": first}


class OfFactor:
    """latent U: (a, s) -> the weight of a low_rank method, all else being fixed; it begins epochs as the method does."""

    def __init__(self, method: LowRankWeight, weight: torch.Tensor):
        self.method, self.weight, self.begin_epoch = method, weight, method.begin_epoch

    def __call__(self, factor: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(self.method, {"U": factor}, (self.weight,))


def weight_curves(spec: str) -> dict[str, Curve]:
    conv, decision, _ = layer_of(spec)
    if isinstance(decision.parametrization, LowRankWeight):
        method = decision.parametrization
        return by_epoch(OfFactor(method, conv.weight), method.U)
    return by_epoch(decision.parametrization, conv.weight)


def input_curves(spec: str) -> dict[str, Curve]:
    """Of a layer's input, (1, 4, 3, 3); once more with what the binarizer learns moved, where it learns anything."""
    _, _, activation = layer_of(spec)
    if activation is None:
        return {}
    start = torch.randn(1, 4, 3, 3, generator=torch.Generator().manual_seed(1))
    found = by_epoch(activation, start)
    if learned := [*activation.parameters()]:
        for parameter in learned:
            parameter.data += 0.5
        found |= {"learned numbers + 0.5": by_epoch(activation, start)[""]}
    return found


def named(method: str, curves: Callable[[str], dict[str, Curve]]) -> dict[str, Curve]:
    """Label -> curve over the method's specs. Equal curves are one; a label says the options that differ, unless all share the curve."""
    parsed = {spec: catalog.parse(spec)[1] for spec in specs(method)}
    groups: dict[tuple[str, bytes], list[tuple[str, Curve]]] = {}
    for spec, options in parsed.items():
        own = ", ".join(
            f"{k}={v!r}"
            for k, v in options.items()
            if any(o.get(k, ...) != v for o in parsed.values())
        )
        for label, curve in curves(spec).items():
            groups.setdefault((label, np.stack(curve).tobytes()), []).append((own, curve))
    found = {}
    for (label, _), members in groups.items():
        shared = len(members) == sum(
            len(others) for (other, _), others in groups.items() if other == label
        )
        found[
            ", ".join(
                filter(None, ["" if shared else " or ".join(own for own, _ in members), label])
            )
        ] = members[0][1]
    return found


def draw_curves(axes: Any, curves: dict[str, Curve], symbol: str, out: str) -> None:
    """axes: (2,), the values above and the gradients below; values that no option changes are one black line."""
    values = [value for value, _ in curves.values()]
    if all(np.array_equal(values[0], value) for value in values):
        axes[0].plot(SWEEP.numpy(), values[0], color="black", linestyle="-")
    else:
        axes[0].plot(SWEEP.numpy(), np.stack(values, 1))
    lines = axes[1].plot(SWEEP.numpy(), np.stack([gradient for _, gradient in curves.values()], 1))
    if len(curves) > 1:
        labels = [label or "at first" for label in curves]
        axes[0].legend(
            lines,
            labels,
            loc="lower left",
            bbox_to_anchor=(0, 1),
            frameon=False,
            borderaxespad=0,
            handlelength=2.4,
        )
    for panel in axes:
        low, high = panel.get_ylim()
        panel.set_ylim(min(low, -0.1), max(high, 0.1))
        panel.set_xticks(range(-2, 3))
        panel.locator_params(axis="y", nbins=4)
        panel.margins(x=0)
    axes[0].set_ylabel(out)
    axes[1].set(
        ylabel=f"dL/d{symbol} for dL/d{out} = 1",
        xlabel=f"{'latent weight' if symbol == 'w' else 'input of the layer,'} {symbol}",
    )


def method_figure(name: str) -> Figure:
    weights, inputs = named(name, weight_curves), named(name, input_curves)
    columns = 1 + bool(inputs)
    figure = Figure(figsize=(3.4 * columns, 4))
    axes = figure.subplots(2, columns, squeeze=False, sharex=True)
    draw_curves(axes[:, 0], weights, "w", "B")
    if inputs:
        draw_curves(axes[:, 1], inputs, "x", "A")
    return figure


def draw_cells(axes: Any, matrix: np.ndarray, title: str) -> None:
    """matrix: (rows, columns) of +-(1 + tile position), 0 for a weight that is 0, masked between kernels; "-" marks a turned sign."""
    colours = mpl.colormaps["viridis"].with_extremes(under="#e0e0e0")
    axes.imshow(
        np.ma.abs(matrix),
        cmap=colours,
        interpolation="none",
        vmin=1,
        vmax=np.abs(matrix).max() * 1.2,
    )
    for (row, column), value in np.ndenumerate(matrix.filled(0)):
        if value:
            axes.text(
                column,
                row,
                f"{'-' if value < 0 else ''}{abs(value) - 1}",
                ha="center",
                va="center",
                color="white",
                fontsize=6,
            )
    axes.set(title=title, xticks=[], yticks=[])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def two_by_two(kernels: np.ndarray) -> np.ma.MaskedArray:
    """kernels: (4, k, k) -> (2 k + 1, 2 k + 1), a masked line between them."""
    k = kernels.shape[-1]
    out = np.ma.masked_all((2 * k + 1, 2 * k + 1), kernels.dtype)
    for i, kernel in enumerate(kernels):
        row, column = (k + 1) * (i // 2), (k + 1) * (i % 2)
        out[row : row + k, column : column + k] = kernel
    return out


def copies_figure() -> Figure:
    """Which tile element stands where: p = 4 in a weight of 4 rows of 8; shifted in four kernels, 2 x 2 made 4 x 4."""
    figure = Figure(figsize=(6.8, 1.4))
    widths = [7 if kind == "shifted" else 8 for kind in KINDS]
    panels = figure.subplots(1, len(KINDS), width_ratios=widths)
    for axes, kind in zip(panels, KINDS, strict=True):
        shape = (4, 1, 2, 2) if kind == "shifted" else (4, 8)
        copies = Copies(shape, 4, kind, default_shifts(4, 2) if kind == "shifted" else ())
        weight = copies.enlarged(copies.lay_out(np.arange(1, copies.q + 1)).reshape(shape))
        draw_cells(
            axes, two_by_two(weight[:, 0]) if weight.ndim == 4 else np.ma.array(weight), kind
        )
    return figure


def save(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def main(folder: Path = HERE) -> None:
    """Writes a picture per method, and tbn_copies.svg, into folder."""
    with mpl.rc_context(STYLE):
        for name in catalog.names("binarizers"):
            save(method_figure(name), folder / f"{name}.svg")
        save(copies_figure(), folder / "tbn_copies.svg")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
