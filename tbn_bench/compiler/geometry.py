"""Kernels over maps: where a window is, and how many positions it has.

Maps are (height, width, channels). A signal of one axis is a map of height 1.
"""

from dataclasses import dataclass
from typing import Any

Pair = tuple[int, int]
Map = tuple[int, int, int]


def pair(value: Any, axes: int, missing: int = 1) -> Pair:
    """A size of torch as (height, width).

    axes: 2 for images, where one number means both; 1 for signals, whose height is `missing`.
    """
    listed = [value] if isinstance(value, int) else list(value)
    first = int(listed[0])
    if axes == 1:
        return missing, first
    last = int(listed[-1])
    return first, last


def positions(
    size: int, kernel: int, stride: int, padding: int, dilation: int, ceil: bool = False
) -> int:
    """Outputs along one axis, by the formula of torch.nn.Conv2d and torch.nn.MaxPool2d.

    (size + 2 padding - dilation (kernel - 1) - 1) / stride + 1, rounded down; with `ceil` rounded
    up, but no window begins behind the map and its left padding.
    """
    rest = size + 2 * padding - dilation * (kernel - 1) - 1
    if not ceil:
        return rest // stride + 1
    steps = -(-rest // stride)
    begins_behind = steps * stride >= size + padding
    return steps if begins_behind else steps + 1


@dataclass(frozen=True)
class Window:
    """The position of a kernel at each output pixel. shape: of the input map."""

    shape: Map
    kernel: Pair
    out: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    channels_first: bool = False  # the patch is (channels, kernel)

    @property
    def patch(self) -> int:
        """Inputs under the kernel."""
        height, width = self.kernel
        positions = height * width
        channels = self.shape[2]
        return positions * channels


def window(
    shape: Map, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, ceil: bool = False
) -> Window:
    """The window of a kernel over a map, with its number of positions."""
    axes = zip(
        shape[:2],
        kernel,
        stride,
        padding,
        dilation,
        strict=True,
    )
    height, width = (positions(*axis, ceil=ceil) for axis in axes)
    return Window(
        shape,
        kernel,
        (height, width),
        stride,
        padding,
        dilation,
    )
