"""Exported C libraries: the C code, its emulation and torch against one another, and the faults that the self-test must find."""

import ctypes
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from tbn_bench import catalog, convert
from tbn_bench.compiler import names
from tbn_bench.compiler.graph import Activation
from tbn_bench.compiler.rules.activations import rule_of_activation
from tbn_bench.convert import binarize
from tbn_bench.mcu import bundle, check, emit, emulate, export, layout, table
from tbn_bench.mcu.graph import McuError
from tbn_bench.records.store import McuRecord

HERE = Path(__file__).parent
GOLDEN = HERE / "golden" / "mcu_layout_1.json"
STRICT = ("-std=c99", "-O2", "-Wall", "-Wextra", "-Wconversion", "-Wpedantic", "-Werror")
TILED = "tbn(p=4, min_layer_size=0)"

needs_cc = pytest.mark.skipif(
    check.compiler() is None, reason="no C compiler here; run: apt-get install gcc"
)


# Layout


@pytest.mark.parametrize("form", layout.LAYOUTS)
@given(data=st.data(), segment=st.integers(1, 100), segments=st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_a_packed_tile_unpacks(form, data, segment, segments):
    bits = data.draw(
        st.lists(st.booleans(), min_size=segment * segments, max_size=segment * segments)
    )
    signs = np.where(bits, 1, -1)
    words = layout.pack(signs, segment, form)
    assert words.shape == (segments * layout.words(segment),)
    assert (layout.unpack(words, len(signs), segment, form) == signs).all()


def test_the_layouts_are_what_their_text_says():
    """Word by word, from the definition: one set bit at a time."""
    segment, segments = 40, 6
    for i in range(segment * segments):
        signs = -np.ones(segment * segments)
        signs[i] = 1
        s, at = divmod(i, segment)
        word, inside = divmod(at, 32)
        nat = np.zeros(12, np.uint32)
        nat[2 * s + word] = 1 << inside
        lane = np.zeros(12, np.uint32)
        lane[(4 * word + s) if s < 4 else 2 * s + word] = 1 << (8 * (inside % 4) + 7 - inside // 4)
        assert (layout.pack(signs, segment, "nat") == nat).all()
        assert (layout.pack(signs, segment, "lane4") == lane).all()


def test_the_golden_file_is_read_and_written_as_ever():
    """A change of layout needs a new version: firmware in the field has the old tables."""
    golden = json.loads(GOLDEN.read_text())
    assert golden["version"] == layout.VERSION
    for case in golden["cases"]:
        signs = np.array([1 if c == "+" else -1 for c in case["signs"]])
        words = layout.pack(signs, case["segment"], case["layout"])
        assert [f"{w:08x}" for w in words] == case["words"]
        assert (layout.unpack(words, len(signs), case["segment"], case["layout"]) == signs).all()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: layout.pack(np.ones(10), 3, "nat"), "segments of 3 do not divide a tile of 10"),
        (lambda: layout.pack(np.ones(10), 5, "lane5"), "layout must be one of nat, lane4"),
        (lambda: layout.pack(np.array([1, 0]), 2, "nat"), "only \\+1 and -1"),
        (
            lambda: layout.unpack(np.zeros(3, np.uint32), 64, 32, "nat"),
            "expected uint32 of shape \\(2,\\)",
        ),
        (
            lambda: layout.unpack(np.array([1 << 31], np.uint32), 31, 31, "nat"),
            "padding bits of a segment must be clear",
        ),
    ],
)
def test_layout_errors(call, said):
    with pytest.raises(ValueError, match=said):
        call()


# Networks


