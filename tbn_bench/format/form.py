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
from tbn_bench.format.layouts import Copies, Kind

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
        axes = len(self.shape)
        if axes > MOST_AXES:
            return f"a weight has at most {MOST_AXES} axes, got {axes}"
        if self.code not in CODES:
            known = ", ".join(CODES)
            return f"code must be one of {known}, got {self.code!r}"
        if self.code == "low_rank" or self.rank:
            return self._low_rank_fault()
        return self._division_fault() or self._codebook_fault() or self._copies_fault()

    def _division_fault(self) -> str:
        """Why tiles and scales do not divide the weights, or ''."""
        numel = self.numel
        if self.p < 1 or numel % self.p:
            return f"p = {self.p} does not divide {numel} weights"
        k = self.scales
        if k < 0 or (k and numel % k):
            return f"{k} scales do not divide {numel} weights"
        if self.offsets and not k:
            return "offsets need scales"
        return ""

    def _codebook_fault(self) -> str:
        if self.code != "codebook":
            return ""
        has_kernels = self.p <= 1 and self.numel % KERNEL == 0
        if has_kernels and 1 <= self.index_bits <= KERNEL:
            return ""
        return (
            f"a codebook needs p = 1, kernels of {KERNEL} values and 1 to {KERNEL} index bits, "
            f"got {self}"
        )

    def _copies_fault(self) -> str:
        copies = self.copies
        if copies is None:
            return ""
        if copies.shape == self.shape and copies.p == self.p:
            return ""
        theirs = f"{copies.shape} and p = {copies.p}"
        own = f"{self.shape} and p = {self.p}"
        return f"copies are for {theirs}, not {own}"

    def _low_rank_fault(self) -> str:
        has_rank = self.code == "low_rank" and self.rank >= 1
        if not has_rank or len(self.shape) < 2:
            return (
                "a rank from 1 on belongs to code low_rank and a weight of two axes or more, "
                f"got {self}"
            )
        plain_scales = not self.exponents and not self.offsets
        if self.p != 1 or not plain_scales or self.copies is not None:
            return f"low_rank needs p = 1, float scales, no offsets and no copies, got {self}"
        rows, channels, *_ = self.shape
        expected = rows + self.rank + channels
        if self.scales != expected:
            return f"rank {self.rank} of {self.shape} has {expected} scales, got {self.scales}"
        return ""

    @property
    def numel(self) -> int:
        return prod(self.shape)

    @property
    def factor_sizes(self) -> tuple[int, int]:
        """Signs of U and of V, of code low_rank."""
        rows, *others = self.shape
        columns = prod(others)
        left = rows * self.rank
        right = self.rank * columns
        return left, right

    @property
    def q(self) -> int:
        return self.numel // self.p

    @property
    def kind(self) -> Kind:
        if self.copies is None:
            return "aligned"
        return self.copies.kind

    @property
    def reach(self) -> int:
        """The growth of the layer's kernel on every side; 0 for all but shifted copies."""
        if self.copies is None:
            return 0
        return self.copies.reach

    @property
    def weight_shape(self) -> tuple[int, ...]:
        if self.copies is None:
            return self.shape
        return self.copies.weight_shape

    @property
    def plain(self) -> bool:
        """True for signs, float scales and aligned copies: the forms that the kernels take."""
        is_signs = self.code == "sign"
        has_float_scales = not self.exponents and not self.offsets
        is_aligned = self.kind == "aligned"
        return is_signs and has_float_scales and is_aligned

    @property
    def has_shared_products(self) -> bool:
        """Whether a layer can compute the products of its input with the tile once for all copies.

        True for signs in copies that are hadamard or shifted, with a scale for each or for all, or
        in columns, with scales of whole rows (layers/mixed_copies.py).
        """
        if self.code != "sign" or self.offsets:
            return False
        if self.kind == "columns":
            rows = self.shape[0]
            k = max(1, self.scales)
            return rows % k == 0
        mixes_copies = self.kind in ("hadamard", "shifted")
        scale_per_copy = self.scales in (0, 1, self.p)
        return mixes_copies and scale_per_copy

    @property
    def product(self) -> "Form":
        """The form of the weight that a layer's input meets.

        Of columns copies it is the tile itself, after the input was summed in groups of p. For
        every other kind, and where a layer cannot reuse the tile, it is this form.
        """
        copies = self.copies
        if copies is None or copies.kind != "columns":
            return self
        if not self.has_shared_products:
            return self
        return replace(self, shape=copies.tile_shape, p=1, copies=None)

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Tensor name -> its bits, before the padding to whole bytes."""
        scale_bits = 8 if self.exponents else 32
        found = {
            "tile": self._tile_size,
            "alphas": scale_bits * self.scales,
        }
        if self.code == "codebook":
            found["codebook"] = KERNEL << self.index_bits
        if self.offsets:
            found["offsets"] = 32 * self.scales
        return found

    @property
    def _tile_size(self) -> int:
        """Bits of the stored values."""
        if self.code == "low_rank":
            return sum(self.factor_sizes)
        if self.code == "ternary":
            num_bytes = -(-self.q // TRITS)
            return 8 * num_bytes
        if self.code == "codebook":
            kernels = self.numel // KERNEL
            return kernels * self.index_bits
        return self.q

    @property
    def nbytes(self) -> int:
        sizes = self.sizes.values()
        return sum(map(bits.packed_bytes, sizes))

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
            length = bits.packed_bytes(size)
            if name in scaling:
                length = self.scales
            found[name] = length
        return found

    @property
    def dense_bytes(self) -> int:
        """Of the float32 weight, in weight_shape."""
        return 4 * prod(self.weight_shape)

    def check(self, tensors: dict[str, NDArray[Any]]) -> str:
        """The fault in the types and shapes of a weight's tensors, or ''."""
        types = self.types
        for name, length in self.lengths.items():
            found = tensors.get(name)
            if found is None:
                return f"its {name} is missing"
            wanted = types[name]
            shape = (length,)
            if found.dtype != wanted or found.shape != shape:
                got = f"{found.dtype} {found.shape}"
                return f"its {name} is {got}, expected {wanted} {shape}"
        return ""

    def check_values(self, tensors: dict[str, NDArray[Any]]) -> str:
        """Why tensors of the right types and shapes hold what no method stores, or ''."""
        for name in ("alphas", "offsets"):
            if name not in self.sizes:
                continue
            finite = np.isfinite(tensors[name])
            if not finite.all():
                return f"its {name} are not finite"
        if self.code == "ternary":
            return coding.trit_fault(tensors["tile"], self.q)
        for name in ("tile", "codebook"):
            size = self.sizes.get(name, 0)
            used = size % 8
            if not used:
                continue
            last = tensors[name][-1]
            if last >> used:
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
        data = tensors["tile"]
        if self.code == "sign":
            stored = bits.unpack(data, self.q)
        elif self.code == "ternary":
            stored = coding.unpack_trits(data, self.q)
        else:
            stored = self._codebook_values(data, tensors["codebook"])
        copies = self.copies or Copies(self.shape, self.p)
        laid_out = copies.lay_out(stored)
        return laid_out.reshape(-1)

    def _codebook_values(
        self, data: NDArray[np.uint8], codebook: NDArray[np.uint8]
    ) -> NDArray[np.int8]:
        """The codebook entries that the indices in `data` name: (N,)."""
        kernels = self.numel // KERNEL
        indices = coding.unpack_indices(data, kernels, self.index_bits)
        signs = bits.unpack(codebook, KERNEL << self.index_bits)
        entries = signs.reshape(-1, KERNEL)
        values = entries[indices]
        return values.reshape(-1)

    def factors(
        self, tensors: dict[str, NDArray[Any]]
    ) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
        """Of code low_rank: signs U: (rows, rank) and V: (rank, *shape[1:])."""
        first, second = self.factor_sizes
        signs = bits.unpack(tensors["tile"], first + second)
        left = signs[:first]
        right = signs[first:]
        rows, *others = self.shape
        return left.reshape(rows, self.rank), right.reshape(self.rank, *others)

    def _product(self, tensors: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """The dense weight of code low_rank.

        A sum of float32 values is exact in float64 in any order, unless the m differ by more than
        about 2^20. Every reader therefore gets the same bits.
        """
        left, right = self.factors(tensors)
        rows, channels, *_ = self.shape
        scales = tensors["alphas"].astype(np.float64)
        end_of_u = rows
        end_of_m = rows + self.rank
        u, m, v = np.split(scales, [end_of_u, end_of_m])
        columns = right.reshape(self.rank, -1)
        mixed = (left * m) @ columns
        scaled_rows = u[:, None] * mixed
        by_channel = scaled_rows.reshape(rows, channels, -1)
        weight = by_channel * v[:, None]
        rounded = weight.astype(np.float32)
        return rounded.reshape(self.shape)

    def float_scales(self, alphas: NDArray[Any]) -> NDArray[np.float32]:
        if not self.exponents:
            return alphas
        return np.ldexp(np.float32(1), alphas.astype(np.int32))  # exact, which exp2 need not be

    def dense(self, tensors: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """The float32 weight, in weight_shape."""
        out = self.unmoved(tensors)
        if self.copies is None:
            return out
        return self.copies.enlarged(out)

    def unmoved(self, tensors: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """The float32 weight, in shape: shifted copies where they are before they are moved."""
        if self.code == "low_rank":
            return self._product(tensors)
        values = self.values(tensors).astype(np.float32)
        num_runs = max(1, self.scales)
        runs = values.reshape(num_runs, -1)
        if self.scales:
            scales = self.float_scales(tensors["alphas"])
            runs = runs * scales[:, None]
        if self.offsets:
            offsets = tensors["offsets"]
            runs = runs + offsets[:, None]
        return runs.reshape(self.shape)
