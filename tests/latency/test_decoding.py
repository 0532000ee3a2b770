"""A language model token by token: every way gives the logits of the whole forward pass."""

import copy

import pytest
import torch

from tbn_bench import catalog, convert
from tbn_bench.convert import binarize
from tbn_bench.latency import decoding
from tbn_bench.latency.gate import relative_error

CONTEXT = 6


@pytest.fixture(scope="module")
def packed():
    torch.manual_seed(0)
    call = "gpt(dim=16, depth=2, heads=2)"
    model = catalog.build("models", call, num_classes=11, in_shape=(CONTEXT,))
    binarize.binarize_(model, "tbn(p=4, min_layer_size=0)")
    convert.pack_(model)
    return model.eval()


def error(call, model):
    x = torch.tensor([[3, 1, 4, 1, 5, 9]])
    with torch.no_grad():
        exact = copy.deepcopy(decoding.dense(model)).double()(x)
        return relative_error(call(x), exact)


def test_the_cache_gives_what_the_forward_pass_gives(packed):
    assert error(decoding.by_cache(packed), packed) < 1e-5
    assert error(decoding.by_forward(packed), packed) < 1e-5


def test_the_native_kernels_give_it_too(packed):
    kernels = copy.deepcopy(packed)
    convert.implement_(kernels)
    assert error(decoding.by_cache(kernels), packed) < 1e-5


def test_the_step_with_a_fixed_cache_gives_it_too(packed):
    """torch.compile and ONNX Runtime get this step; here it runs in torch."""
    step = decoding.Step(decoding.dense(packed))
    assert error(decoding._by_step(step, step), packed) < 1e-5


def test_onnx_runtime_gives_it_too(packed):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    assert error(decoding._onnx(decoding.dense(packed), 1), packed) < 1e-5