def _unaligned():
    """Rows that tiles do not divide, convolutions with dilation, pools with padding, a map flattened in another order."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.MaxPool2d(3, 2, 1), nn.ReLU(), nn.Conv2d(8, 10, 3, 1, 1, dilation=2),
        nn.BatchNorm2d(10), nn.ReLU(), nn.Conv2d(10, 12, 1), nn.AvgPool2d(2, 1), nn.Flatten(), nn.Linear(48, 8),
    )  # fmt: skip


def _depthwise():
    return nn.Sequential(
        nn.Conv2d(3, 10, 3, 2, 1), nn.BatchNorm2d(10), nn.ReLU(), nn.Conv2d(10, 10, 3, 1, 1, groups=10), nn.ReLU(),
        nn.Conv2d(10, 12, 1), nn.MaxPool2d(2, ceil_mode=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 7),
    )  # fmt: skip


def _ends_in_a_pool():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def _one_dimension():
    return nn.Sequential(
        nn.Conv1d(4, 8, 3, 2, 1),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.Flatten(),
        nn.Linear(40, 5),
    )


def _model(call):
    return lambda shape: catalog.build("models", call, num_classes=10, in_shape=shape)


NETWORKS = {
    "mlp": (_model("mlp(hidden=[128], bias=False)"), (1, 28, 28), TILED),
    "mlp, 3 channels": (_model("mlp(hidden=[33])"), (3, 8, 8), TILED.replace("4", "3")),
    "mlp, full precision": (_model("mlp(hidden=[33])"), (3, 8, 8), None),
    "mlp, one scale": (
        _model("mlp(hidden=[40])"),
        (1, 8, 8),
        "tbn(p=8, min_layer_size=0, alpha='layer')",
    ),
    "mlp, short tiles": (_model("mlp(hidden=[32])"), (1, 6, 6), "tbn(p=64, min_layer_size=0)"),
    "mlp, ternary": (_model("mlp(hidden=[32])"), (1, 6, 6), "twn"),
    "mlp, two factors": (
        _model("mlp(hidden=[32])"),
        (1, 6, 6),
        "low_rank(rank=3, min_layer_size=0)",
    ),
    "mlp, permuted copies": (
        _model("mlp(hidden=[32])"),
        (1, 6, 6),
        "tbn(p=4, min_layer_size=0, copies='permuted')",
    ),
    "mlp, columns": (
        _model("mlp(hidden=[32])"),
        (1, 6, 6),
        "tbn(p=4, min_layer_size=0, copies='columns')",
    ),
    "vgg": (_model("vgg_small(width=8)"), (3, 16, 16), TILED),
    "vgg, binary": (_model("vgg_small(width=8)"), (3, 16, 16), "bwn"),
    "resnet": (_model("resnet_cifar(depth=8, width=4)"), (3, 12, 12), TILED),
    "micro_cnn": (_model("micro_cnn(channels=[8, 12])"), (1, 14, 14), TILED),
    "unaligned": (lambda _: _unaligned(), (3, 18, 18), TILED),
    "depthwise": (lambda _: _depthwise(), (3, 17, 17), None),
    "pool at the end": (lambda _: _ends_in_a_pool(), (3, 9, 9), TILED),
    "one dimension": (lambda _: _one_dimension(), (4, 20), TILED),
}
KINDS = [("u8", "generic"), ("u8", "m4"), ("f32", "generic")]


def network(name):
    make, shape, spec = NETWORKS[name]
    model = make(shape)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, -0.5, 2)
            nn.init.normal_(module.bias)
    if spec:
        binarize.binarize_(model, spec)
    return model.eval(), torch.rand(40, *shape) - (0.3 if len(shape) == 3 and shape[0] > 1 else 0)


def compiled(name, activations="u8", target="m4"):
    model, x = network(name)
    prog = export.compile_(model, x, activations, target)
    return model, prog, x, export.quantised(prog, None, x)


@pytest.fixture
def folder(tmp_path):
    """Writes a program as folder `net` and loads it, with bytes behind the arena that nothing may touch."""

    def make(prog, u, target="m4", flags=check._FLAGS):
        bundle.write(
            tmp_path / "net",
            "net",
            prog,
            target,
            u[:2],
            {"activations": prog.activations, "arena_bytes": prog.arena_bytes},
        )
        return check.Library(tmp_path / "net", "net", prog, flags)

    return make


@needs_cc
@pytest.mark.parametrize(("activations", "target"), KINDS)
@pytest.mark.parametrize("name", NETWORKS)
def test_c_equals_emulation_and_torch(name, activations, target, folder):
    """Bit for bit the emulation; torch within float rounding, or within the error of 8-bit activations."""
    model, prog, x, u = compiled(name, activations, target)
    library = folder(prog, u, target)
    assert library.selftest() == 0
    found = library.run(u)
    assert np.array_equal(found, emulate.run(prog, u))
    with torch.no_grad():
        expected = convert.dense(model)(x).numpy()
    error = np.abs(found * prog.output_scale - expected).max() / np.abs(expected).max()
    assert error < (1e-5 if activations == "f32" else 0.06)


# Activation functions


def _with_function(function):
    """Layers with this function behind each, also behind a pool and behind a flatten."""
    parts = [
        nn.Conv2d(3, 8, 3),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3),
        nn.Flatten(),
        nn.Linear(72, 8),
    ]
    model = nn.Sequential()
    for part in parts:
        model.extend([part, function])
    model.append(nn.Linear(8, 5))
    return model.eval()


def _compiled_function(function, activations="u8"):
    model, x = _with_function(function), torch.randn(40, 3, 12, 12)
    with torch.no_grad():
        expected = model(x).numpy()
    prog = export.compile_(model, x, activations, "m4")
    u = export.quantised(prog, None, x)
    return expected, prog, u


def _furthest(prog, u, expected):
    found = emulate.run(prog, u) * prog.output_scale
    return np.abs(found - expected).max() / np.abs(expected).max()


@needs_cc
@pytest.mark.parametrize(
    "function",
    [nn.GELU(), nn.ReLU6(inplace=True), nn.Hardtanh(-0.3, 0.4)],
    ids=["gelu", "relu6", "hardtanh"],
)
def test_a_function_is_a_table_of_bytes(function, folder):
    """In C as in the emulation, bit for bit; as in torch within the error of 8-bit activations."""
    expected, prog, u = _compiled_function(function)
    library = folder(prog, u)
    assert library.selftest() == 0
    assert np.array_equal(library.run(u), emulate.run(prog, u))
    tables = [op for op in prog.ops if op.row == "tbn_lookup_u8"]
    assert [len(op.weights) for op in tables] == [64] * 5
    assert _furthest(prog, u, expected) < 0.06


def _add(monkeypatch, formula):
    """The row that SiLU would have in the table of activation functions, for one test."""
    options = {"inplace": False}
    row = Activation("silu", (nn.SiLU,), formula, options, "SiLU in place")
    monkeypatch.setitem(names.RULES, nn.SiLU, rule_of_activation(row))


def test_a_new_function_takes_one_row(monkeypatch):
    """A row of ACTIVATIONS is all that a microcontroller needs."""
    _add(monkeypatch, lambda x: x * torch.sigmoid(x))
    expected, prog, u = _compiled_function(nn.SiLU())
    assert _furthest(prog, u, expected) < 0.06


def test_a_table_at_the_end_gives_numbers():
    """Outputs are int32 also where the network ends in a function."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.GELU()).eval()
    x = torch.rand(40, 1, 6, 6)
    prog = export.compile_(model, x, "u8", "m4")
    assert [op.node.kind for op in prog.ops] == ["dense", "lookup", "affine"]
    assert _furthest(prog, export.quantised(prog, None, x), model(x).detach().numpy()) < 0.02


