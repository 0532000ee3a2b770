"""Guards the plan executor: whole packed networks as native calls give what their dense float64 copies give."""

import copy
import os
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from torch import nn

from tbn_bench import catalog, convert, native
from tbn_bench.convert.binarize import binarize_
from tbn_bench.latency.gate import TOLERANCE

try:
    native.load()
except native.NativeUnavailable as error:
    pytest.skip(f"native kernels: {error}", allow_module_level=True)

from tbn_bench.compiler import names
from tbn_bench.compiler.cpu.region import Region
from tbn_bench.compiler.executor import Executor, executor
from tbn_bench.compiler.graph import Activation
from tbn_bench.compiler.rules.activations import rule_of_activation

LEVELS = native.available_levels()


def settled(model: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """Batch normalisation with statistics of its own, in eval mode."""
    torch.manual_seed(0)
    with torch.no_grad():
        model.train()
        for _ in range(3):
            model(torch.randn(8, *shape))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.weight.uniform_(-1.5, 1.5), module.bias.normal_()
    return model.eval()


def check(
    model: nn.Module, shape: tuple[int, ...], spec: str, level: str | None = None
) -> Executor:
    binarize_(model, spec)
    model = settled(model, shape)
    reference = convert.dense(model).double()
    convert.pack_(model)
    run = Executor(model, torch.zeros(1, *shape), level=level)
    for n in (1, 5):
        x = torch.randn(n, *shape)
        with torch.no_grad():
            expected = reference(x.double())
            error = (run(x) - expected).abs().max() / expected.abs().max()
        assert error <= TOLERANCE, f"batch {n}: {error}"
    return run


MODELS = [
    ("mlp(hidden=[48, 20])", (3, 5, 5)),
    ("resnet_cifar(depth=8)", (1, 8, 8)),
    ("resnet_cifar(depth=18, width=8)", (3, 16, 16)),
    ("resnet_cifar(depth=50, width=8, classifier='conv1x1')", (3, 9, 9)),
    ("vit(dim=32, depth=2, heads=2, head_dim=16, mlp_dim=64)", (3, 8, 8)),
    ("pointnet_cls", (3, 41)),
]
COLUMNS = "tbn(p=4, min_layer_size=0, copies='columns')"
LOW_RANK = "low_rank(rank=3, min_layer_size=0)"
SPECS = [
    "tbn(p=4, min_layer_size=512)",
    "tbn(p=2, alpha='layer', min_layer_size=0)",
    "bwn",
    "sign",
    COLUMNS,
    LOW_RANK,
]


@pytest.mark.parametrize(("model", "shape"), MODELS)
@pytest.mark.parametrize("spec", SPECS)
def test_whole_networks(model, shape, spec):
    network = catalog.build("models", model, num_classes=8, in_shape=shape)
    run = check(network, shape, spec)
    assert run.weight_bytes() > 0


@pytest.mark.parametrize("model", ["resnet_cifar(depth=8)", "mlp(hidden=[48, 20])"])
@pytest.mark.parametrize(
    "spec",
    ["twn", "bitnet158(activation_bits=32)", "irnet", "adabin(activations=False)", "snn(tau=3)", "sparks(tau=3)",
     "low_rank(rank=3, min_layer_size=0)", "low_rank(rank=2, min_layer_size=1000)"],
)  # fmt: skip
def test_ternary_values_exponents_offsets_and_codebooks(model, spec):
    """Whatever a weight is stored as, its whole network runs natively."""
    run = check(catalog.build("models", model, num_classes=8, in_shape=(1, 8, 8)), (1, 8, 8), spec)
    assert run.torch_nodes == []


@pytest.mark.parametrize("spec", ["xnor", "bireal", "reactnet", "adabin", "irnet(activations=True)", "dorefa(activations=True)",
                                  "snn(tau=3, activations=True)", "sparks(tau=3, activations=True)", "bitnet158"])  # fmt: skip
def test_layers_with_binary_inputs_stay_in_torch(spec):
    """Stem and classifier run natively, the layers between in torch, and the outputs are those of the packed network."""
    network = catalog.build(
        "models", "resnet_cifar(depth=8, activation='hardtanh')", num_classes=8, in_shape=(1, 8, 8)
    )
    binarize_(network, spec, ["conv1", "fc"])
    convert.pack_(settled(network, (1, 8, 8)))
    run, x = Executor(network, torch.zeros(1, 1, 8, 8)), torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        expected = network(x)
    assert run.native_layers == 2
    atol = (1e-2 if spec == "bitnet158" else TOLERANCE) * float(
        expected.abs().max()
    )  # a rounded input may fall on the other side
    torch.testing.assert_close(run(x), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("spec", ["tbn(p=4, min_layer_size=0)", COLUMNS, LOW_RANK])
@pytest.mark.parametrize("level", LEVELS)
def test_every_level_runs_a_network(level, spec):
    network = catalog.build("models", "resnet_cifar(depth=8)", num_classes=12, in_shape=(3, 12, 12))
    assert check(network, (3, 12, 12), spec, level).level == level


def columns_network() -> nn.Module:
    """Two layers that read the same sums, one with a residual sum, tokens, a strided kernel, and a classifier."""

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.left, self.right = (
                nn.Conv2d(8, 24, 3, 2, 1),
                nn.Conv2d(24, 24, 3, padding=1),
                nn.Conv2d(24, 24, 1),
            )
            self.norm, self.line, self.head = (
                nn.BatchNorm2d(24),
                nn.Linear(24, 20),
                nn.Linear(20 * 25, 12),
            )

        def forward(self, x):
            y = torch.relu(self.norm(self.stem(x)))
            y = torch.relu(self.left(y) + self.right(y))
            return self.head(self.line(y.flatten(2).transpose(1, 2)).flatten(1))

    return Network()


@pytest.mark.parametrize("level", LEVELS)
def test_columns_run_from_their_tiles(level):
    """A step of sums in front of each layer, one for both readers of a value, then a layer of 1/p of the columns."""
    run = check(columns_network(), (8, 9, 10), COLUMNS, level)
    assert run.native_layers == 5
    ops = [op for step in run._steps if isinstance(step, Region) for op in step.ops]
    assert sum(op.kind == native.GROUP_SUM for op in ops) == 4
    assert [op.weights[0].channels for op in ops if op.kind == native.CONV] == [2, 6, 6, 6, 125]


def test_columns_with_rounded_activations_and_threads():
    """14 bits of the largest sum instead of the largest input, where this CPU has them; more threads than images change nothing."""
    network, x = columns_network(), torch.randn(2, 8, 9, 10)
    binarize_(network, COLUMNS)
    convert.pack_(settled(network, (8, 9, 10)))
    with torch.no_grad():
        expected = network(x)
    one, many = (Executor(network, x, threads=threads) for threads in (1, 3))
    torch.testing.assert_close(many(x), one(x), rtol=1e-5, atol=1e-5)
    rounded, why = executor(network, x, precision="a14")
    assert rounded is not None or "no precision a14" in why
    if rounded is not None:
        assert (rounded(x) - expected).abs().max() < 1e-3 * expected.abs().max()


def test_resnets_and_mlps_run_without_torch():
    """Nothing of these two families is left to torch: one native call."""
    for model, shape in MODELS[:4]:
        network = catalog.build("models", model, num_classes=8, in_shape=shape)
        run = check(network, shape, "tbn(p=2, min_layer_size=0)")
        assert run.torch_nodes == []
        assert len(run._steps) == 1


def test_pointnet_leaves_to_torch_only_what_its_transforms_do():
    """From the points to each transform, and from the last one to the logits: three native calls, the maximum over points inside."""
    network = catalog.build("models", "pointnet_cls", num_classes=8, in_shape=(3, 20))
    run = check(network, (3, 20), "bwn")
    assert {name.rstrip("_0123456789") for name in run.torch_nodes} == {
        "view",
        "getattr",
        "eye",
        "add",
        "transpose",
        "bmm",
    }
    assert sum(isinstance(step, Region) for step in run._steps) == 3


class Pooled(nn.Module):
    """Maxima over positions: of what is read twice, of what nothing native makes, and of a layer with scales of both signs."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.norm = nn.Conv1d(4, 8, 3), nn.Conv1d(8, 16, 1), nn.BatchNorm1d(16)
        self.head = nn.Linear(40, 5)

    def forward(self, x):
        y = self.a(x)
        z = torch.relu(y)
        return self.head(
            torch.cat(
                [y.amax(2), torch.sigmoid(z).amax(-1), z.amax(2), self.norm(self.b(z)).amax(2)], 1
            )
        )


def test_maxima_over_positions():
    run = check(Pooled(), (4, 11), "tbn(p=2, min_layer_size=0)")
    assert not any("amax" in name for name in run.torch_nodes)


class Odd(nn.Module):
    """What fusing must not break: a convolution read twice, ReLU before a sum, a sum of a value with itself, torch in the middle."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.c, self.d = nn.Conv2d(8, 8, 1), nn.Linear(8 * 6 * 6, 5)
        self.bn, self.pool = nn.BatchNorm2d(8), nn.MaxPool2d(2)

    def forward(self, x):
        y = self.a(x)
        z = torch.relu(self.b(y)) + y
        z = z + z
        z = torch.sigmoid(self.bn(z))
        z = self.c(z) + z
        return self.d(self.pool(self.bn(z).relu()).flatten(1))


def test_fusing_keeps_the_meaning():
    run = check(Odd(), (3, 12, 12), "bwn")
    assert "sigmoid" in run.torch_nodes


class Pools(nn.Module):
    """As VGG for binary weights: convolution, max pooling, batch normalisation, ReLU."""

    def __init__(self, weight: float):
        super().__init__()
        self.conv, self.pool = nn.Conv2d(3, 8, 3, padding=1), nn.MaxPool2d(3, 2, 1)
        self.norm, self.head = nn.BatchNorm2d(8), nn.Linear(8 * 9, 5)
        nn.init.uniform_(self.norm.weight, 0.5, 2.0)
        self.norm.weight.data[0] = weight

    def forward(self, x):
        y = torch.relu(self.norm(self.pool(self.conv(x))))
        return self.head(y.flatten(1))


@pytest.mark.parametrize(("weight", "kinds"), [
    (1.0, [native.CONV, native.MAX_POOL, native.CHW, native.CONV]),
    (-1.0, [native.CONV, native.MAX_POOL, native.AFFINE, native.CHW, native.CONV]),
])  # fmt: skip
def test_increasing_functions_are_folded_through_a_max_pooling(weight, kinds):
    """With a negative scale the maximum would become a minimum: normalisation then stays behind."""
    network = Pools(weight).eval()
    binarize_(network, "tbn(p=2, min_layer_size=0)")
    network.norm.running_mean.normal_()
    reference = convert.dense(network)
    convert.pack_(network)
    run, x = Executor(network, torch.zeros(1, 3, 6, 6)), torch.randn(4, 3, 6, 6)
    assert [op.kind for op in run._steps[0].ops] == kinds
    with torch.no_grad():
        torch.testing.assert_close(run(x), reference(x), rtol=0, atol=1e-5)


class Signal(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = (
            nn.Conv1d(4, 16, 5, stride=2, padding=2, dilation=1),
            nn.Linear(16 * 8, 4),
        )
        self.norm = nn.BatchNorm1d(16)

    def forward(self, x):
        return self.head(torch.flatten(torch.relu(self.norm(self.conv(x))), 1))


def test_signals_of_one_dimension():
    assert check(Signal(), (4, 16), "tbn(p=4, min_layer_size=0)").torch_nodes == []


class Unaligned(nn.Module):
    """Tiles, and their alphas, end inside rows: of a vector, of tokens, before batch normalisation and ReLU, and where pieces save nothing."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(96, 50), nn.Linear(50, 30), nn.Linear(90, 6)
        self.norm = nn.BatchNorm1d(30)

    def forward(self, x):
        y = torch.relu(self.a(x))
        z = torch.relu(self.norm(self.b(y[:, 0]) + y[:, 1, :30]))
        return self.head(torch.cat([z, self.b(y).flatten(1)], 1))


@pytest.mark.parametrize(
    "spec",
    [
        "tbn(p=4, min_layer_size=0)",
        "tbn(p=4, alpha='layer', min_layer_size=0)",
        "tbn(p=3, min_layer_size=0)",
    ],
)
@pytest.mark.parametrize("level", LEVELS)
def test_tiles_that_do_not_align_with_rows(spec, level):
    check(Unaligned(), (2, 96), spec, level)


def test_unaligned_tiles_stay_bits():
    """A classifier of 1000 x 768 at p = 16: its 48,000 bits and a coefficient for each of 2,000 pieces, not 3 MB of float32."""
    network = nn.Sequential(nn.Linear(768, 1000), nn.ReLU())
    run = check(network, (768,), "tbn(p=16, min_layer_size=0)")
    assert run.torch_nodes == []
    assert run.weight_bytes() < 8000 + 4 * 2000 + 8 * 1000 + 1000
    assert network[0].factor is None or network[0].how != "tile reuse"


def test_memory_format_is_kept_as_torch_keeps_it():
    """Channels last in, channels last out, without a copy; the numbers are the same."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(5, 24, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(24, 33, 1)
    ).eval()
    x = torch.randn(2, 5, 9, 11)
    run = Executor(network, x)
    plain, last = run(x), run(x.to(memory_format=torch.channels_last))
    assert plain.is_contiguous()
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(plain, last)
    with torch.no_grad():
        torch.testing.assert_close(plain, network(x), rtol=1e-5, atol=1e-5)


def test_several_threads_give_the_same_numbers():
    network = catalog.build("models", "resnet_cifar(depth=8)", num_classes=8, in_shape=(3, 8, 8))
    binarize_(network, "tbn(p=2, min_layer_size=0)")
    convert.pack_(network)
    x = torch.randn(7, 3, 8, 8)
    one, two = (Executor(network.eval(), x, threads=t) for t in (1, 2))
    assert torch.equal(one(x), two(x))


FORKED = """
import os, sys, signal
import torch
from tbn_bench import convert
from tbn_bench.compiler.executor import Executor
from tbn_bench.convert.binarize import binarize_
network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3))
binarize_(network, "bwn")
convert.pack_(network)
run = Executor(network.eval(), torch.zeros(1, 3, 8, 8), threads=3)
single, many = torch.randn(1, 3, 8, 8), torch.randn(7, 3, 8, 8)
expected = run(single), run(many)
child = os.fork()
signal.alarm(60)
same = all(map(torch.equal, (run(single), run(many)), expected))
if not child:
    os._exit(0 if same else 1)
_, status = os.waitpid(child, 0)
sys.exit(0 if same and status == 0 else 1)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_threads_work_in_a_forked_process():
    """As a worker of a DataLoader: the parent's threads do not exist there."""
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_function_that_the_library_lacks_stays_in_torch(monkeypatch):
    """A row of ACTIVATIONS alone: torch computes it, and the description says why."""
    row = Activation("silu", (nn.SiLU,), lambda x: x * torch.sigmoid(x))
    monkeypatch.setitem(names.RULES, nn.SiLU, rule_of_activation(row))
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Conv2d(8, 8, 3))
    run = check(network, (3, 8, 8), "bwn")
    assert run.reasons == {"1": "the native library has no op silu"}


def test_where_nothing_is_native_every_reason_is_named():
    network = nn.Sequential(nn.Tanh(), nn.Softsign()).eval()
    with pytest.raises(ValueError, match=r"can run natively: 0 \(no rule for Tanh\), 1 \(no rule"):
        Executor(network, torch.zeros(1, 4))


def test_the_model_is_left_as_it_was():
    network = catalog.build("models", "mlp(hidden=[16])", num_classes=4, in_shape=(1, 4, 4))
    binarize_(network, "tbn(p=2, min_layer_size=0)")
    convert.pack_(network)
    before = copy.deepcopy(network.state_dict())
    Executor(network, torch.zeros(1, 1, 4, 4))
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert network[1].factor is None, "the native path must not derive float weights"


@pytest.mark.parametrize("level", LEVELS)
def test_depthwise_layers_clamps_and_padding_by_name(level):
    """MobileNet's block, at 13 and 35 channels: a kernel per channel, alone and packed, stride 2, dilation, ReLU6, a residual sum."""

    class Block(nn.Module):
        def __init__(self, channels: int, binary: bool):
            super().__init__()
            self.wide = nn.Conv2d(3, channels, 1)
            self.deep = nn.Conv2d(
                channels, channels, 3, padding="same", dilation=2, groups=channels, bias=False
            )
            self.down = nn.Conv2d(channels, channels, (3, 5), 2, (1, 0), groups=channels)
            self.norm, self.head = nn.BatchNorm2d(channels), nn.Linear(channels, 5)
            self.binary = binary

        def forward(self, x):
            y = (
                torch.nn.functional.hardtanh(self.wide(x), -0.5, 2.0)
                if self.binary
                else nn.functional.relu6(self.wide(x))
            )
            y = torch.relu(self.norm(self.deep(y)) + y)
            return self.head(nn.functional.hardtanh(self.down(y)).mean((2, 3)))

    for channels in (13, 35):
        for binary in (True, False):
            network = Block(channels, binary)
            run = check(
                network, (3, 9, 11), f"tbn(p=1, min_layer_size={0 if binary else 200})", level
            )
            assert [name for name in run.torch_nodes if not name.startswith("sym_size")] == []


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        ("vit(dim=48, depth=2, heads=3, head_dim=16, mlp_dim=40)", (3, 12, 12)),
        (
            "vit(dim=40, depth=1, heads=2, head_dim=70, mlp_dim=33, patch=2)",
            (1, 24, 16),
        ),  # 97 tokens; heads wider than a vector
        ("mlp_mixer(dim=24, depth=2, token_dim=20, channel_dim=36)", (3, 12, 8)),
        ("conv_mixer(dim=20, depth=2, kernel=8)", (3, 9, 10)),
        ("conv_mixer(dim=36, depth=2, kernel=5, patch=2)", (3, 12, 16)),
    ],
)
def test_transformers_and_mixers_are_one_native_call(spec, shape, level):
    """Patches, tokens, attention, GELU, the turn from tokens to channels, means, uneven padding: nothing is left to torch."""
    run = check(
        catalog.build("models", spec, num_classes=7, in_shape=shape),
        shape,
        "tbn(p=4, min_layer_size=0)",
        level,
    )
    assert len(run._steps) == 1
    assert isinstance(run._steps[0], Region)


