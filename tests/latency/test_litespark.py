"""Guards the litespark-inference peer: what its kernel is given, and the row where it is missing."""

import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

from tbn_bench import convert
from tbn_bench.config import make
from tbn_bench.convert import binarize_, pack_
from tbn_bench.latency import litespark
from tbn_bench.latency.peers import Setting

SPEC = "tbn(p=2, min_layer_size=0)"


def row(batch: int):
    """The peer's variant of a packed layer of 8 x 6 weights, and its input."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 6))
    binarize_(network, SPEC)
    reference = convert.dense(network)
    pack_(network)
    x = torch.randn(batch, 8)
    setting = Setting(make({"binarizer": SPEC}), x, 1, x, {})
    return litespark.variant(network, reference, setting), x


def quantized(x, out):
    """As its kernel: the largest magnitude becomes 127. Returns the step."""
    step = np.abs(x).max() / 127
    out[:] = np.round(x / step)
    return step


def batched(x, out, steps):
    for i, one in enumerate(x):
        steps[i] = quantized(one, out[i])


@pytest.mark.parametrize("batch", [1, 65])
def test_a_tile_is_multiplied_once_and_scaled(batch, monkeypatch):
    """With a stand-in for its kernels the outputs are those of the layer, to 8-bit inputs."""
    kernel = types.SimpleNamespace(
        quantize_activation=quantized,
        quantize_activation_batched=batched,
        matmul_packed_m1=lambda x, w, scale, step: (w @ x) * np.float32(scale * step),
        matmul_packed_mT=lambda x, steps, w, scale: (x @ w.T) * (scale * steps)[:, None],
    )
    pack = types.SimpleNamespace(pack_ternary_4_per_byte=lambda signs: signs.astype(np.float32))
    module = types.SimpleNamespace(kernel=kernel, pack=pack)
    monkeypatch.setitem(sys.modules, "litespark_inference", types.ModuleType("litespark_inference"))
    monkeypatch.setitem(sys.modules, "litespark_inference.torchless", module)
    variant, x = row(batch)
    expected = variant.reference(x)
    assert (variant.call(x) - expected).abs().max() <= 1e-2 * expected.abs().max()


def test_without_it_the_row_says_so(monkeypatch):
    """A peer that is not installed is a row with the reason."""
    monkeypatch.setitem(sys.modules, "litespark_inference", None)
    variant, _ = row(1)
    assert "litespark_inference" in variant.unavailable