class _Scaled(nn.Module):
    """As airbench ends: logits / width."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(36, 8)

    def forward(self, x):
        hidden = self.layer(x.flatten(1)) / 4
        return torch.relu(hidden) * 3


def test_a_product_with_a_number_is_part_of_the_layer():
    x = torch.rand(40, 1, 6, 6)
    model = _Scaled().eval()
    prog = export.compile_(model, x, "u8", "m4")
    assert prog.ops[0].node.kind == "dense"
    assert _furthest(prog, export.quantised(prog, None, x), model(x).detach().numpy()) < 0.02


def test_a_depthwise_network_takes_less_than_four_kilobytes_of_ram():
    """Of maps alone; the kernels take about 400 bytes of stack besides."""
    call = "micro_cnn(channels=[12, 32, 64], depthwise=True)"
    shape = (1, 28, 28)
    model = catalog.build("models", call, num_classes=10, in_shape=shape)
    binarize.binarize_(model, "tbn(p=2, min_layer_size=2000)")
    prog = export.compile_(model.eval(), torch.rand(8, *shape), "u8", "generic")
    assert prog.arena_bytes < 3_600
    assert 4 * len(prog.table) < 4_096


def test_float_programs_have_no_table():
    with pytest.raises(McuError, match="tables of 256 bytes; use --activations u8"):
        _compiled_function(nn.GELU(), activations="f32")


def test_a_function_that_is_not_finite_is_refused(monkeypatch):
    _add(monkeypatch, torch.log)
    with pytest.raises(McuError, match="not finite for inputs from .* bound its input"):
        _compiled_function(nn.SiLU())


def test_a_clamp_in_place_that_others_read_is_refused():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.clamp = nn.Conv2d(2, 6, 3), nn.ReLU6(inplace=True)
            self.last = nn.LazyLinear(5)

        def forward(self, x):
            y = self.conv(x)
            return self.last(torch.flatten(y + self.clamp(y), 1))

    x = torch.rand(4, 2, 6, 6)
    model = Both().eval()
    model(x)
    with pytest.raises(McuError, match="changes in place what other layers read"):
        export.compile_(model, x, "u8", "m4")


class _Graph(nn.Module):
    """conv -> how -> linear: values with several readers, aliases, operations in place."""

    def __init__(self, how):
        super().__init__()
        self.first, self.second, self.how = nn.Conv2d(2, 6, 3), nn.Conv2d(2, 6, 3), how
        self.norm, self.pool, self.dropout, self.relu = (
            nn.BatchNorm2d(6),
            nn.MaxPool2d(2),
            nn.Dropout(),
            nn.ReLU(inplace=True),
        )
        self.mean, self.unused = nn.AvgPool2d(2), nn.Conv2d(6, 3, 1)
        self.last = nn.LazyLinear(5)

    def forward(self, x, mask=None):
        return self.last(torch.flatten(self.how(self, x), 1))


def _in_place_sum(m, x):
    y = m.first(x)
    y += m.second(x)
    return y


GRAPHS = {
    "a ReLU behind dropout, and the value before it": lambda m, x: (
        (y := m.first(x)) + F.relu(m.dropout(y))
    ),
    "a normalisation behind an identity, and the value before it": lambda m, x: (
        (y := m.first(x)) + m.norm(F.dropout(y, training=False))
    ),
    "a pool with ReLU, and a pool of the same layer": lambda m, x: (
        F.relu(m.pool(y := m.first(x))) + m.mean(y)
    ),
    "a pool with normalisation, and a pool of the same layer": lambda m, x: (
        m.norm(m.pool(y := m.first(x))) + m.mean(y)
    ),
    "a ReLU that all read": lambda m, x: (y := F.relu(m.first(x))) + m.norm(y),
    "a branch that nothing needs": lambda m, x: (y := m.first(x), m.unused(y))[0],
    "the input in two branches": lambda m, x: m.first(x) + F.relu(m.second(x)),
    "a ReLU in place": lambda m, x: m.relu(m.first(x)),
    "a sum in place": _in_place_sum,
}
REFUSED = {
    "a ReLU in place of what others read": (lambda m, x: (y := m.first(x)) + m.relu(y), "changes in place what other layers read too"),
    "a weighted sum": (lambda m, x: torch.add(m.first(x), m.second(x), alpha=2.0), r"add\(alpha=...\) cannot run"),
    "a partial flatten": (lambda m, x: torch.flatten(m.first(x), 2), "flatten of axes 2 to -1 cannot run"),
    "a sum in place seen under another name": (lambda m, x: (_twice(m, x)), "changes in place what other layers read too"),
    "a network that shows another face while it is traced": (
        lambda m, x: m.first(x) if isinstance(x, torch.fx.Proxy) else m.second(x), "the graph read from the network differs from it",
    ),
}  # fmt: skip


def _twice(m, x):
    b = m.first(x)
    b += m.second(x)
    d = b
    d += m.first(x)
    return d + b


def _graph_model(how):
    model = _Graph(how).eval()
    x = torch.rand(30, 2, 9, 9) - 0.3
    nn.init.uniform_(model.norm.weight, 0.5, 2)
    model.norm.running_mean.normal_()
    model(x[:1])  # LazyLinear takes its shape
    return model, x


@pytest.mark.parametrize("activations", ["u8", "f32"])
@pytest.mark.parametrize("name", GRAPHS)
def test_values_with_several_readers(name, activations):
    """What is folded into a layer must not be seen by the layer's other readers, whatever names they know it by."""
    model, x = _graph_model(GRAPHS[name])
    with torch.no_grad():
        expected = model(x.clone()).numpy()
    prog = export.compile_(model, x.clone(), activations, "m4")
    found = emulate.run(prog, export.quantised(prog, None, x)) * prog.output_scale
    assert np.abs(found - expected).max() / np.abs(expected).max() < (
        1e-5 if activations == "f32" else 0.06
    )