def test_attention_that_is_not_plain_stays_in_torch():
    """Another scale, thirds in another order, a result that is read twice: none is the pattern."""

    class Heads(nn.Module):
        def __init__(self, way: str):
            super().__init__()
            self.qkv, self.proj, self.way = nn.Linear(12, 72), nn.Linear(24, 12), way

        def forward(self, x):
            q, k, v = self.qkv(x).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
            options = {"causal": {"is_causal": True}, "scale": {"scale": 0.5}}.get(self.way, {})
            if self.way == "order":
                q, k = k, q
            out = nn.functional.scaled_dot_product_attention(q, k, v, **options)
            if self.way == "twice":
                return self.proj(out.transpose(1, 2).flatten(2)) + out.mean()
            return self.proj(out.transpose(1, 2).flatten(2))

    for way in ("plain", "causal", "scale", "order", "twice"):
        run = check(Heads(way), (5, 12), "tbn(p=4, min_layer_size=0)")
        assert (run.torch_nodes == []) == (way in ("plain", "causal")), way


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("tokens", "dim"), [(3, 16), (67, 32)])
def test_gpt_is_one_native_call_behind_its_embedding(level, tokens, dim):
    """Causal attention too; the look-up of tokens and positions is torch's, and says so."""
    torch.manual_seed(0)
    call = f"gpt(dim={dim}, depth=2, heads=2)"
    network = catalog.build("models", call, num_classes=7, in_shape=(tokens,)).eval()
    binarize_(network, "tbn(p=4, min_layer_size=0)")
    convert.pack_(network)
    run = Executor(network, torch.zeros(1, tokens), level=level)
    x = torch.randint(7, (3, tokens)).float()
    with torch.no_grad():
        torch.testing.assert_close(run(x), network(x), rtol=1e-4, atol=1e-5)
    assert len(run._regions) == 1
    assert run.reasons["tokens"] == "no rule for Embedding"
    assert len(run.reasons) == 3


