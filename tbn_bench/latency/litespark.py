"""litespark-inference, a library for ternary language models, as a peer of single linear layers.

Its AVX-512 kernel multiplies weights of 2 bits by inputs that are rounded to 8 bits. Signs are
exact in it. A tile is multiplied once, as in ours; rows are scaled and copied afterwards. It is in
no extra, because it brings Hugging Face's libraries; `pip install litespark-inference` adds it.
"""

import functools

import numpy as np
import torch
from torch import Tensor, nn

from tbn_bench.kernels import stored_tile
from tbn_bench.latency.gate import Variant
from tbn_bench.latency.peers import INT8_TOLERANCE, Call, Maker, Setting, peer
from tbn_bench.layers.packed import PackedLinear

_AT_ONCE = 64  # inputs that its batched kernel takes


def variant(network: nn.Sequential, reference: nn.Module, setting: Setting) -> Variant:
    """The packed layer in `network` by litespark, or the row that says why not."""
    (layer,) = network
    assert isinstance(layer, PackedLinear)
    read = layer.numel // layer.p // 4
    build = functools.partial(_call, layer)
    maker = Maker("litespark-inference", build, read, INT8_TOLERANCE, foreign=True)
    return peer(setting.config.binarizer, maker, reference, setting.run_id)


def _call(layer: PackedLinear) -> Call:
    """x: (B, K) -> (B, rows). Raises ImportError where litespark-inference is not installed."""
    from litespark_inference.torchless import kernel, pack

    rows, columns = layer.shape
    if rows % layer.p or columns % 4:
        raise ValueError("needs whole rows in a tile, and a multiple of 4 inputs")

    signs = stored_tile.unpack(layer.tile_bits, layer.numel // layer.p)
    matrix = signs.reshape(-1, columns).numpy().astype(np.int8)
    codes = pack.pack_ternary_4_per_byte(matrix)
    scales = stored_tile.row_scales(layer.alphas, rows).reshape(layer.p, -1)
    bias = layer.bias

    def products(x: np.ndarray) -> np.ndarray:
        rounded = np.empty(x.shape, np.int8)
        if len(x) == 1:
            step = kernel.quantize_activation(x[0], rounded[0])
            one: np.ndarray = kernel.matmul_packed_m1(rounded[0], codes, 1.0, step)
            return one[None]

        steps = np.empty(len(x), np.float32)
        kernel.quantize_activation_batched(x, rounded, steps)
        many: np.ndarray = kernel.matmul_packed_mT(rounded, steps, codes, 1.0)
        return many

    def run(batch: Tensor) -> Tensor:
        parts = [products(part.numpy()) for part in batch.split(_AT_ONCE)]
        found = torch.from_numpy(parts[0] if len(parts) == 1 else np.concatenate(parts))
        out = found.unsqueeze(1) * scales
        y = out.flatten(1)
        return y if bias is None else y + bias

    return run