class _AsksForItsShape(nn.Module):
    """torch.fx cannot follow this; torch.export can."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.Linear(54, 5)

    def forward(self, x):
        y = self.norm(self.conv(x)).relu()
        if y.shape[-1] > 4:
            y = F.max_pool2d(y, 2)
        return self.head(y.reshape(y.shape[0], -1))


@pytest.mark.parametrize("activations", ["u8", "f32"])
def test_a_network_that_only_torch_export_can_follow(activations):
    model = _AsksForItsShape().eval()
    model.norm.running_mean.normal_()
    binarize.binarize_(model, "tbn(p=2, min_layer_size=0)")
    x = torch.rand(30, 2, 9, 9) - 0.3
    with torch.no_grad():
        expected = model(x).numpy()
    prog = export.compile_(model, x, activations, "m4")
    found = emulate.run(prog, export.quantised(prog, None, x)) * prog.output_scale
    assert [node.kind for node in prog.graph.nodes] == ["tiled", "max", "tiled"]
    assert np.abs(found - expected).max() / np.abs(expected).max() < (
        1e-5 if activations == "f32" else 0.06
    )


def test_a_refusal_names_the_module_as_the_network_does():
    block = nn.Sequential(nn.Conv2d(8, 8, 1), nn.SiLU())
    model = nn.Sequential(block, nn.Flatten()).eval()
    with pytest.raises(McuError, match=r"^0\.1: SiLU cannot run on a microcontroller yet"):
        export.compile_(model, torch.rand(4, 8, 1, 1), "u8", "m4")


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_another_network_is_refused(name):
    how, said = REFUSED[name]
    model, x = _graph_model(how)
    with pytest.raises(McuError, match=said):
        export.compile_(model, x.clone(), "f32", "generic")


@pytest.mark.parametrize(
    ("pool", "size"),
    [
        (nn.MaxPool2d(2, 2, 1, ceil_mode=True), 7),
        (nn.MaxPool2d(2, 5, ceil_mode=True), 10),
        (nn.MaxPool2d(3, 2, 1, ceil_mode=True), 8),
    ],
)
def test_pools_that_round_up_as_torch_does(pool, size):
    model = nn.Sequential(nn.Conv2d(1, 3, 1), pool, nn.Flatten(), nn.LazyLinear(4)).eval()
    x = torch.rand(20, 1, size, size) - 0.5
    with torch.no_grad():
        expected = model(x).numpy()
    prog = export.compile_(model, x, "f32", "generic")
    assert np.abs(emulate.run(prog, export.quantised(prog, None, x)) - expected).max() < 1e-5


def test_an_empty_row_costs_the_others_nothing():
    """A class whose weights are all 0 has a scale of its own, which must not become the layer's."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 8)).eval()
    with torch.no_grad():
        model[1].weight.mul_(0.05)
        model[1].weight[3] = 0
    x = torch.rand(40, 1, 6, 6)
    prog = export.compile_(model, x, "u8", "m4")
    expected = model(x).detach().numpy()
    found = emulate.run(prog, export.quantised(prog, None, x)) * prog.output_scale
    assert np.abs(found - expected).max() / np.abs(expected).max() < 0.01


def _random_layer(rng, c):
    def two(low, high):
        return tuple(int(v) for v in rng.integers(low, high, 2))

    kind = rng.integers(6)
    if kind == 0:
        return nn.Conv2d(
            c,
            int(rng.integers(1, 9)),
            two(1, 4),
            two(1, 3),
            two(0, 2),
            two(1, 3),
            bias=bool(rng.integers(2)),
        )
    if kind == 1:
        return nn.Conv2d(c, c, 3, int(rng.integers(1, 3)), 1, groups=c)
    if kind == 2:
        return nn.MaxPool2d(
            2, int(rng.integers(1, 3)), int(rng.integers(0, 2)), ceil_mode=bool(rng.integers(2))
        )
    return (nn.AvgPool2d(2, 1), nn.BatchNorm2d(c), nn.ReLU())[kind - 3]


def _random_network(seed):
    """(network, shape of its input) of a few random layers."""
    rng = np.random.default_rng(seed)
    channels, height = int(rng.integers(1, 5)), int(rng.integers(6, 13))
    shape = (channels, height, height + int(rng.integers(0, 3)))
    layers, x = [], torch.zeros(2, *shape)
    while len(layers) < 4:
        layer = _random_layer(rng, x.shape[1])
        try:
            y = layer.eval()(x)
        except RuntimeError:
            continue
        if min(y.shape[2:]) < 2:
            break
        x = y
        layers.append(layer)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(x[0].numel(), 5)).eval(), shape