def test_reshapes_like_attention_that_are_not():
    """Under torch.export: tokens cut in other ways, a further axis; and plain or causal attention, which is one call."""

    class Cut(nn.Module):
        def __init__(self, way: str):
            super().__init__()
            self.qkv, self.proj, self.way = nn.Linear(12, 72), nn.Linear(24, 12), way

        def forward(self, x):
            if x.shape[1] > 3:
                x = x * 1
            n, qkv = x.shape[0], self.qkv(x)
            if self.way == "split":
                parts = qkv.reshape(n, 14, 3, 2, 6)
            elif self.way == "axis":
                parts = qkv.reshape(n, 7, 1, 72).reshape(n, 7, 3, 2, 12)
            else:
                parts = qkv.reshape(n, 7, 3, 2, 12)
            q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
            causal = self.way == "causal"
            return self.proj(
                nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
                .transpose(1, 2)
                .reshape(n, 7, 24)
            )

    for way in ("plain", "causal", "split", "axis"):
        run = check(Cut(way), (7, 12), "tbn(p=4, min_layer_size=0)")
        left_to_torch = any("attention" in name for name in run.torch_nodes)
        assert left_to_torch == (way in ("split", "axis")), way


class Classic(nn.Module):
    """A residual block and a pooled classifier, as timm writes them, behind a question that torch.fx cannot answer."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = (
            nn.Conv2d(3, 16, 3, padding=1, bias=False),
            nn.Conv2d(16, 16, 3, padding="same"),
            nn.Linear(16, 5),
        )
        self.norms, self.pool = (
            nn.ModuleList(nn.BatchNorm2d(16) for _ in range(2)),
            nn.AdaptiveAvgPool2d(1),
        )

    def forward(self, x):
        y = self.norms[0](self.a(x)).relu() if x.shape[-1] > 4 else x
        y = (self.norms[1](self.b(y)) + y).relu()
        return self.head(torch.flatten(self.pool(y), 1))


def test_batch_normalisation_is_fused_under_torch_export_too():
    network = Classic()
    for norm in network.norms:
        norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
    run = check(network, (3, 8, 8), "tbn(p=4, min_layer_size=0)")
    assert [name for name in run.torch_nodes if not name.startswith("sym_size")] == []


class Turning(nn.Module):
    """What torch.fx cannot follow: shapes decide the way, layers are functions over parameters, several results in a dictionary."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1, groups=2)
        self.norm, self.point, self.head = nn.BatchNorm2d(16), nn.LayerNorm(16), nn.Linear(16, 5)
        self.kernel, self.matrix = (
            nn.Parameter(torch.randn(16, 4, 3, 3) / 6),
            nn.Parameter(torch.randn(12, 16) / 4),
        )

    def forward(self, x):
        y = self.a(x)
        if y.shape[-1] > 4:
            y = torch.nn.functional.max_pool2d(torch.relu(self.norm(y)), 2)
        z = torch.nn.functional.conv2d(self.b(y), self.kernel, padding=1, groups=4) + y
        tokens = self.point(torch.nn.functional.avg_pool2d(z.relu(), 2).flatten(2).transpose(1, 2))
        return {
            "logits": self.head(tokens.mean(1)),
            "rest": (torch.nn.functional.linear(tokens, self.matrix), tokens),
        }


