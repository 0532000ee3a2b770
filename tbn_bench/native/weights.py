"""Weights laid out for one level: signs, float32 values, kernels of one channel each."""

import weakref
from typing import Any

import numpy as np

from tbn_bench.native.levels import index_of, level
from tbn_bench.native.library import load


class Weights:
    def __init__(
        self,
        kind: int,
        rows: int,
        channels: int,
        kh: int,
        kw: int,
        bits: Any,
        dense: Any,
        name: str | None,
    ):
        self.level = level(name)
        self.rows = rows
        self.channels = channels
        self.kernel = (kh, kw)
        self.handle = load().tbn_prepare(
            index_of(self.level),
            kind,
            rows,
            channels,
            kh,
            kw,
            _address(bits),
            _address(dense),
        )
        if not self.handle:
            raise MemoryError(f"no memory for weights of {rows} x {channels} x {kh} x {kw}")
        weakref.finalize(self, load().tbn_free, self.handle)

    @property
    def nbytes(self) -> int:
        """Bytes this level keeps of the weights."""
        return int(load().tbn_weight_bytes(self.handle))


def _address(array: np.ndarray | None) -> int | None:
    return None if array is None else array.ctypes.data


class SignWeights(Weights):
    """+-1 weights of shape (rows, channels, kh, kw), laid out for one level.

    From packed bits, in the order of bits.py.
    """

    def __init__(
        self,
        bits: np.ndarray,
        rows: int,
        channels: int,
        kh: int = 1,
        kw: int = 1,
        name: str | None = None,
    ):
        wanted = (rows * channels * kh * kw + 7) // 8
        if bits.dtype != np.uint8 or bits.shape != (wanted,):
            raise ValueError(
                f"expected uint8 bits of shape ({wanted},), got {bits.dtype} {bits.shape}"
            )
        packed = np.ascontiguousarray(bits)
        super().__init__(0, rows, channels, kh, kw, packed, None, name)


class FloatWeights(Weights):
    """float32 weights of shape (rows, channels, kh, kw), laid out for one level."""

    def __init__(self, weight: np.ndarray, name: str | None = None):
        if weight.ndim != 4:
            raise ValueError(
                f"expected weights of shape (rows, channels, kh, kw), got {weight.shape}"
            )
        rows, channels, kh, kw = weight.shape
        dense = np.ascontiguousarray(weight, np.float32)
        super().__init__(1, rows, channels, kh, kw, None, dense, name)


class DepthwiseWeights(Weights):
    """float32 kernels of shape (channels, 1, kh, kw), one per channel, laid out for one level."""

    def __init__(self, weight: np.ndarray, name: str | None = None):
        if weight.ndim != 4 or weight.shape[1] != 1:
            raise ValueError(f"expected kernels of shape (channels, 1, kh, kw), got {weight.shape}")
        channels, _, kh, kw = weight.shape
        dense = np.ascontiguousarray(weight, np.float32)
        super().__init__(2, channels, channels, kh, kw, None, dense, name)