@needs_cc
@pytest.mark.parametrize("seed", range(12))
def test_random_networks_under_sanitizers(tmp_path, seed):
    """Every operation in an arena of exactly its size: nothing is read or written outside, twice the same, and what torch computes."""
    torch.manual_seed(seed)
    model, shape = _random_network(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            nn.init.uniform_(module.weight, -1, 2)
    weights = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    p = next(p for p in (3, 2, 1) if all(w.numel() % p == 0 for w in weights))
    binarize.binarize_(model, f"tbn(p={p}, min_layer_size=0)" if seed % 3 else "bwn")
    activations, target = KINDS[seed % 3]
    x = torch.rand(12, *shape) - 0.3
    prog = export.compile_(model.eval(), x, activations, target)
    u = export.quantised(prog, None, x)
    with torch.no_grad():
        expected = convert.dense(model)(x).numpy()
    error = (
        np.abs(emulate.run(prog, u) * prog.output_scale - expected).max() / np.abs(expected).max()
    )
    assert error < (1e-5 if activations == "f32" else 0.1)
    bundle.write(tmp_path, "net", prog, target, u[:4], {})
    (tmp_path / "main.c").write_text(
        """#include "test/model.h"
#include "test/vectors.h"
#include <stdlib.h>
#include <string.h>
int main(void) {
    void *arena = malloc(MODEL_ARENA_BYTES);
    tbn_ctx c;
    int wrong = net_init(&c, arena, MODEL_ARENA_BYTES) != TBN_OK;
    for (int again = 0; again < 2; again++) {
        wrong |= net_selftest(&c) != TBN_OK;
        for (int i = 0; i < VECTORS; i++) {
            memcpy(net_input(&c), vectors[i], sizeof vectors[i]);
            net_run(&c);
            wrong |= memcmp(net_output(&c), expected[i], sizeof expected[i]) != 0;
        }
    }
    free(arena);
    return wrong;
}
"""
    )
    sources = [tmp_path / "main.c", tmp_path / "src" / "net.c", tmp_path / "src" / "tbn_rt.c"]
    sanitizers = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    command = [
        check.compiler(),
        "-std=c99",
        "-O1",
        *sanitizers,
        f"-I{tmp_path}",
        f"-I{tmp_path / 'src'}",
        *map(str, sources),
        "-o",
        str(tmp_path / "net"),
    ]
    subprocess.run(command, check=True, timeout=60)
    done = subprocess.run([str(tmp_path / "net")], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[:500]


@needs_cc
def test_two_libraries_live_in_one_program(tmp_path):
    """Each brings its own copy of the runtime, as Arduino links them."""
    objects = []
    for name in ("one", "two"):
        _, prog, _, u = compiled("mlp, one scale")
        bundle.write(tmp_path / name, name, prog, "m4", u[:2], {})
        for source in (name, "tbn_rt"):
            objects.append(tmp_path / f"{name}_{source}.o")
            subprocess.run(
                [
                    check.compiler(),
                    *STRICT,
                    "-c",
                    str(tmp_path / name / "src" / f"{source}.c"),
                    "-o",
                    str(objects[-1]),
                ],
                check=True,
                timeout=60,
            )
    main = tmp_path / "main.c"
    main.write_text(
        '#include "one/src/one.h"\n#include "two/src/two.h"\nint main(void) { static uint32_t a[ONE_ARENA_BYTES / 4], b[TWO_ARENA_BYTES / 4];\n'
        "tbn_ctx c, d; return one_init(&c, a, sizeof a) || two_init(&d, b, sizeof b) || one_selftest(&c) || two_selftest(&d)\n"
        "    || one_run(&d) != TBN_E_ARG || two_selftest(&c) != TBN_E_ARG; }\n"
    )
    subprocess.run(
        [check.compiler(), *STRICT, str(main), *map(str, objects), "-o", str(tmp_path / "both")],
        check=True,
        timeout=60,
    )
    assert subprocess.run([str(tmp_path / "both")], timeout=20).returncode == 0


@needs_cc
@pytest.mark.parametrize("place", range(3))
def test_an_operation_that_reads_elsewhere_is_caught(tmp_path, place):
    """Each operation alone is right; the whole is not."""

    def elsewhere(text):
        ops = list(re.finditer(r"(net_windows \+ \d+|0), (\d+)u, (\d+)u, ", text))
        op = ops[place + 1]
        return text[: op.start(2)] + str(int(op.group(2)) + 4) + text[op.end(2) :]

    assert faulty(tmp_path, "micro_cnn", elsewhere) == 5


@needs_cc
@pytest.mark.parametrize(
    "flags", [("-O0",), ("-O3", "-march=native", "-ffp-contract=fast"), ("-Os", "-fno-builtin")]
)
def test_float_results_do_not_depend_on_the_compiler(flags, folder):
    _, prog, _, u = compiled("unaligned", "f32", "generic")
    library = folder(prog, u, "generic", ("-std=gnu99", "-fPIC", "-shared", *flags))
    assert np.array_equal(library.run(u).view(np.uint32), emulate.run(prog, u).view(np.uint32))
    assert library.selftest() == 0


@needs_cc
def test_contexts_do_not_disturb_one_another_nor_write_past_the_arena(folder):
    """Two contexts of one library take turns; each arena is followed by a guard."""
    _, prog, _, u = compiled("micro_cnn")
    library = folder(prog, u)
    calls = library.library
    arenas = [np.full(prog.arena_bytes + 64, 0xA5, np.uint8) for _ in range(2)]
    contexts = [(ctypes.c_uint64 * 4)() for _ in range(2)]
    places = []
    for arena, context in zip(arenas, contexts, strict=True):
        assert (
            calls.net_init(
                context, ctypes.c_void_p(arena.ctypes.data), ctypes.c_uint32(prog.arena_bytes)
            )
            == 0
        )
        places.append(calls.net_input(context))
    for i in range(2):
        ctypes.memmove(places[i], u[i].tobytes(), u[i].nbytes)
    expected = emulate.run(prog, u[:2])
    for i in (1, 0):
        assert calls.net_run(contexts[i]) == 0
    for i in range(2):
        found = np.ctypeslib.as_array(
            (ctypes.c_int32 * prog.output_len).from_address(calls.net_output(contexts[i]))
        )
        assert (found == expected[i]).all()
        assert (arenas[i][prog.arena_bytes :] == 0xA5).all()
        assert calls.net_argmax(contexts[i]) == expected[i].argmax()


@needs_cc
def test_what_is_wrong_has_a_status(folder):
    """Null pointers, a small arena, an arena at an odd address, a context that init refused."""
    _, prog, _, u = compiled("mlp, one scale")
    calls, room = folder(prog, u).library, np.zeros(prog.arena_bytes + 8, np.uint8)
    context, size = (ctypes.c_uint64 * 4)(), ctypes.c_uint32(prog.arena_bytes)
    at = room.ctypes.data + -room.ctypes.data % 4
    assert calls.net_init(None, ctypes.c_void_p(at), size) == 1
    assert calls.net_init(context, None, size) == 1
    assert calls.net_run(context) == 1
    assert calls.net_init(context, ctypes.c_void_p(at), ctypes.c_uint32(prog.arena_bytes - 1)) == 2
    assert calls.net_selftest(context) == 1
    assert calls.net_init(context, ctypes.c_void_p(at + 1), size) == 3
    assert calls.net_init(context, ctypes.c_void_p(at), size) == 0


# Negative controls: each fault that could ship must be caught by the self-test on the chip


def faulty(tmp_path, name, change, activations="u8", target="m4", crc=False):
    """The self-test's status after `change` to the C source; crc: with the tables' checksum made right again."""
    _, prog, _, u = compiled(name, activations, target)
    bundle.write(tmp_path, "net", prog, target, u[:2], {})
    path = tmp_path / "src" / "net.c"
    before = path.read_text()
    text = change(before)
    assert text != before
    if crc:
        words = re.search(r"net_table\[\d+\] = \{(.*?)\}", text, re.S).group(1)
        values = np.array(
            [int(w.rstrip("u"), 16) for w in re.findall(r"0x[0-9A-F]+u", words)], np.uint32
        )
        header = tmp_path / "src" / "net.h"
        header.write_text(
            re.sub(r"(NET_CRC32) 0x\w+", rf"\1 0x{emit.crc(values):08X}u", header.read_text())
        )
    path.write_text(text)
    main = (
        tmp_path / "main.c"
    )  # a program of its own, with room around the arena: what is wrong may write anywhere
    main.write_text(
        '#include "net.h"\nstatic uint32_t room[1 << 18];\nint main(void) { tbn_ctx c;\n'
        "return net_init(&c, room + (1 << 17), NET_ARENA_BYTES) ? 99 : (int)net_selftest(&c); }\n"
    )
    sources = [main, path, tmp_path / "src" / "tbn_rt.c"]
    subprocess.run(
        [
            check.compiler(),
            "-O1",
            f"-I{tmp_path / 'src'}",
            *map(str, sources),
            "-o",
            str(tmp_path / "faulty"),
        ],
        check=True,
        timeout=60,
    )
    return subprocess.run([str(tmp_path / "faulty")], timeout=60).returncode


def flipped(word, bit):
    def change(text):
        start = text.index("net_table[")
        hits = list(re.finditer(r"0x[0-9A-F]{8}u", text[start:]))
        hit = hits[word]
        value = int(hit.group()[:-1], 16) ^ (1 << bit)
        return text[: start + hit.start()] + f"0x{value:08X}u" + text[start + hit.end() :]

    return change


@needs_cc
@pytest.mark.parametrize("target", ["m4", "generic"])
@pytest.mark.parametrize("seed", range(6))
def test_a_flipped_weight_bit_is_caught(tmp_path, seed, target):
    """By the tables' checksum; and by what the layers compute, even where the checksum was made to fit."""
    rng = np.random.default_rng(seed)
    bit = int(rng.integers(32))
    word = int(
        rng.integers(5 * 2)
    )  # of the first layer: a tile of five rows of 64 inputs, no padding
    assert faulty(tmp_path / "a", "mlp, one scale", flipped(word, bit), target=target) == 4
    assert (
        faulty(tmp_path / "b", "mlp, one scale", flipped(word, bit), target=target, crc=True) == 5
    )


@needs_cc
def test_every_flipped_weight_bit_changes_a_checksum():
    """All bits of a layer, through the emulation: the probes have no zero, so that no weight is blind."""
    _, prog, _, _ = compiled("mlp, one scale")
    good = emulate.checksums(prog)
    first = prog.ops[0]
    for word in range(len(first.weights)):
        for bit in range(0, 32, 5):
            first.weights[word] ^= 1 << bit
            assert emulate.checksums(prog)[0] != good[0]
            first.weights[word] ^= 1 << bit


FAULTS = {
    "wrong layout": lambda text: text.replace("tbn_tiled_u8_lane4", "tbn_tiled_u8_nat"),
    "wrong bias unit": lambda text: re.sub(r"(net_table \+ \d+, net_table \+ \d+, net_table \+ \d+, \d+, )(\d+)", lambda m: m[1] + str(int(m[2]) * 2), text, count=1),
    "no scale per row": lambda text: re.sub(r", 1, 0, 1\}", ", 0, 0, 1}", text, count=1),
    "wrong stride": lambda text: re.sub(r"(\{14u, 14u, 1u, 7u, 7u, 5u, 5u, )2u, 2u", r"\g<1>1u, 1u", text, count=1),
    "wrong padding": lambda text: re.sub(r"(1u, 1u, )2u, 2u(, 8u, 1u, 0u)", r"\g<1>1u, 2u\2", text, count=1),
    "layers exchanged": lambda text: text.replace("net_layers + 0,", "net_layers + 9,").replace("net_layers + 1,", "net_layers + 0,").replace("net_layers + 9,", "net_layers + 1,"),
}  # fmt: skip


@needs_cc
@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_table_is_caught(tmp_path, fault):
    name = "mlp, one scale" if fault == "layers exchanged" else "micro_cnn"
    assert faulty(tmp_path, name, FAULTS[fault]) == 5


@needs_cc
def test_swapped_alphas_are_caught(tmp_path):
    def swap(text):
        start = text.index("net_table[")
        hits = list(re.finditer(r"0x[0-9A-F]{8}u", text[start:]))
        a, b = (
            next(i for i, h in enumerate(hits) if h.group() == f"0x{int(v):08X}u")
            for v in scales[:2]
        )
        words = [h.group() for h in hits]
        words[a], words[b] = words[b], words[a]
        for h, w in zip(reversed(hits), reversed(words), strict=True):
            text = text[: start + h.start()] + w + text[start + h.end() :]
        return text

    scales = compiled("mlp")[1].ops[0].scales
    torch.manual_seed(0)
    assert scales[0] != scales[1]
    assert faulty(tmp_path / "a", "mlp", swap) == 4
    torch.manual_seed(0)
    assert faulty(tmp_path / "b", "mlp", swap, crc=True) == 5


MUTATIONS = {
    "a gather that never wraps": ("c = c + 1 == per_tile ? 0 : c + 1;", "c = c + 1;"),
    "a total of one input too few": (
        "while (n--)\n        s += *x++;",
        "while (--n)\n        s += *x++;",
    ),
    "a scale too early": ("if (!per_row && left == 0) {", "if (!per_row) {"),
    "nibbles exchanged": ("t[1][v >> 4 & 15]", "t[1][v >> 8 & 15]"),
    "rounding left out": ("#define TBN_HALF ((int64_t)1 << 31)", "#define TBN_HALF ((int64_t)0)"),
    "interleaved rows forgotten": ("bits += 4 * words) { /* four", "bits += words) { /* four"),
    "a signed sum with a wrong sign": (
        "v = b + e, t[13] = v, t[2] = -v;",
        "v = b + e, t[13] = v, t[2] = v;",
    ),
}


def fuzz(place, source, cases, seed=1, flags=()):
    """(status, what it printed) of tests/mcu/mcu_fuzz.c with this tbn_rt.c, under sanitizers."""
    (place / "src").mkdir(parents=True)
    (place / "test").mkdir()
    (place / "src" / "tbn_rt.c").write_text(source)
    shutil.copy(emit.HERE / "tbn_rt.h", place / "src")
    for file in ("port.h", "port_host.c"):
        shutil.copy(emit.HERE / "test" / file, place / "test")
    shutil.copy(HERE / "mcu_fuzz.c", place / "test" / "main.c")
    sanitizers = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    files = [place / "test" / "main.c", place / "test" / "port_host.c", place / "src" / "tbn_rt.c"]
    subprocess.run(
        [check.compiler(), "-std=c99", "-O1", *sanitizers, f"-DFUZZ_CASES={cases}", f"-DFUZZ_SEED={seed}", *flags, *map(str, files), "-o",
         str(place / "fuzz")], check=True, timeout=120,
    )  # fmt: skip
    done = subprocess.run([str(place / "fuzz")], capture_output=True, text=True, timeout=240)
    return done.returncode, done.stdout + done.stderr[:300]


@needs_cc
def test_random_layers_under_sanitizers(tmp_path):
    """Any shape, tile, layout and scales: no difference from sums written out, no read or write outside, nothing undefined."""
    source = (emit.HERE / "tbn_rt.c").read_text()
    assert fuzz(tmp_path / "a", source, 200_000) == (0, "fuzz 200000 0\n")
    large = ("-DFUZZ_INPUTS=800", "-DFUZZ_OUTPUTS=40")
    assert fuzz(tmp_path / "b", source, 3_000, 5, large) == (0, "fuzz 3000 0\n")


@needs_cc
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_the_fuzz_sees_a_wrong_runtime(tmp_path, mutation):
    source, (old, new) = (emit.HERE / "tbn_rt.c").read_text(), MUTATIONS[mutation]
    assert old in source
    status, _ = fuzz(tmp_path, source.replace(old, new), 3_000)
    assert status != 0


# The folder


@needs_cc
@pytest.mark.parametrize(("activations", "target"), KINDS)
def test_the_folder_compiles_without_a_warning(tmp_path, activations, target):
    """As strict C99, with its headers in C++11; with no symbol from outside but memcpy and memset."""
    _, prog, _, u = compiled("unaligned", activations, target)
    bundle.write(tmp_path, "net", prog, target, u[:2], {})
    objects = []
    for path in sorted((tmp_path / "src").glob("*.c")):
        objects.append(tmp_path / f"{path.stem}.o")
        subprocess.run(
            [check.compiler(), *STRICT, "-c", str(path), "-o", str(objects[-1])],
            check=True,
            timeout=60,
        )
    missing = set()
    for path in objects:
        lines = subprocess.run(
            ["nm", "-u", str(path)], capture_output=True, text=True, check=True
        ).stdout.split()
        missing |= {name for name in lines if name != "U" and not name.startswith("tbn_")}
    assert missing <= {"memcpy", "memset", "_GLOBAL_OFFSET_TABLE_", "__stack_chk_fail"}
    if shutil.which("g++"):
        sketch = tmp_path / "sketch.cpp"
        sketch.write_text(
            '#include "net.h"\nint main() { tbn_ctx c; tbn_info i; net_info(&i); return net_init(&c, nullptr, 0) != TBN_E_ARG; }\n'
        )
        command = [
            "g++",
            "-std=c++11",
            "-Wall",
            "-Wextra",
            "-Werror",
            f"-I{tmp_path / 'src'}",
            str(sketch),
            *map(str, objects),
            "-o",
            str(tmp_path / "sketch"),
        ]
        subprocess.run(command, check=True, timeout=60)
        assert subprocess.run([str(tmp_path / "sketch")], timeout=10).returncode == 0


def test_the_folder_is_a_library_of_three_kinds(tmp_path):
    """Arduino's 1.5 layout (fields, src/, an example named as its folder), PlatformIO's manifest, a CMake target."""
    _, prog, _, u = compiled("mlp, one scale")
    bundle.write(tmp_path, "net", prog, "m4", u[:2], {"model": "mlp"})
    fields = dict(
        line.split("=", 1) for line in (tmp_path / "library.properties").read_text().splitlines()
    )
    assert {
        "name",
        "version",
        "author",
        "maintainer",
        "sentence",
        "paragraph",
        "category",
        "url",
        "architectures",
    } <= set(fields)
    assert fields["category"] in {
        "Display",
        "Communication",
        "Signal Input/Output",
        "Sensors",
        "Device Control",
        "Timing",
        "Data Storage",
        "Data Processing",
        "Other",
    }
    assert (tmp_path / "src" / fields["includes"]).exists()
    (sketch,) = tmp_path.glob("examples/*/*.ino")
    assert sketch.stem == sketch.parent.name
    assert "#include <net.h>" in sketch.read_text()
    manifest = json.loads((tmp_path / "library.json").read_text())
    assert {"name", "version", "headers", "build"} <= set(manifest)
    assert (tmp_path / "src" / manifest["headers"]).exists()
    assert (
        json.loads((tmp_path / "extras" / "vectors.json").read_text())["outputs"]
        == emulate.run(prog, u[:2]).tolist()
    )
    if shutil.which("cmake") and check.compiler():
        subprocess.run(
            ["cmake", "-S", str(tmp_path), "-B", str(tmp_path / "b")],
            check=True,
            capture_output=True,
            timeout=120,
        )
        done = subprocess.run(
            ["cmake", "--build", str(tmp_path / "b")], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0
        assert "warning" not in done.stdout + done.stderr


@needs_cc
def test_one_header_does_what_the_folder_does(tmp_path):
    _, prog, _, u = compiled("unaligned")
    for name in ("first", "second"):
        (tmp_path / f"{name}_single.h").write_text(emit.single(name, prog))
    (tmp_path / "both.c").write_text(
        '#define first_unused\n#define FIRST_IMPLEMENTATION\n#include "first_single.h"\n'
    )
    (tmp_path / "main.c").write_text(
        f"""#include "first_single.h"
#include <stdio.h>
static const uint8_t x[] = {{{", ".join(map(str, u[0]))}}};
int main(void) {{
    static uint32_t arena[FIRST_ARENA_BYTES / 4];
    tbn_ctx c;
    uint32_t i;
    if (first_init(&c, arena, sizeof arena) || first_selftest(&c)) return 1;
    for (i = 0; i < FIRST_INPUT_LEN; i++) first_input(&c)[i] = x[i];
    first_run(&c);
    for (i = 0; i < FIRST_OUTPUT_LEN; i++) printf("%ld ", (long)first_output(&c)[i]);
    return 0;
}}
"""
    )
    subprocess.run(
        [
            check.compiler(),
            *STRICT,
            str(tmp_path / "both.c"),
            str(tmp_path / "main.c"),
            "-o",
            str(tmp_path / "one"),
        ],
        check=True,
        timeout=60,
    )
    out = subprocess.run(
        [str(tmp_path / "one")], capture_output=True, text=True, check=True, timeout=10
    ).stdout
    assert [int(v) for v in out.split()] == emulate.run(prog, u[:1])[0].tolist()


# What is refused


class _Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(8)

    def forward(self, x):
        return self.norm(x.flatten(1))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (lambda: _Attention(), "LayerNorm cannot run on a microcontroller yet; known are Linear"),
        (lambda: nn.Sequential(nn.Conv2d(8, 8, 1, groups=2), nn.Flatten()), "2 groups; only plain"),
        (
            lambda: nn.Sequential(nn.Conv2d(8, 8, 1, padding_mode="reflect")),
            "padding must be zeros",
        ),
        (
            lambda: nn.Sequential(nn.Linear(9, 2)),
            "a linear layer of 9 inputs on a map of 1 x 1 x 8",
        ),
        (
            lambda: nn.Sequential(nn.BatchNorm2d(8, track_running_stats=False), nn.Flatten()),
            "without running statistics",
        ),
        (lambda: nn.Sequential(nn.Mish()), "Mish cannot run"),
        (
            lambda: nn.Sequential(nn.GELU(approximate="tanh")),
            "GELU by an approximation cannot run",
        ),
    ],
)
def test_what_c_cannot_run_is_refused_by_name(model, said):
    with pytest.raises(McuError, match=said):
        export.compile_(model().eval(), torch.rand(4, 8, 1, 1), "u8", "m4")


def test_choices_that_do_not_exist_are_refused():
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 2)).eval()
    x = torch.rand(4, 8, 1, 1)
    with pytest.raises(McuError, match="--target must be one of generic, m4, m55, avr, got 'm5'"):
        export.compile_(model, x, "u8", "m5")
    with pytest.raises(McuError, match="--activations must be u8 or f32, got 'u4'"):
        export.compile_(model, x, "u4", "m4")
    binary = nn.Sequential(nn.Flatten(), nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 2)).eval()
    binarize.binarize_(binary, "xnor")
    with pytest.raises(McuError, match="binary activations cannot run"):
        export.compile_(binary, x, "u8", "m4")


