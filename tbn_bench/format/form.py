"""The stored form of a binarized weight: its tensors, their sizes in bits, and its dense values.

numpy alone.

    weight_n = alpha * value_n + offset

Each alpha and offset covers N / k consecutive weights (row-major); k = 0: no scale.

Tensors (`names`), all but the first only where the method has them:

    tile      uint8: the q = N / p stored values, laid out p times (layouts.py), by `code`
              "sign"      +-1, one bit each (bits.py)
              "ternary"   -1, 0, +1 as digits 0, 1, 2: five to a byte (coding.py)
              "codebook"  kernels of 9 values, each the index of a codebook entry in index_bits bits
              "low_rank"  the signs U: (rows, rank), then V: (rank, ...), of a product of two
                          factors (below)
    codebook  uint8: 2^index_bits kernels of 9 signs (bits.py)
    alphas    float32 (k,), or int8 (k,): the exponent e of a scale 2^e
    offsets   float32 (k,)

"low_rank" is the one code whose weight is not alpha * value + offset. With alphas = u: (rows,), m:
(rank,), v: (C,), one v for each input channel j, and kernel positions n, the weight is

    u_i (sum_r U_ir m_r V_rjn) v_j

computed in float64 and rounded once.

The one path from a method to its size: cost.py, the packed file and the plan all ask `Form`.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbn_bench.format import bits, coding
from tbn_bench.format.coding import KERNEL, TRITS
from tbn_bench.format.layouts import Copies

CODES = ("sign", "ternary", "codebook", "low_rank")
MOST_AXES = 32  # of an array, in every numpy


@dataclass(frozen=True)
class Form:
    """shape: of the latent weight, N elements. scales: k.

    exponents: whether alphas are int8 powers of two. offsets: whether there are any. copies: None
    for p aligned copies. rank: of code "low_rank" alone.

    Raises ValueError where the parts do not fit one another.
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
        if self.code == "codebook" and not self._fits_codebook():
            return (
                f"a codebook needs p = 1, kernels of {KERNEL} values and 1 to {KERNEL} index bits, "
                f"got {self}"
            )
        copies = self.copies
        if copies is not None and (copies.shape, copies.p) != (self.shape, self.p):
            own = f"{self.shape} and p = {self.p}"
            return f"copies are for {copies.shape} and p = {copies.p}, not {own}"
        return ""

    def _fits_codebook(self) -> bool:
        has_kernels = self.p <= 1 and self.numel % KERNEL == 0
        return has_kernels and 1 <= self.index_bits <= KERNEL

    def _low_rank_fault(self) -> str:
        if self.code != "low_rank" or self.rank < 1 or len(self.shape) < 2:
            return (
                "a rank from 1 on belongs to code low_rank and a weight of two axes or more, "
                f"got {self}"
            )
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
        """The growth of the layer's kernel on every side; 0 for all but shifted copies."""
        return 0 if self.copies is None else self.copies.reach

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return self.shape if self.copies is None else self.copies.weight_shape

    @property
    def plain(self) -> bool:
        """True for signs, float scales and aligned copies: the forms that the kernels take."""
        has_float_scales = not self.exponents and not self.offsets
        return self.code == "sign" and has_float_scales and self.kind == "aligned"

    @property
    def has_shared_products(self) -> bool:
        """Whether a layer can compute the products of its input with the tile once for all copies.

        True for signs in copies that are hadamard or shifted, with a scale for each or for all, or
        in columns, with scales of whole rows (layers/mixed_copies.py).
        """
        if self.code != "sign" or self.offsets:
            return False
        if self.kind == "columns":
            return self.shape[0] % max(1, self.scales) == 0
        return self.kind in ("hadamard", "shifted") and self.scales in (0, 1, self.p)

    @property
    def product(self) -> "Form":
        """The form of the weight that a layer's input meets.

        Of columns copies it is the tile itself, after the input was summed in groups of p. For
        every other kind, and where a layer cannot reuse the tile, it is this form.
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
        found = {}
        for name, size in self.sizes.items():
            found[name] = self.scales if name in scaling else bits.packed_bytes(size)
        return found

    @property
    def dense_bytes(self) -> int:
        """Of the float32 weight, in weight_shape."""
        return 4 * prod(self.weight_shape)

    def check(self, tensors: dict[str, NDArray[Any]]) -> str:
        """The fault in the types and shapes of a weight's tensors, or ''."""
        for name, length in self.lengths.items():
            found = tensors.get(name)
            if found is None:
                return f"its {name} is missing"
            wanted = self.types[name]
            if found.dtype != wanted or found.shape != (length,):
                got = f"{found.dtype} {found.shape}"
                return f"its {name} is {got}, expected {wanted} ({length},)"
        return ""

    def check_values(self, tensors: dict[str, NDArray[Any]]) -> str:
        """Why tensors of the right types and shapes hold what no method stores, or ''."""
        for name in ("alphas", "offsets"):
            if name in self.sizes and not np.isfinite(tensors[name]).all():
                return f"its {name} are not finite"
        if self.code == "ternary":
            return coding.trit_fault(tensors["tile"], self.q)
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
        """The tensors of a weight.

        values: (q,) (low_rank: U, then V). alphas, offsets: (k,). codebook: (2^index_bits, 9) of
        +-1. Raises ValueError for a value that the code cannot hold, a scale that is no power of
        two, a kernel that the codebook lacks.
        """
        out: dict[str, NDArray[Any]] = {}
        if self.exponents:
            out["alphas"] = coding.exponents(alphas)
        else:
            out["alphas"] = alphas.astype(np.float32)
        if self.code in ("sign", "low_rank"):
            out["tile"] = bits.pack(values)
        elif self.code == "ternary":
            out["tile"] = coding.pack_trits(values)
        else:
            assert codebook is not None
            out["codebook"] = bits.pack(codebook)
            indices = coding.find_indices(values.reshape(-1, KERNEL), codebook)
            out["tile"] = coding.pack_indices(indices, self.index_bits)
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
            stored = coding.unpack_trits(tensors["tile"], self.q)
        else:
            kernels = self.numel // KERNEL
            indices = coding.unpack_indices(tensors["tile"], kernels, self.index_bits)
            book = bits.unpack(tensors["codebook"], KERNEL << self.index_bits)
            stored = book.reshape(-1, KERNEL)[indices].reshape(-1)
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

        A sum of float32 values is exact in float64 in any order, unless the m differ by more than
        about 2^20. Every reader therefore gets the same bits.
        """
        left, right = self.factors(tensors)
        scales = tensors["alphas"].astype(np.float64)
        u, m, v = np.split(scales, [self.shape[0], self.shape[0] + self.rank])
        mixed = (left * m) @ right.reshape(self.rank, -1)
        by_channel = (u[:, None] * mixed).reshape(*self.shape[:2], -1) * v[:, None]
        return by_channel.reshape(self.shape).astype(np.float32)

    def float_scales(self, alphas: NDArray[Any]) -> NDArray[np.float32]:
        if not self.exponents:
            return alphas
        return np.ldexp(np.float32(1), alphas.astype(np.int32))  # exact, which exp2 need not be

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
