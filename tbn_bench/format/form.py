"""The stored form of a binarized weight: which tensors it is, their size to the bit, and the float32 weight they stand for. numpy only.

    weight_n = alpha * value_n + offset      each alpha and offset covering N / k consecutive weights (row-major); k = 0: no scale

Tensors (`names`), all but the first only where the method has them:

    tile      uint8: the q = N / p stored values, laid out p times (layouts.py), by `code`
              "sign"      +-1, one bit each (bits.py)
              "ternary"   -1, 0, +1 as digits 0, 1, 2: five to a byte, the first value the lowest digit base 3; padding digits are 0
              "codebook"  kernels of 9 values, each the index of a codebook entry in index_bits bits (bits.py's order)
              "low_rank"  the signs U: (rows, rank), then V: (rank, ...), of a product of two factors (below)
    codebook  uint8: 2^index_bits kernels of 9 signs (bits.py)
    alphas    float32 (k,), or int8 (k,): the exponent e of a scale 2^e
    offsets   float32 (k,)

"low_rank" is the one code whose weight is not alpha * value + offset. With alphas = u: (rows,), m: (rank,), v: (C,), one v for each input
channel j, and kernel positions n, the weight is u_i (sum_r U_ir m_r V_rjn) v_j: computed in float64, rounded once.

The one path from a method to its size: cost.py, the packed file and the plan all ask `Form`.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbn_bench.format import bits
from tbn_bench.format.layouts import Copies

CODES = ("sign", "ternary", "codebook", "low_rank")
KERNEL = 9  # values of a codebook entry: one 3 x 3 kernel
TRITS = 5  # base-3 digits in a byte: 3^5 = 243
MOST_AXES = 32  # of an array, in every numpy
_POWERS = 3 ** np.arange(TRITS)


@dataclass(frozen=True)
class Form:
    """shape: of the latent weight, N elements; scales: k; exponents: alphas are int8 powers of two; offsets: whether there are any.

    copies: None for p aligned copies. rank: of code "low_rank" alone. Raises ValueError where the parts do not fit one another.
    """

    shape: tuple[int, ...]
    p: int = 1
    scales: int = 0
    code: str = "sign"
    exponents: bool = False
    offsets: bool = False
    index_bits: int = 0
    copies: Copies | None = None
    rank: int = 0

    def __post_init__(self) -> None:
        if fault := self._fault():
            raise ValueError(fault)
        if self.kind == "aligned":
            object.__setattr__(self, "copies", None)  # one form, however it is said

    def _fault(self) -> str:
        if len(self.shape) > MOST_AXES:
            return f"a weight has at most {MOST_AXES} axes, got {len(self.shape)}"
        if self.code not in CODES:
            return f"code must be one of {', '.join(CODES)}, got {self.code!r}"
        if self.code == "low_rank" or self.rank:
            return self._low_rank_fault()
        if self.p < 1 or self.numel % self.p:
            return f"p = {self.p} does not divide {self.numel} weights"
        if self.scales < 0 or (self.scales and self.numel % self.scales):
            return f"{self.scales} scales do not divide {self.numel} weights"
        if self.offsets and not self.scales:
            return "offsets need scales"
        if self.code == "codebook" and (
            self.p > 1 or self.numel % KERNEL or not 1 <= self.index_bits <= KERNEL
        ):
            return f"a codebook needs p = 1, kernels of {KERNEL} values and 1 to {KERNEL} index bits, got {self}"
        if self.copies is not None and (self.copies.shape, self.copies.p) != (self.shape, self.p):
            return f"copies are for {self.copies.shape} and p = {self.copies.p}, not {self.shape} and p = {self.p}"
        return ""

    def _low_rank_fault(self) -> str:
        if self.code != "low_rank" or self.rank < 1 or len(self.shape) < 2:
            return f"a rank from 1 on belongs to code low_rank and a weight of two axes or more, got {self}"
        if self.p != 1 or self.exponents or self.offsets or self.copies is not None:
            return f"low_rank needs p = 1, float scales, no offsets and no copies, got {self}"
        expected = self.shape[0] + self.rank + self.shape[1]
        if self.scales != expected:
            return f"rank {self.rank} of {self.shape} has {expected} scales, got {self.scales}"
        return ""

    @property
    def numel(self) -> int:
        return prod(self.shape)

    @property
    def factor_sizes(self) -> tuple[int, int]:
        """Signs of U and of V, of code low_rank."""
        return self.rank * self.shape[0], self.rank * prod(self.shape[1:])

    @property
    def q(self) -> int:
        return self.numel // self.p

    @property
    def kind(self) -> str:
        return "aligned" if self.copies is None else self.copies.kind

    @property
    def reach(self) -> int:
        """By how much the kernel of the layer grows on every side: more than 0 for shifted copies."""
        return 0 if self.copies is None else self.copies.reach

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return self.shape if self.copies is None else self.copies.weight_shape

    @property
    def plain(self) -> bool:
        """True for signs, float scales and aligned copies: what the kernels take."""
        return (
            self.code == "sign"
            and not self.exponents
            and not self.offsets
            and self.kind == "aligned"
        )

    @property
    def has_shared_products(self) -> bool:
        """Whether a layer can compute the products of an input with the tile once for all copies (mixed_copies.py).

        True for signs in copies that are hadamard or shifted, with a scale for each or for all, or in columns, with scales
        of whole rows.
        """
        if self.code != "sign" or self.offsets:
            return False
        if self.kind == "columns":
            return self.shape[0] % max(1, self.scales) == 0
        return self.kind in ("hadamard", "shifted") and self.scales in (0, 1, self.p)

    @property
    def product(self) -> "Form":
        """The form of what a layer's input meets: of columns copies the tile itself, after the input was summed in groups of p.

        For every other kind, and where a layer cannot reuse the tile, it is this form.
        """
        if self.copies is None or self.kind != "columns" or not self.has_shared_products:
            return self
        return replace(self, shape=self.copies.tile_shape, p=1, copies=None)

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Tensor name -> its bits, before the padding to whole bytes."""
        tile = {
            "sign": self.q,
            "ternary": 8 * -(-self.q // TRITS),
            "codebook": self.numel // KERNEL * self.index_bits,
            "low_rank": sum(self.factor_sizes),
        }[self.code]
        found = {"tile": tile, "alphas": (8 if self.exponents else 32) * self.scales}
        if self.code == "codebook":
            found["codebook"] = KERNEL << self.index_bits
        if self.offsets:
            found["offsets"] = 32 * self.scales
        return found

    @property
    def nbytes(self) -> int:
        return sum(map(bits.packed_bytes, self.sizes.values()))

    @property
    def types(self) -> dict[str, str]:
        """Tensor name -> numpy's name of its type."""
        known = {
            "tile": "uint8",
            "codebook": "uint8",
            "alphas": "int8" if self.exponents else "float32",
            "offsets": "float32",
        }
        return {name: known[name] for name in self.sizes}

    @property
    def lengths(self) -> dict[str, int]:
        """Tensor name -> its elements."""
        scaling = ("alphas", "offsets")
        return {
            name: self.scales if name in scaling else bits.packed_bytes(size)
            for name, size in self.sizes.items()
        }

    @property
    def dense_bytes(self) -> int:
        """Of the float32 weight, in weight_shape."""
        return 4 * prod(self.weight_shape)

    def check(self, tensors: dict[str, NDArray[Any]]) -> str:
        """What is wrong with the types and shapes of a weight's tensors, or ''."""
        types, lengths = self.types, self.lengths
        for name in self.sizes:
            found = tensors.get(name)
            if found is None:
                return f"its {name} is missing"
            if found.dtype != types[name] or found.shape != (lengths[name],):
                return f"its {name} is {found.dtype} {found.shape}, expected {types[name]} ({lengths[name]},)"
        return ""

    def check_values(self, tensors: dict[str, NDArray[Any]]) -> str:
        """Why tensors of the right types and shapes hold what no method stores, or ''."""
        for name in ("alphas", "offsets"):
            if name in self.sizes and not np.isfinite(tensors[name]).all():
                return f"its {name} are not finite"
        if self.code == "ternary":
            return _trit_fault(tensors["tile"], self.q)
        for name in ("tile", "codebook"):
            used = self.sizes.get(name, 0) % 8
            if used and tensors[name][-1] >> used:
                return f"padding bits of its {name} are set; it is not packed by this suite's rule"
        return ""

    def encode(
        self,
        values: NDArray[Any],
        alphas: NDArray[np.float32],
        offsets: NDArray[np.float32] | None = None,
        codebook: NDArray[Any] | None = None,
    ) -> dict[str, NDArray[Any]]:
        """The tensors of stored values: (q,) (low_rank: U, then V), scales: (k,), offsets: (k,), codebook: (2^index_bits, 9) of +-1.

        Raises ValueError for a value that the code cannot hold, a scale that is no power of two, a kernel that the codebook lacks.
        """
        out: dict[str, NDArray[Any]] = {
            "alphas": _exponents(alphas) if self.exponents else alphas.astype(np.float32)
        }
        if self.code in ("sign", "low_rank"):
            out["tile"] = bits.pack(values)
        elif self.code == "ternary":
            out["tile"] = _pack_trits(values)
        else:
            assert codebook is not None
            out["codebook"] = bits.pack(codebook)
            out["tile"] = _pack_indices(
                _indices(values.reshape(-1, KERNEL), codebook), self.index_bits
            )
        if self.offsets and offsets is not None:
            out["offsets"] = offsets.astype(np.float32)
        if fault := self.check(out):
            raise ValueError(fault)
        return out

    def values(self, tensors: dict[str, NDArray[Any]]) -> NDArray[np.int8]:
        """The stored values, laid out: (N,) of -1, 0, +1. Not for code low_rank: `factors`."""
        if self.code == "sign":
            stored = bits.unpack(tensors["tile"], self.q)
        elif self.code == "ternary":
            stored = _unpack_trits(tensors["tile"], self.q)
        else:
            book = bits.unpack(tensors["codebook"], KERNEL << self.index_bits).reshape(-1, KERNEL)
            stored = book[
                _unpack_indices(tensors["tile"], self.numel // KERNEL, self.index_bits)
            ].reshape(-1)
        copies = self.copies or Copies(self.shape, self.p)
        return copies.lay_out(stored).reshape(-1)

    def factors(
        self, tensors: dict[str, NDArray[Any]]
    ) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
        """Of code low_rank: signs U: (rows, rank) and V: (rank, *shape[1:])."""
        first, second = self.factor_sizes
        stored = bits.unpack(tensors["tile"], first + second)
        left = stored[:first].reshape(self.shape[0], self.rank)
        return left, stored[first:].reshape(self.rank, *self.shape[1:])

    def _product(self, tensors: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """The dense weight of code low_rank.

        A sum of float32 values is exact in float64, in whatever order (unless the m differ by more than about 2^20), so
        every reader gets the same bits.
        """
        left, right = self.factors(tensors)
        scales = tensors["alphas"].astype(np.float64)
        u, m, v = np.split(scales, [self.shape[0], self.shape[0] + self.rank])
        mixed = (left * m) @ right.reshape(self.rank, -1)
        by_channel = (u[:, None] * mixed).reshape(*self.shape[:2], -1) * v[:, None]
        return by_channel.reshape(self.shape).astype(np.float32)

    def float_scales(self, alphas: NDArray[Any]) -> NDArray[np.float32]:
        return (
            np.ldexp(np.float32(1), alphas.astype(np.int32)) if self.exponents else alphas
        )  # exact, as exp2 need not be

    def dense(self, tensors: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """The float32 weight, in weight_shape."""
        out = self.unmoved(tensors)
        return out if self.copies is None else self.copies.enlarged(out)

    def unmoved(self, tensors: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """The float32 weight, in shape: shifted copies where they are before they are moved."""
        if self.code == "low_rank":
            return self._product(tensors)
        out = self.values(tensors).astype(np.float32).reshape(max(1, self.scales), -1)
        if self.scales:
            out = out * self.float_scales(tensors["alphas"])[:, None]
        if self.offsets:
            out = out + tensors["offsets"][:, None]
        return out.reshape(self.shape)


def _exponents(alphas: NDArray[np.float32]) -> NDArray[np.int8]:
    mantissa, exponent = np.frexp(alphas)
    if not np.all(mantissa == 0.5) or not np.all(np.abs(exponent - 1) < 128):
        raise ValueError("only scales 2^e with -128 < e < 128 can be stored as exponents")
    return (exponent - 1).astype(np.int8)


def _pack_trits(values: NDArray[Any]) -> NDArray[np.uint8]:
    flat = np.asarray(values).reshape(-1)
    if not np.isin(flat, (-1, 0, 1)).all():
        raise ValueError("only -1, 0 and +1 can be stored as ternary values")
    digits = np.zeros(-(-len(flat) // TRITS) * TRITS, np.int64)
    digits[: len(flat)] = flat + 1
    return (digits.reshape(-1, TRITS) @ _POWERS).astype(np.uint8)


def _trit_fault(data: NDArray[np.uint8], n: int) -> str:
    """Why bytes are not those of n ternary values, or ''."""
    if (data >= 3**TRITS).any():
        return f"a byte of five ternary digits is below {3**TRITS}; the data is damaged"
    if data.size and data[-1] >= 3 ** (n - TRITS * (data.size - 1)):
        return (
            f"padding digits after value {n} must be 0; the data is not packed by this suite's rule"
        )
    return ""


def _unpack_trits(data: NDArray[np.uint8], n: int) -> NDArray[np.int8]:
    if fault := _trit_fault(data, n):
        raise ValueError(fault)
    digits = (data[:, None] // _POWERS.astype(np.uint8) % 3).reshape(-1)
    return (digits[:n] - 1).astype(np.int8)


def _numbers(kernels: NDArray[Any]) -> NDArray[np.int64]:
    """(n, 9) of +-1 -> (n,): the number whose bits the signs are."""
    return (np.asarray(kernels) > 0).astype(np.int64) @ (1 << np.arange(KERNEL))


def _indices(kernels: NDArray[Any], codebook: NDArray[Any]) -> NDArray[np.int64]:
    where = np.full(1 << KERNEL, -1)
    where[_numbers(codebook)[::-1]] = np.arange(len(codebook))[::-1]  # of equal entries the first
    found: NDArray[np.int64] = where[_numbers(kernels)]
    if (found < 0).any():
        raise ValueError("a kernel is not in the codebook")
    return found


def _pack_indices(indices: NDArray[np.int64], width: int) -> NDArray[np.uint8]:
    planes = (indices[:, None] >> np.arange(width)) & 1
    return np.packbits(planes.astype(np.uint8).reshape(-1), bitorder="little")


def _unpack_indices(data: NDArray[np.uint8], n: int, width: int) -> NDArray[np.int64]:
    planes = np.unpackbits(data, bitorder="little")
    if planes[n * width :].any():
        raise ValueError(
            f"padding bits after index {n} must be clear; the data is not packed by this suite's rule"
        )
    return planes[: n * width].reshape(n, width).astype(np.int64) @ (1 << np.arange(width))