def test_small_segments_are_warned_of_with_a_better_p():
    model = nn.Sequential(nn.Flatten(), nn.Linear(33, 20)).eval()
    binarize.binarize_(model, "tbn(p=12, min_layer_size=0)")
    (warning,) = export.compile_(model, torch.rand(4, 33, 1, 1), "u8", "m4").warnings
    assert "share segments of 11 only" in warning
    assert "p = 10 would divide its 20 rows" in warning


# Sizes and ratios


def test_arena_and_tables_of_the_published_network():
    """784-128-10 with p = 4: bits, one scale per tile, and no more than 1,100 bytes of RAM."""
    _, prog, _, _ = compiled("mlp")
    assert prog.arena_bytes <= 1_100
    first, last = prog.ops
    assert 4 * len(first.weights) == 25 * 4 * 32  # 784 bits are 24.5 words
    assert (last.node.segment, last.node.per_tile, last.node.per_input) == (64, 5, 2)
    assert [len(op.scales) for op in prog.ops] == [4, 4]


def record(method, activations, count, **more):
    info = dict.fromkeys(("compiler", "simulator"), "x") | {
        "binarizer": method, "activations": activations, "count": count, "unit": "instructions", "core": "m4", "model": "mlp(bias=False, hidden=[128])",
        "data": "mnist(normalise=False)", "sim": "qemu", "target": "m4", "clock_hz": 64e6, "table_bytes": 100, "arena_bytes": 1040, **more,
    }  # fmt: skip
    return McuRecord(f"{method}-{activations}", "m4-gcc-O2", info)


