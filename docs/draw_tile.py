"""Draws docs/tile.svg: one layer in full precision, as one binary tile, and as the weight that the tile stands for.

    .venv/bin/python docs/draw_tile.py [FILE]

The numbers are a real 8 x 8 linear layer after binarize_(layer, "tbn(p=4)"). The same bytes on every run.
"""

import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

from tbn_bench import tiling
from tbn_bench.convert.binarize import binarize_

P = 4
SIZE = 8
STYLE = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "svg.hashsalt": "tbn_bench",
    "svg.fonttype": "none",
    "font.sans-serif": ["DejaVu Sans"],
}
BLUE_TO_RED = "RdBu_r"


def layer_values() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(latent weight W: (8, 8), tile t: (2, 8) of +-1, binary weight B: (8, 8))."""
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(SIZE, SIZE, bias=False))
    binarize_(layer, f"tbn(p={P}, min_layer_size=0)")
    latent = layer[0].parametrizations.weight.original.detach()
    tile = tiling.tile(latent, P).reshape(SIZE // P, SIZE)
    return latent.numpy(), tile.numpy(), layer[0].weight.detach().numpy()


def draw(axes: Axes, values: np.ndarray, title: str, below: str) -> None:
    """One matrix as coloured cells, red above 0 and blue below."""
    limit = np.abs(values).max() * 1.15
    axes.imshow(values, cmap=BLUE_TO_RED, vmin=-limit, vmax=limit, interpolation="none")
    axes.set_title(title)
    axes.set_xlabel(below, labelpad=6)
    axes.set_xticks(np.arange(-0.5, values.shape[1]), minor=True)
    axes.set_yticks(np.arange(-0.5, values.shape[0]), minor=True)
    axes.grid(which="minor", color="white", linewidth=1)
    axes.tick_params(which="both", length=0, labelbottom=False, labelleft=False)
    axes.spines[:].set_visible(False)


def mark_copies(axes: Axes) -> None:
    """A line between copies, and the scale of each beside it."""
    height = SIZE // P
    for copy in range(P):
        middle = height * copy + height / 2 - 0.5
        axes.text(SIZE - 0.2, middle, f"× α$_{copy + 1}$", va="center")
        if copy:
            axes.axhline(height * copy - 0.5, color="black", linewidth=1)


def figure() -> Figure:
    latent, tile, weight = layer_values()
    drawn = Figure(figsize=(7.4, 3.0), layout="constrained")
    drawn.get_layout_engine().set(h_pad=0.15, w_pad=0.1)
    left, middle, right = drawn.subplots(1, 3)
    draw(left, latent, "trained: W", f"{latent.size} float32 numbers\n{latent.size * 32:,} bits")
    stored_bits = tile.size + 32 * P
    draw(
        middle,
        tile,
        "stored: one tile",
        f"{tile.size} bits and {P} scales α\n{stored_bits} bits",
    )
    draw(right, weight, f"used: the tile, {P} times", f"{weight.size} weights of ±α")
    mark_copies(right)
    return drawn


def main(file: Path) -> None:
    with mpl.rc_context(STYLE):
        figure().savefig(file, format="svg", metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("tile.svg"))
