"""Where the p copies of a tile go in a weight. numpy alone: readers of packed files share it.

A weight of shape (rows, ...) and N elements holds p copies of a tile of q = N / p values. Copy i
fills the row block [i rows / p, (i + 1) rows / p). With T the tile as (rows / p, columns), and
columns = N / rows:

    aligned    copy_i = T              the paper's: every copy computes the same rows / p features
    rotated    copy_i[:, j] = T[:, (j - i columns / p) mod columns]
                                       each row rotated by i / p of its length
    permuted   copy_i[:, j] = T[:, pi_i(j)]
                                       fixed permutations pi_i by seed, pi_0 the identity
    hadamard   copy_i[:, slice s] = H_is T[:, slice s]
                                       p slices of equal input channels, H Sylvester's matrix
    shifted    copy_i = T moved by a small spatial offset
                                       the weight is a larger kernel, zero around each copy

In columns no rows are copies of others: p neighbouring input channels share a value. With T as
(rows, C_in / p, taps):

    columns    weight[r, c, tap] = T[r, c // p, tap]
                                       the layer is T times sums of p input channels

All but aligned give different features from the same stored bits.

aligned, hadamard, shifted and columns compute each product of an input (columns: of a sum of p
inputs) with a tile element once: 1 / p of the multiply-adds. hadamard adds p partial sums per
output, columns sums its input in groups, shifted of stride s also computes the positions between
its outputs. rotated and permuted cost full arithmetic.

Sources. rotated, permuted and shifted: proposed for this suite. hadamard: ours, the counterpart for
linear layers. columns: mattgorb/tbn-158 (2026), by the first author of TBN, which takes the sign of
each group's mean; here it is the sign of its sum, which is the same.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, product
from math import prod
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Kind = Literal["aligned", "rotated", "permuted", "hadamard", "shifted", "columns"]
KINDS: tuple[Kind, ...] = get_args(Kind)
MOST_SHIFT = 255  # positions; a kernel that grows by more is a mistake, or an attack by a file
MOST_PERMUTATIONS = 1024  # each is drawn from a generator of its own


@dataclass(frozen=True)
class Copies:
    """p copies in a weight of `shape`, laid out by `kind`.

    shifts: one (dy, dx) (or (dx,)) per copy, for kind "shifted" alone.

    Raises ValueError where the kind does not fit. p must divide the rows (all but aligned and
    columns) or the input channels (columns); hadamard needs a power of two that divides the input
    channels, shifted one shift per copy and spatial axes. p is at most MOST_PERMUTATIONS
    (permuted), a shift at most MOST_SHIFT.
    """

    shape: tuple[int, ...]
    p: int = 1
    kind: Kind = "aligned"
    shifts: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        fault = self._fault()
        if fault:
            raise ValueError(f"copies={self.kind!r}: {fault}")

    def _fault(self) -> str:
        if self.kind not in KINDS:
            known = ", ".join(KINDS)
            return f"must be one of {known}"
        if self.shifts and self.kind != "shifted":
            return f"shifts belong to copies='shifted' alone, got {len(self.shifts)}"
        if self.kind == "aligned":
            return ""
        if self.p < 1 or len(self.shape) < 2:
            return (
                "expected p from 1 on and a weight of two axes or more, "
                f"got p={self.p} and {self.shape}"
            )
        wanted = self._wanted_of_p()
        if wanted:
            return f"p must {wanted}, got p={self.p}"
        return self._shift_fault() if self.kind == "shifted" else ""

    def _wanted_of_p(self) -> str:
        """The rule of this kind that p breaks, or ''."""
        rows, channels, *_ = self.shape
        divides_channels = channels % self.p == 0
        if self.kind == "columns":
            return "" if divides_channels else f"divide the {channels} input channels"
        if rows % self.p:
            return f"divide the {rows} rows"
        if self.kind == "permuted" and self.p > MOST_PERMUTATIONS:
            return f"be at most {MOST_PERMUTATIONS}"
        if self.kind != "hadamard":
            return ""
        is_power_of_two = self.p & (self.p - 1) == 0
        if is_power_of_two and divides_channels:
            return ""
        return f"be a power of two that divides the {channels} input channels"

    def _shift_fault(self) -> str:
        spatial = len(self.shape) - 2
        one_per_copy = len(self.shifts) == self.p
        fits = all(len(shift) == spatial for shift in self.shifts)
        if not spatial or not one_per_copy or not fits:
            return (
                f"expected {self.p} shifts of {spatial} numbers (at least one spatial axis), "
                f"got {self.shifts}"
            )
        if self.reach > MOST_SHIFT:
            return f"a shift must be at most {MOST_SHIFT}, got {self.reach}"
        return ""

    @property
    def q(self) -> int:
        return prod(self.shape) // self.p

    @property
    def tile_shape(self) -> tuple[int, ...]:
        """The shape of the tile as the weight of a layer; aligned: for copies of whole rows."""
        rows, channels, *taps = self.shape
        if self.kind == "columns":
            groups = channels // self.p
            return (rows, groups, *taps)
        own_rows = rows // self.p
        return (own_rows, channels, *taps)

    @property
    def reach(self) -> int:
        """The largest move along any axis: each side of the kernel grows by it."""
        moves = chain.from_iterable(self.shifts)
        distances = map(abs, moves)
        return max(distances, default=0)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """The shape of the weight that the layer multiplies by.

        It is larger than `shape` for shifted copies alone.
        """
        growth = 2 * self.reach
        rows, channels, *kernel = self.shape
        enlarged = [length + growth for length in kernel]
        return (rows, channels, *enlarged)

    def index(self) -> NDArray[np.int64] | None:
        """(p, q): the tile element at each position of each copy; None for the identity."""
        return _index(self.kind, self.p, self.shape)

    def order(self) -> NDArray[np.int64] | None:
        """(p, columns): the column of the tile at each column of each copy.

        None where the rows differ in that, or where all columns stay in place.
        """
        if self.kind not in ("rotated", "permuted"):
            return None
        index = self.index()
        if index is None:
            return None
        _, *others = self.shape
        columns = prod(others)
        return index[:, :columns]

    def signs(self) -> NDArray[np.int8] | None:
        """(p, q): the sign at each position of each copy; None where all are +1."""
        if not self._has_signs:
            return None
        return _signs(self.p, self.shape)

    @property
    def _has_signs(self) -> bool:
        return self.kind == "hadamard" and self.p > 1

    def lay_out(self, tile: NDArray[Any]) -> NDArray[Any]:
        """tile: (q,) -> its copies: (p, q). Keeps no table: a file is laid out once."""
        index = _make_index(self.kind, self.p, self.shape)
        if index is None:
            shape = (self.p, len(tile))
            copies = np.broadcast_to(tile, shape)
        else:
            copies = tile[index]
        if not self._has_signs:
            return copies
        return copies * _make_signs(self.p, self.shape)

    def enlarged(self, weight: NDArray[Any]) -> NDArray[Any]:
        """weight: shape -> weight_shape, every copy moved by its shift, zeros around it."""
        if self.kind != "shifted":
            return weight
        out = np.zeros(self.weight_shape, weight.dtype)
        rows = self.shape[0] // self.p
        every_channel = slice(None)
        for i, shift in enumerate(self.shifts):
            first = i * rows
            block = slice(first, first + rows)
            window = self._window(shift)
            out[(block, every_channel, *window)] = weight[block]
        return out

    def _window(self, shift: tuple[int, ...]) -> list[slice]:
        """The part of an enlarged kernel that a copy moved by `shift` fills, axis by axis."""
        _, _, *kernel = self.shape
        window = []
        for move, length in zip(shift, kernel, strict=True):
            first = self.reach + move
            part = slice(first, first + length)
            window.append(part)
        return window


def hadamard(p: int) -> NDArray[np.int8]:
    """Sylvester's matrix (p, p) of +-1, p a power of two: H_is = (-1)^(number of ones in i & s)."""
    matrix = np.ones((1, 1), np.int8)
    while len(matrix) < p:
        above = [matrix, matrix]
        below = [matrix, -matrix]
        matrix = np.block([above, below])
    return matrix