def test_a_network_that_only_torch_export_can_follow():
    network = Turning()
    binarize_(network, "tbn(p=4, min_layer_size=0)")
    network = network.eval()
    network.norm.running_mean.normal_(), network.norm.running_var.uniform_(0.5, 2)
    reference = convert.dense(network).double()
    convert.pack_(network)
    run = Executor(network, torch.zeros(1, 3, 8, 8))
    assert run.native_layers == 5
    assert not any(
        name.startswith(("packed", "conv", "linear", "max_pool", "relu", "_native", "getitem"))
        for name in run.torch_nodes
    )
    for n in (1, 5):
        x = torch.randn(n, 3, 8, 8)
        with torch.no_grad():
            made, expected = run(x), reference(x.double())
        for ours, theirs in (
            (made["logits"], expected["logits"]),
            *zip(made["rest"], expected["rest"], strict=True),
        ):
            assert (ours - theirs).abs().max() <= TOLERANCE * theirs.abs().max()
    assert "forward" not in vars(network.a)


class Windows(nn.Module):
    """Swin's way: windows go into the batch and come back; a learned table of as many rows as there are windows goes through a layer too."""

    def __init__(self):
        super().__init__()
        self.embed, self.inside, self.table = (
            nn.Conv2d(3, 16, 2, 2),
            nn.Linear(16, 16),
            nn.Linear(16, 16),
        )
        self.learned = nn.Parameter(torch.randn(26, 16))

    def forward(self, x):
        y = self.embed(x).permute(0, 2, 3, 1)
        n = y.shape[0]
        windows = y.view(n, 2, 2, 2, 2, 16).transpose(2, 3).reshape(n * 4, 4, 16)
        return self.inside(windows).reshape(n, -1) + self.table(self.learned).sum()


