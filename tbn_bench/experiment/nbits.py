"""Packed linear layers as MatMulNBits, ONNX Runtime's product with weights of 2 or 4 bits.

MatMulNBits stores codes, in blocks of a row that share a scale. Its weight is (code - 2) * scale
for 2 bits and (code - 8) * scale for 4 bits. So a sign is exact as code 1 or 3, and as 7 or 9.
Source of the layout: the operator's page in ONNX Runtime's docs/ContribOperators.md.

With 2 bits, ONNX Runtime is fast only if it also rounds the inputs to 8 bits, block by block
(accuracy_level=4). With 4 bits it computes in float32. A tile is multiplied once; its p copies are
written afterwards.
"""

import copy
import math

import torch
from torch import Tensor, nn

from tbn_bench.format import bits as bit_format
from tbn_bench.kernels import stored_tile
from tbn_bench.kernels.tiled_linear.torch import copies
from tbn_bench.layers import mixed_copies, packed

WEIGHTS = ("bits", "4bit", "2bit")  # how a graph stores the signs of linear layers
TOLERANCE = 5e-2  # of 2bit, whose inputs are rounded to 8 bits
_LARGEST_BLOCK = 128  # ONNX Runtime 1.31 has no fast code for larger blocks of 2 bits
_SMALLEST_BLOCK = 16
_LEVELS = {2: 4, 4: 1}  # bits -> accuracy_level; 4 rounds inputs to 8 bits, 1 is float32


class NothingToCode(ValueError):
    """No layer of the network can be a MatMulNBits."""


class CodedLinear(nn.Module):
    """A packed linear layer whose tile is codes. x: (..., in_features) -> (..., out_features).

    For torch.onnx.export alone: torch itself has no MatMulNBits, and gives zeros.
    """

    codes: Tensor
    code_scales: Tensor
    copy_scales: Tensor

    def __init__(self, layer: packed.PackedLinear, code_bits: int):
        """Raises ValueError for a layer whose weight is not signs with a scale per row."""
        super().__init__()
        signs, scales, p = _tile(layer)
        rows, self.columns = signs.shape
        self.code_bits = code_bits
        self.summed = layer.summed
        self.bias = layer.bias
        codes = _codes(signs, code_bits)
        self.register_buffer("codes", codes)
        self.register_buffer("code_scales", torch.ones(codes.shape[:2]))
        self.register_buffer("copy_scales", scales.reshape(p, rows))

    def forward(self, x: Tensor) -> Tensor:
        if self.summed > 1:
            x = mixed_copies.group_sums(x, self.summed, -1)
        rows, _, size = self.codes.shape
        products = torch.onnx.ops.symbolic(
            "com.microsoft::MatMulNBits",
            (x, self.codes, self.code_scales),
            {
                "K": self.columns,
                "N": rows,
                "bits": self.code_bits,
                "block_size": size * 8 // self.code_bits,
                "accuracy_level": _LEVELS[self.code_bits],
            },
            dtype=x.dtype,
            shape=(*x.shape[:-1], rows),
            version=1,
        )
        return copies(products, self.copy_scales, self.bias, -1)


def encode_(model: nn.Module, weights: str) -> list[str]:
    """Makes the packed linear layers of a network CodedLinear, where they can be. In place.

    weights: "2bit" or "4bit". Returns their names. Raises NothingToCode where there is none.
    """
    code_bits = {"2bit": 2, "4bit": 4}[weights]
    coded = []
    for name, layer in list(model.named_modules()):
        if not isinstance(layer, packed.PackedLinear) or layer.input_binarizer is not None:
            continue
        try:
            replacement = CodedLinear(layer, code_bits)
        except ValueError:
            continue  # it unpacks its bits in the graph, as with weights="bits"
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, replacement)
        coded.append(name)
    if not coded:
        raise NothingToCode(
            f"weights={weights!r} is for packed linear layers whose weight is signs with a scale "
            "per row; this network has none"
        )
    return coded


def check_mostly_linear(model: nn.Module) -> None:
    """Raises NothingToCode where most packed weights are in layers that MatMulNBits cannot take."""
    linear, others = 0, 0
    for layer in model.modules():
        if isinstance(layer, packed.PackedLinear):
            linear += layer.numel
        elif isinstance(layer, packed.Packed):
            others += layer.numel
    if linear <= others:
        raise NothingToCode(
            f"MatMulNBits takes linear layers; {others:,} of {linear + others:,} packed weights "
            "are in convolutions"
        )


def coded_bytes(model: nn.Module, weights: str) -> int:
    """Bytes of codes and scales that one forward pass reads; 0 where no layer can be coded."""
    own = copy.deepcopy(model)
    try:
        encode_(own, weights)
    except NothingToCode:
        return 0
    total = 0
    for layer in own.modules():
        if isinstance(layer, CodedLinear):
            total += layer.codes.nbytes + layer.code_scales.nbytes + layer.copy_scales.nbytes
    return total


def _tile(layer: packed.PackedLinear) -> tuple[Tensor, Tensor, int]:
    """((R, K) of +-1, scale per output row, copies). Raises ValueError where there is none."""
    found = layer.sign_form()
    if found is None:
        raise ValueError("the weight is not signs")
    tile_bits, alphas, p = found
    shape = layer.product.shape
    held, number, scales = stored_tile.whole_rows(tile_bits, alphas, shape, p)
    rows = shape[0] // number
    signs = bit_format.unpack(held.numpy(), rows * shape[1])
    return torch.from_numpy(signs).reshape(rows, shape[1]), scales, number


def _codes(signs: Tensor, code_bits: int) -> Tensor:
    """(R, K) of +-1 -> (R, blocks, bytes of a block) uint8, lowest bits first."""
    rows, columns = signs.shape
    block = _block(columns)
    blocks = math.ceil(columns / block)
    zero = 2 ** (code_bits - 1)
    codes = torch.full((rows, blocks * block), zero, dtype=torch.uint8)
    codes[:, :columns] = (signs + zero).to(torch.uint8)
    per_byte = 8 // code_bits
    parts = codes.reshape(rows, blocks, block // per_byte, per_byte)
    packed_codes = torch.zeros(parts.shape[:3], dtype=torch.uint8)
    for i in range(per_byte):
        packed_codes |= parts[..., i] << (code_bits * i)
    return packed_codes


def _block(columns: int) -> int:
    """The largest block that divides a row, or the smallest block that holds a short row."""
    block = _LARGEST_BLOCK
    while block > _SMALLEST_BLOCK and columns % block:
        block //= 2
    return block