def _make_index(kind: Kind, p: int, shape: tuple[int, ...]) -> NDArray[np.int64] | None:
    if kind not in ("rotated", "permuted", "columns") or p == 1:
        return None
    if kind == "columns":
        return _groups_repeated(p, shape)
    all_rows, *others = shape
    rows = all_rows // p
    columns = prod(others)
    order = _rotations(p, columns) if kind == "rotated" else _permutations(p, columns)
    starts = np.arange(rows) * columns
    by_row = starts[:, None] + order[:, None, :]  # (p, rows, columns)
    return by_row.reshape(p, -1)


def _groups_repeated(p: int, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """(p, q): the tile element of each weight, where p neighbouring input channels share one."""
    rows, channels, *_ = shape
    q = prod(shape) // p
    elements = np.arange(q)
    groups = elements.reshape(rows, channels // p, -1)
    repeated = np.repeat(groups, p, axis=1)
    return repeated.reshape(p, -1)


def _rotations(p: int, columns: int) -> NDArray[np.int64]:
    """(p, columns): the column of the tile at each column of each copy."""
    copies = np.arange(p)
    moves = copies * columns // p
    places = np.arange(columns)
    moved = places - moves[:, None]
    return moved % columns


def _permutations(p: int, columns: int) -> NDArray[np.int64]:
    """(p, columns): the column of the tile at each column of each copy; the first is in order."""
    # the streams of RandomState are frozen, those of newer generators are not
    source = np.random.RandomState(0)
    order = np.empty((p, columns), np.int64)
    order[0] = np.arange(columns)
    for i in range(1, p):
        source.seed(i)
        order[i] = source.permutation(columns)
    return order


def _make_signs(p: int, shape: tuple[int, ...]) -> NDArray[np.int8]:
    all_rows, *others = shape
    rows = all_rows // p
    segment = prod(others) // p
    row = np.repeat(hadamard(p), segment, axis=1)  # (p, columns)
    return np.tile(row, (1, rows))


# Training asks for these tables in every step.
_index = lru_cache(maxsize=64)(_make_index)
_signs = lru_cache(maxsize=64)(_make_signs)


def default_shifts(p: int, spatial: int) -> tuple[tuple[int, ...], ...]:
    """p offsets, nearest first; () without spatial axes.

    First none, then the neighbours (straight before diagonal), then distance 2, ...
    """
    if not spatial:
        return ()
    reach = 0
    while (2 * reach + 1) ** spatial < p:
        reach += 1
    moves = range(-reach, reach + 1)
    grid = product(moves, repeat=spatial)
    nearest = sorted(grid, key=_nearness)
    return tuple(nearest[:p])


def _nearness(shift: tuple[int, ...]) -> tuple[Any, ...]:
    distances = [abs(move) for move in shift]
    farthest = max(distances)
    total = sum(distances)
    return farthest, total, shift[::-1]