def test_windows_in_the_batch_run_natively_and_parameters_do_not_count_as_images():
    run = check(Windows(), (3, 8, 8), "bwn")
    assert run.native_layers == 2
    assert "table" in run.torch_nodes
    assert [s.factor for s in run._steps if isinstance(s, Region)] == [1, 4]


class Overwritten(nn.Module):
    """ReLU and sums in place, while others still read what is written over."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(4, 4, 1) for _ in range(3))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.a(x)
        z = self.b(self.relu(y)) + y
        w = self.c(z)
        kept = w
        w += z
        torch.relu_(z)
        return torch.nn.functional.relu(w, inplace=True) + z + w + kept


def test_what_is_written_over_is_seen_by_its_readers():
    check(Overwritten(), (4, 5, 5), "bwn")


class Written(nn.Module):
    """Torchvision's way of a block: sums and ReLU in place on what nobody else reads."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.norm, self.relu = (
            nn.Conv2d(4, 4, 1),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
        )

    def forward(self, x):
        out = self.norm(self.b(self.relu(self.a(x))))
        out += x
        return self.relu(out)


def test_harmless_writing_stays_with_torch_fx():
    run = check(Written(), (4, 5, 5), "bwn")
    assert run.torch_nodes == []
    assert isinstance(run._program.root, Written)