def test_ratios_name_their_bars_and_what_is_missing():
    records = [
        record("bwn", "u8", 99_000, table_bytes=390),
        record("tbn(min_layer_size=0, p=4)", "u8", 30_000),
    ]
    lines = {line.what: line for line in table.ratios(records)}
    assert lines["instructions, binary / tbn p=4 (all layers)"].value == pytest.approx(3.3)
    assert "reached" in lines["instructions, binary / tbn p=4 (all layers)"].text()
    assert lines["table bytes, binary / tbn p=4 (all layers)"].value == pytest.approx(3.9)
    assert lines["instructions, binary / tbn p=8 (all layers)"].value is None
    assert "not measured" in lines["instructions, binary / tbn p=8 (all layers)"].text()
    assert lines[
        "instructions, int8 library, recorded / tbn p=4 (all layers)"
    ].value == pytest.approx(197_690 / 30_000)
    slow = {
        line.what: line
        for line in table.ratios([*records, record("tbn(min_layer_size=0, p=8)", "u8", 50_000)])
    }
    assert "NOT reached" in slow["instructions, binary / tbn p=8 (all layers)"].text()
    assert "est. FPS: an estimate, instructions at 64 MHz" in table.text(records)


def test_no_file_of_the_runtime_needs_a_machine_of_ours():
    """What is copied into every folder names no path, and includes only what a compiler brings along."""
    for path in emit.HERE.rglob("*.[ch]"):
        text = path.read_text()
        assert "/work" not in text
        assert set(re.findall(r"#include <(.*?)>", text)) <= {"stdint.h", "stddef.h", "string.h", "arm_mve.h", "stdio.h", "stdlib.h", "avr/io.h", "avr/pgmspace.h", "avr/interrupt.h", "avr/sleep.h"}, path  # fmt: skip


if __name__ == "__main__":  # writes the golden file; only for a new version of the layout
    rng = np.random.default_rng(0)
    cases = []
    for form in layout.LAYOUTS:
        for segment, segments in ((32, 4), (40, 6), (7, 3), (64, 1), (100, 5)):
            signs = rng.choice([-1, 1], segment * segments)
            words = [f"{w:08x}" for w in layout.pack(signs, segment, form)]
            cases.append(
                {
                    "layout": form,
                    "segment": segment,
                    "signs": "".join("+" if s > 0 else "-" for s in signs),
                    "words": words,
                }
            )
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps({"version": layout.VERSION, "cases": cases}, indent=1) + "\n")
    sys.exit(0)
