"""Faults in a stored network: bits of weights, whole weights, bits of scales. numpy alone.

A fault flips a value with a given probability (the rate), independently of all others:

    bits      each stored bit of the binary weights. A bit of a tile is p weights, so a rate r makes
              a share r of the weights wrong for every p, in groups of p. In a network without
              binary weights: each bit of its float32 weights.
    weights   the sign of each weight after the tile was laid out: as many wrong weights, no groups.
    scales    each bit of the scales (and offsets) of the binary weights.

Batch normalisation, biases and the weights that are kept in full precision have no faults.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbn_bench.format.coding import TRITS
from tbn_bench.format.form import Form
from tbn_bench.format.packed_file import Artifact
from tbn_bench.robustness.hamming import Hamming

KINDS = ("bits", "weights", "scales")
_SCALING = ("alphas", "offsets")


@dataclass(frozen=True)
class Faulty:
    """A network with faults, and how many values were flipped."""

    content: Artifact
    flips: int


@dataclass(frozen=True)
class Stored:
    """A network as it is stored. floats: names of its float32 weights, if it has no binary ones."""

    content: Artifact
    floats: tuple[str, ...] = ()

    def sizes(self, kind: str) -> dict[str, int]:
        """Tensor -> the bits that faults of a kind (bits, scales) can flip."""
        found = {}
        for weight in self.content.weights.values():
            for part, size in weight.form.sizes.items():
                is_scaling = part in _SCALING
                if size and is_scaling == (kind == "scales"):
                    found[weight.names[part]] = size
        if kind == "bits":
            for name in self.floats:
                found[name] = 8 * self.content.tensors[name].nbytes
        return found

    def check_bits(self, code: Hamming) -> int:
        """Bits that a code adds to the bits of weights."""
        return sum(code.added(size) for size in self.sizes("bits").values())

    @cached_property
    def dense(self) -> dict[str, NDArray[np.float32]]:
        """Every weight that may be wrong, as float32."""
        own = {name: self.content.tensors[name] for name in self.floats}
        return own | self.content.unmoved()

    def faulty(
        self, kind: str, rate: float, rng: np.random.Generator, code: Hamming | None = None
    ) -> Faulty:
        """One draw. code: it protects the bits of weights, and its check bits have faults too."""
        if kind == "weights":
            return self._with_wrong_weights(rate, rng)
        tensors = dict(self.content.tensors)
        flips = 0
        for name, size in self.sizes(kind).items():
            if code is None:
                at = _positions(size, rate, rng)
                tensors[name] = _flipped(tensors[name], at)
                flips += len(at)
            else:
                tensors[name], count = _protected(tensors[name], size, rate, rng, code)
                flips += count
        for weight in self.content.weights.values():
            if weight.form.code == "ternary":
                tensors[weight.tile] = _readable_trits(tensors[weight.tile], weight.form)
        return Faulty(dataclasses.replace(self.content, tensors=tensors), flips)

    def _with_wrong_weights(self, rate: float, rng: np.random.Generator) -> Faulty:
        """Raises ValueError for shifted copies, whose kernel is larger than the weight."""
        flips = 0
        wrong = {}
        for name, dense in self.dense.items():
            at = _positions(dense.size, rate, rng)
            flat = dense.reshape(-1).copy()
            flat[at] *= -1
            wrong[name] = flat.reshape(dense.shape)
            flips += len(at)
        return Faulty(unrolled(self.content, wrong), flips)


def unrolled(content: Artifact, dense: dict[str, NDArray[np.float32]]) -> Artifact:
    """The network with these float32 weights in the place of its binary ones.

    Raises ValueError for shifted copies, whose kernel is larger than the weight.
    """
    gone: set[str] = set()
    for name, weight in content.weights.items():
        if weight.form.reach:
            raise ValueError(f"{name} has shifted copies, whose weights cannot be unrolled")
        gone.update(weight.names.values())
    tensors = {name: value for name, value in content.tensors.items() if name not in gone}
    aliases = {name: target for name, target in content.aliases.items() if target not in gone}
    return dataclasses.replace(content, tensors=tensors | dense, weights={}, aliases=aliases)


def share_of_wrong_signs(
    right: dict[str, NDArray[np.float32]], found: dict[str, NDArray[np.float32]]
) -> float:
    """The share of weights whose sign is not the right one; a NaN has none."""
    wrong = 0
    total = 0
    for name, values in right.items():
        is_wrong = np.sign(values) != np.sign(found[name])
        wrong += int(np.count_nonzero(is_wrong))
        total += values.size
    return wrong / max(1, total)


def _positions(size: int, rate: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """The places among `size` values where a fault is."""
    count = rng.binomial(size, rate)
    return rng.choice(size, count, replace=False, shuffle=False)


def _flipped(values: NDArray[Any], at: Iterable[int]) -> NDArray[Any]:
    """A copy with these bits flipped; bit k is bit k mod 8 of byte k div 8."""
    out = np.array(values)
    places = np.asarray(at)
    data = out.reshape(-1).view(np.uint8)
    masks = (1 << (places % 8)).astype(np.uint8)
    np.bitwise_xor.at(data, places // 8, masks)
    return out


def _protected(
    values: NDArray[Any], size: int, rate: float, rng: np.random.Generator, code: Hamming
) -> tuple[NDArray[Any], int]:
    """(the values as they are read after correction, flipped data and check bits)."""
    out = np.array(values)
    data = out.reshape(-1).view(np.uint8)
    right = np.unpackbits(data, bitorder="little")[:size]
    checks = code.encode(right)
    stored = np.concatenate([right, checks.reshape(-1)])
    at = _positions(stored.size, rate, rng)
    stored[at] ^= 1
    read = code.correct(stored[:size], stored[size:].reshape(checks.shape))
    data[:] = np.packbits(read, bitorder="little")
    return out, len(at)


def _readable_trits(data: NDArray[np.uint8], form: Form) -> NDArray[np.uint8]:
    """A byte that is no five ternary digits is read as the largest one that is."""
    out = np.minimum(data, 3**TRITS - 1).astype(np.uint8)
    digits_of_last = form.q - TRITS * (out.size - 1)
    out[-1] = min(int(out[-1]), 3**digits_of_last - 1)
    return out