class Layers(nn.Module):
    """A convolution, batch normalisation over its channels, and a linear layer over them; `way` says how they meet."""

    def __init__(self, way):
        super().__init__()
        self.way, self.conv, self.other, self.norm = (
            way,
            nn.Conv2d(4, 6, 3, padding=1),
            nn.Conv2d(4, 6, 1),
            nn.BatchNorm2d(6),
        )
        self.drop, self.same, self.line, self.long = (
            nn.Dropout(0.5),
            nn.Identity(),
            nn.Linear(6, 6),
            nn.BatchNorm1d(6),
        )

    def forward(self, x):
        return getattr(self, self.way)(x)

    def dropped(self, x):
        y = self.conv(x)
        return torch.relu(self.drop(y)) + y

    def normed(self, x):
        y = self.conv(x)
        return self.norm(self.same(y)) + y

    def moved(self, x):
        y = self.conv(x)
        return self.same(y) + self.other(x) + self.line(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def rows(self, x):
        y = self.line(self.conv(x).mean((2, 3)))
        return torch.relu(y.flatten(1)) + y

    def viewed(self, x):
        y = self.line(self.conv(x).mean((2, 3)))
        if x.shape[-1] > 2:
            y = y * 1
        y = self.line(y)
        return torch.relu(y.view(y.shape[0], -1)) + y

    def other_axis(self, x):
        tokens = self.line(self.conv(x).flatten(2)[..., :6].transpose(1, 2))
        return self.long(tokens)

    def channels_last(self, x):
        return self.line(self.conv(x).permute(0, 2, 3, 1))

    def overwritten_view(self, x):
        y = self.conv(x)
        half = y[:, :3]
        torch.relu_(half)
        return y + half.mean()

    def overwritten_by_position(self, x):
        y = self.conv(x)
        z = y.permute(0, 2, 3, 1)
        torch.nn.functional.relu(y, True)
        return self.line(z)

    def overwritten_part(self, x):
        y = self.conv(x)
        z = y[:, :, ::2, ::2]
        y.mul_(2)
        return self.norm(z)

    def kept(self, x):
        y = self.conv(x)
        outs = [y]
        y += self.other(x)
        return torch.cat([*outs, y], 1)

    def partly_flat(self, x):
        return (
            torch.flatten(self.conv(x), end_dim=1).sum(0)
            + torch.flatten(self.norm(self.conv(x)), 1, 2).mean()
        )

    def in_double(self, x):
        return self.conv(x).mean((2, 3), dtype=torch.float64)

    def own_products(self, x):
        y = self.conv(x).mean((2, 3))
        return self.line(y).sum() + torch.relu(y @ y.T)

    def turned(self, x):
        y = self.conv(x).mean((2, 3))
        return (self.line(torch.relu(torch.ones(6, 13) + y.mean(0)[:, None]).T).sum(), y)

    def pooled(self, x):
        return torch.nn.functional.max_pool2d(self.conv(x) if x.shape[1] else x, [2], stride=[2])

    def reshaped(self, x):
        return self.conv(x if x.shape[1] else -x).reshape(x.shape[0], 2, -1)

    def whole_batch(self, x):
        return self.line(self.conv(x).permute(0, 2, 3, 1).reshape(-1, 6)).view(x.shape[0], -1)

    def normed_alone(self, x):
        y = self.conv(x).mean((2, 3)).sin()
        return self.line(self.long(y if x.shape[1] else -y).sin())


WAYS = [name for name in vars(Layers) if not name.startswith("_") and name != "forward"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last], ids=str)
def test_no_way_of_writing_a_network_changes_its_numbers(way, memory):
    """Each was wrong, or crashed, in some version of the executor: aliases, other axes, values written over, sizes that look like a batch."""
    network = Layers(way)
    binarize_(network, "bwn")
    network = network.eval()
    for norm in (network.norm, network.long):
        norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
    reference = convert.dense(network)
    convert.pack_(network)
    run = Executor(network, torch.zeros(1, 4, 6, 6))
    for batch in (1, 2, 5, 13, 26):
        x = torch.randn(batch, 4, 6, 6).to(memory_format=memory)
        with torch.no_grad():
            got, expected = (
                run(x.clone(memory_format=torch.preserve_format)),
                reference(x.clone(memory_format=torch.preserve_format)),
            )
        pairs = (
            zip(got, expected, strict=True) if isinstance(expected, tuple) else [(got, expected)]
        )
        for ours, theirs in pairs:
            assert ours.dtype == theirs.dtype
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * float(theirs.abs().max()))


def test_what_cannot_be_followed_is_refused():
    """Code that does something else for a batch of one; hooks on exported layers; inputs of another size; and the network stays usable."""

    class Single(nn.Module):
        def __init__(self):
            super().__init__()
            self.line = nn.Linear(4, 4)

        def forward(self, x):
            return self.line(x) * 2 if x.shape[0] == 1 else self.line(x)

    network = nn.Sequential(Single())
    binarize_(network, "bwn")
    convert.pack_(network)
    made, why = executor(network.eval(), torch.zeros(1, 4))
    assert made is None
    assert "something else for a batch of 1" in why
    named = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding="same"), Branching()
    )
    binarize_(named, "bwn")
    convert.pack_(named)
    made, why = executor(named.eval(), torch.zeros(1, 3, 6, 6))
    assert made is None
    assert named(torch.zeros(1, 3, 6, 6)).shape == (1, 4, 6, 6)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1)).eval()
    run = Executor(plain, torch.zeros(1, 3, 64, 64))
    with pytest.raises(
        ValueError, match=r"expected inputs of shape \(B, 3, 64, 64\), got \(1, 3, 8, 8\)"
    ):
        run(torch.zeros(1, 3, 8, 8))


def test_hooks_are_called_and_dead_layers_are_not_run():
    class Dead(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            self.a(x)
            y = self.b(x).sin()
            self.a(y)
            return self.b(y)

    network = Dead().eval()
    network.b.register_forward_hook(lambda module, args, out: out + 1)
    x = torch.randn(3, 4)
    with torch.no_grad():
        expected = network(x)
    run = Executor(network, x)
    run.keep_output = True
    for _ in range(2):
        torch.testing.assert_close(run(x), expected)


def test_networks_of_timm():
    """A transformer whose code looks at shapes, and one with windows: every packed layer of the first is native."""
    from timm.models import SwinTransformer, VisionTransformer

    vit = VisionTransformer(
        img_size=16, patch_size=4, embed_dim=32, depth=2, num_heads=2, num_classes=6
    )
    assert check(vit, (3, 16, 16), "tbn(p=4, min_layer_size=0)").native_layers == 10
    swin = SwinTransformer(
        img_size=16,
        patch_size=2,
        embed_dim=16,
        depths=(2, 1),
        num_heads=(2, 2),
        window_size=4,
        num_classes=6,
    )
    assert check(swin, (3, 16, 16), "tbn(p=4, min_layer_size=0)").native_layers >= 14


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_a_graph_that_cannot_be_traced_says_so():
    made, why = executor(Branching(), torch.zeros(1, 3))
    assert made is None
    assert "Branching cannot be traced" in why
    assert "torch.fx: " in why
    assert "torch.export: " in why


def test_input_of_another_type_is_refused():
    network = catalog.build("models", "mlp(hidden=[16])", num_classes=4, in_shape=(1, 4, 4)).eval()
    with pytest.raises(ValueError, match="float32 tensor on the CPU"):
        Executor(network, torch.zeros(1, 1, 4, 4))(torch.zeros(1, 1, 4, 4, dtype=torch.float64))


NO_INPUTS = [
    (None, "NoneType"), (np.zeros((1, 4), np.float32), "numpy.ndarray"), ([[0.0] * 4], "list"), (torch.zeros(1, 4).to_sparse(), "layout torch.sparse"),
    (torch.tensor(0.0), "without axes"), (torch.zeros(4), "got \\(4,\\)"), (torch.zeros(1, 4, device="meta"), "on meta"),
    (torch.zeros(1, 4, dtype=torch.cfloat), "complex64"),
]  # fmt: skip


@pytest.mark.parametrize(("x", "said"), NO_INPUTS, ids=[said for _, said in NO_INPUTS])
def test_what_is_no_batch_is_refused_in_one_line(x, said):
    """By name: what was expected and what was got."""
    run = Executor(nn.Sequential(nn.Linear(4, 3)), torch.zeros(1, 4))
    with pytest.raises(ValueError, match=f"expected.*{said}") as caught:
        run(x)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("example", "said"), NO_INPUTS[:5], ids=[said for _, said in NO_INPUTS[:5]]
)
def test_an_example_that_is_no_batch_is_refused(example, said):
    with pytest.raises(ValueError, match=f"expected an example.*{said}"):
        Executor(nn.Sequential(nn.Linear(4, 3)), example)


def changing(seed: int) -> nn.Module:
    """Packed, dense and normalised layers, and an addition that torch runs."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 3)
    )
    binarize_(network, "tbn(p=4, min_layer_size=0)", keep=["4.weight"])
    network = settled(network, (6,))
    convert.pack_(network)
    return network


def _load(network: nn.Module, other: nn.Module) -> None:
    network.load_state_dict(other.state_dict())


def _assign(network: nn.Module, other: nn.Module) -> None:
    network.load_state_dict(other.state_dict(), assign=True)


def _replace(network: nn.Module, other: nn.Module) -> None:
    for i, layer in enumerate(other):
        network[i] = layer


def _point(network: nn.Module, other: nn.Module) -> None:
    for own, new in zip(
        [*network.parameters(), *network.buffers()],
        [*other.parameters(), *other.buffers()],
        strict=True,
    ):
        own.data = new.data


@pytest.mark.parametrize("change", [_load, _assign, _replace, _point])
def test_an_executor_follows_its_network(change):
    """Whatever way the weights change, the outputs are those of the changed network; nothing is lowered again without a change."""
    network, other, x = changing(0), changing(1), torch.randn(3, 6)
    run = Executor(network, x)
    with torch.no_grad():
        before, program = run(x), run._program
        assert run._program is program
        change(network, other)
        assert not torch.allclose(run(x), before)
        torch.testing.assert_close(run(x), other(x))


@pytest.mark.parametrize("part", ["tile_bits", "alphas", "bias", "running_var", "weight"])
def test_one_changed_value_is_noticed(part):
    """Bits, scales, biases, statistics and dense weights, each alone."""
    network, x = changing(0), torch.randn(3, 6)
    run = Executor(network, x)
    run(x)
    with torch.no_grad():
        tensor = next(
            t
            for name, t in [*network.named_buffers(), *network.named_parameters()]
            if name.endswith(part)
        )
        tensor[0] = tensor[0] ^ 255 if part == "tile_bits" else tensor[0] + 1
        torch.testing.assert_close(run(x), network(x))


def test_what_torch_does_not_count_needs_refresh():
    """A write through .data leaves no trace; refresh lowers the network again."""
    network, x = changing(0), torch.randn(3, 6)
    run = Executor(network, x)
    network[4].weight.data.mul_(2)
    run.refresh()
    with torch.no_grad():
        torch.testing.assert_close(run(x), network(x))


def test_a_network_in_training_mode_is_refused():
    """Its normalisation would use the batch's statistics in torch and the stored ones natively."""
    network, x = changing(0), torch.randn(3, 6)
    run = Executor(network, x)
    network.train()
    with pytest.raises(ValueError, match=r"call model.eval\(\)"):
        run(x)
    network.eval()
    run(x)


def in_another_thread(call):
    """Its result, or its exception."""
    found = []

    def work():
        try:
            found.append(call())
        except Exception as error:  # noqa: BLE001 - handed to the test
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return found[0]


class Watched(nn.Module):
    """x: (B, 4). While it is traced, `meanwhile` runs in another thread; turns away torch.fx where it is to be exported."""

    def __init__(self, exported: bool):
        super().__init__()
        self.exported, self.shift = exported, nn.Parameter(torch.randn(8))
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8))

    def forward(self, x):
        if self.exported:
            assert x.shape[1] == 4  # a proxy cannot say
        if type(x) is not torch.Tensor and Watched.meanwhile is not None:
            Watched.outcomes.append(in_another_thread(Watched.meanwhile))
        return self.layers(x) + self.shift

    meanwhile = outcomes = None  # of the class: torch.export follows a copy


@pytest.mark.parametrize("exported", [False, True])
def test_other_threads_run_the_network_while_it_is_traced(exported, monkeypatch):
    """A forward of the same network in another thread gives tensors, not proxies, and the right ones."""
    network, x = Watched(exported), torch.randn(3, 4)
    binarize_(network, "tbn(p=4, min_layer_size=0)")
    convert.pack_(network.eval())
    with torch.no_grad():
        expected = network(x)
    monkeypatch.setattr(Watched, "outcomes", [])
    monkeypatch.setattr(Watched, "meanwhile", staticmethod(lambda: network(x)))
    run = Executor(network, x)
    assert Watched.outcomes
    assert all(torch.equal(y, expected) for y in Watched.outcomes)
    monkeypatch.setattr(Watched, "meanwhile", None)
    torch.testing.assert_close(run(x), expected)


def test_executors_are_made_in_many_threads_at_once():
    """nn.Module is itself again afterwards, and every Executor is right."""
    made, forward = {}, nn.Module.__call__
    networks = [changing(i) for i in range(6)]
    x = torch.randn(3, 6)
    threads = [
        threading.Thread(target=lambda i=i: made.update({i: Executor(networks[i], x)(x)}))
        for i in range(len(networks))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert nn.Module.__call__ is forward
    with torch.no_grad():
        for i, network in enumerate(networks):
            torch.testing.assert_close(made[i], network(x))


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda run: pickle.loads(pickle.dumps(run))]
)
def test_an_executor_can_be_copied_and_pickled(again):
    """The copy gives the same numbers; a deep copy and a pickle have a network of their own."""
    network, x = changing(0), torch.randn(3, 6)
    run = Executor(network, x, threads=2)
    run.keep_output = True
    twin = again(run)
    before = twin(x).clone()
    assert torch.equal(before, run(x))
    assert (twin.threads, twin.keep_output) == (2, True)
    if again is not copy.copy:
        _load(network, changing(1))
        assert torch.equal(twin(x), before)
        assert not torch.equal(run(x), before)


def test_a_nan_stays_in_its_image():
    """The other images of the batch keep their numbers, in every precision that this CPU has."""
    network, x = changing(0), torch.randn(3, 6)
    damaged = x.clone()
    damaged[1, 0] = float("nan")
    for precision in ("f32", "a14"):
        run, why = executor(network, x, precision=precision)
        if run is None:
            assert "no precision" in why
            continue
        assert run(damaged)[1].isnan().all()
        assert torch.equal(run(damaged)[[0, 2]], run(x)[[0, 2]])


def test_a_call_makes_no_words_for_errors(monkeypatch):
    """A small layer takes some 20 us, so words that only an error needs would show."""
    model = nn.Sequential(nn.Linear(8, 4)).eval()
    run = Executor(model, torch.zeros(1, 8))
    monkeypatch.setattr(Executor, "_expected", None)
    assert run(torch.zeros(3, 8)).shape == (3, 4)
    with pytest.raises(TypeError):
        run(torch.zeros(3, 9))
