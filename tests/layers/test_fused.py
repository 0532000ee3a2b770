"""Guards fused training: batch norm, residual sum and ReLU behind tiled layers equal the plain network."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tbn_bench import catalog, native
from tbn_bench.convert import binarize_, describe, fuse_, pack_, unfuse_
from tbn_bench.layers.fused import conv
from tbn_bench.layers.fused.conv import Parts, tile_conv
from tbn_bench.layers.fused.norm import Norm, copies_norm, mix, mixed_back, why_not_native
from tbn_bench.layers.fused.weights import KeptScales, read
from tbn_bench.layers.mixed_copies import Geometry
from tbn_bench.native import training

METHODS = [
    "tbn(p=4, min_layer_size=0, gradient='tile')",
    "tbn(p=2, min_layer_size=0)",
    "tbn(p=8, min_layer_size=0, gradient='tile', alpha='layer', alpha_source='W')",
    "tbn(p=4, min_layer_size=0, gradient='tile', copies='hadamard')",
]


def network(spec: str, width: int = 8) -> nn.Module:
    torch.manual_seed(0)
    model = catalog.build("models", f"resnet_cifar(depth=8, width={width})", in_shape=(3, 8, 8))
    binarize_(model, spec, keep=["conv1.weight", "fc.weight"])
    return model


def step(model: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Output, gradients and buffers of a training step."""
    out = model(x)
    out.square().sum().backward()
    found = {"out": out.detach(), "x": x.grad}
    found |= {name: p.grad for name, p in model.named_parameters()}
    return found | {name: buffer.clone() for name, buffer in model.named_buffers()}


def images(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    seeded = torch.Generator().manual_seed(1)
    return torch.randn(4, 3, 8, 8, generator=seeded, dtype=torch.float64).to(dtype).requires_grad_()


def assert_same(found, expected, tolerance):
    """Every tensor within `tolerance` of its largest value; gradients of A are 0 up to eps."""
    for name, value in expected.items():
        size = value.abs().max().clamp_min(1e-6)
        error = (found[name].double() - value).abs().max() / size
        assert error <= tolerance, (name, float(error))


@pytest.mark.parametrize("spec", METHODS)
def test_a_fused_step_is_the_plain_one_in_float64(spec):
    """Outputs, every gradient and the running statistics of a network with residuals."""
    plain = network(spec).double()
    fused = copy.deepcopy(plain)
    rows = fuse_(fused)
    assert all(row.fused for row in rows)
    assert_same(step(fused, images()), step(plain, images()), 1e-9)


@pytest.mark.parametrize("level", native.available_levels())
@pytest.mark.parametrize("spec", METHODS)
def test_a_native_step_is_the_plain_one(spec, level, monkeypatch):
    """The same in float32, in the native library at each level of this machine."""
    monkeypatch.setenv(native.LEVEL_VARIABLE, level)
    plain = network(spec, width=16)
    fused = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    fuse_(fused)
    x = images(torch.float32)
    x = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    found = step(fused, x)
    assert f"native {level}" in describe(fused)[-1].what
    assert_same(found, step(plain.double(), images()), 2e-5)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("num_scales", [1, 3])
def test_gradients_by_finite_differences(relu, num_scales):
    """Of everything that batch norm over copies reads."""
    torch.manual_seed(0)
    shapes = ((2, 2, 2, 2), (num_scales,), (6,), (6,), (2, 6, 2, 2), (2, 6, 2, 2))
    values = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    values[1] = values[1].abs() + 0.5
    values[5].zero_()
    for value in values:
        value.requires_grad_()
    norm = Norm(3, 1e-2, relu, None)

    def out(t, scales, weight, bias, residual, added):
        copies = (t.unsqueeze(1) * scales.reshape(-1, 1, 1, 1).expand(3, 1, 1, 1)).flatten(1, 2)
        exact = copies_norm(t, scales, weight, bias, residual, added, norm).out
        plain = F.batch_norm(copies + added, None, None, weight, bias, True, 0.1, 1e-2) + residual
        torch.testing.assert_close(exact, plain.relu() if relu else plain)
        return exact

    assert torch.autograd.gradcheck(lambda *v: out(*v, values[5].detach()), values[:5])


SHAPES = [(2, 8), (4, 4), (8, 8), (8, 2), (16, 1), (16, 4), (32, 3), (48, 15), (128, 8)]


def case(rows: int, p: int, dtype: torch.dtype):
    """Every argument of copies_norm, with gradients, and a gradient of its output."""
    torch.manual_seed(rows + p)
    shape = (3, rows * p, 5, 7)
    t = torch.randn(3, rows, 5, 7) * 2 + 7
    large = [torch.randn(shape), torch.zeros(shape), torch.randn(shape)]
    t, *large = (v.to(dtype).contiguous(memory_format=torch.channels_last) for v in (t, *large))
    residual, added, gradient = large
    vectors = [torch.rand(p) + 0.5, torch.randn(rows * p), torch.randn(rows * p)]
    arguments = [t, *vectors, residual, added]
    return [v.requires_grad_() for v in arguments], gradient


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "p"), SHAPES)
def test_native_values_are_those_of_torch_in_float64(rows, p, dtype):
    """For rows of every length: outputs, statistics and gradients, up to the type's rounding."""
    arguments, gradient = case(rows, p, dtype)
    assert not why_not_native(arguments[0], p)
    exact = [v.detach().double().requires_grad_() for v in arguments]
    found = copies_norm(*arguments, Norm(p, 1e-5, True, native.level()))
    wanted = copies_norm(*exact, Norm(p, 1e-5, True, None))
    # bfloat16: where rounding decides whether ReLU lets a value pass, both let it pass or none does
    same = (found.out > 0) == (wanted.out > 0)
    found.out.backward(gradient * same)
    wanted.out.backward(gradient.double() * same)
    tolerance = 2e-2 if dtype == torch.bfloat16 else 2e-5
    pairs = [*zip(found, wanted, strict=True)]
    pairs += [(own.grad, other.grad) for own, other in zip(arguments, exact, strict=True)]
    for own, other in pairs:
        error = (own.double() - other).abs().max() / other.abs().max()
        assert error <= tolerance


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_hadamard_tile_is_that_of_the_equations(memory_format):
    """Its signs are those that are stored, bit for bit, and its gradient that of tiling.py."""
    torch.manual_seed(0)
    holder = nn.Sequential(nn.Conv2d(32, 64, 3, bias=False))
    binarize_(holder, "tbn(p=8, min_layer_size=0, copies='hadamard', gradient='tile')")
    layer = holder.to(memory_format=memory_format)[0]
    method = layer.parametrizations.weight[0]
    latent = layer.parametrizations.weight.original
    found = read(layer, KeptScales()).tile
    tile = method.training_tile(latent).reshape(8, 8, 4, 3, 3)
    expected = tile.transpose(0, 1).flatten(0, 1)
    assert torch.equal(found, expected)
    weights = torch.randn(found.shape)
    gradients = [torch.autograd.grad((t * weights).sum(), latent)[0] for t in (found, expected)]
    torch.testing.assert_close(*gradients)


CONVS = [  # (channels, rows, size, kernel, stride, groups), the first two of a group
    (32, 16, 9, 3, 1, 1),
    (32, 8, 8, 3, 1, 1),
    (64, 8, 5, 3, 2, 1),
    (16, 16, 6, 3, 1, 4),
    (48, 24, 7, 5, 1, 1),
    (16, 4, 6, 3, 1, 2),
]


@pytest.mark.parametrize("level", native.available_levels())
@pytest.mark.parametrize("sizes", CONVS)
def test_a_native_convolution_is_that_of_torch_in_float64(sizes, level):
    """Output and both gradients, by lookup and multiply-adds, for groups, strides and few rows."""
    channels, rows, size, kernel, stride, groups = sizes
    torch.manual_seed(0)
    shapes = ((3, channels * groups, size, size), (rows * groups, channels, kernel, kernel))
    x, tile = (torch.randn(shape).contiguous(memory_format=torch.channels_last) for shape in shapes)
    tile = tile.sign()
    looks = conv.LOOKUP if training.looks_signs_up(level) else conv.TORCH
    backwards = looks if stride == 1 else conv.TORCH
    takes = training.takes_weight_gradient(channels, rows)
    parts = Parts(level, looks, backwards, conv.SUMS if takes else conv.TORCH)
    geometry = Geometry((stride, stride), (kernel // 2, kernel // 2), (1, 1))
    found = conv_step(x, tile, geometry, groups, parts)
    expected = conv_step(x.double(), tile.double(), geometry, groups, Parts())
    for own, other in zip(found, expected, strict=True):
        assert (own - other).abs().max() <= 2e-6 * other.abs().max()


GROUPED = [  # every length of a group, and borders of every kind; kernel, stride and padding last
    (8, 8, 18, 2, 3, 1, 1),
    (8, 16, 9, 2, 3, 2, 1),
    (16, 8, 7, 2, 1, 2, 0),
    (4, 4, 11, 4, 3, 1, 1),
    (4, 8, 10, 4, 5, 3, 2),
    (16, 4, 6, 4, 3, 1, 2),
    (32, 16, 5, 1, 3, 2, 0),
]


@pytest.mark.parametrize("sizes", GROUPED)
def test_groups_that_share_vectors_are_those_of_torch_in_float64(sizes):
    """Output and both gradients, where 16 lanes are one group, two or four."""
    channels, rows, size, groups, kernel, stride, padding = sizes
    level = native.level()
    if not training.takes_groups(level, channels, rows, groups):
        pytest.skip(f"level {level} has no code for small groups")
    torch.manual_seed(0)
    shapes = ((2, channels * groups, size, size), (rows * groups, channels, kernel, kernel))
    x, tile = (torch.randn(shape).contiguous(memory_format=torch.channels_last) for shape in shapes)
    geometry = Geometry((stride, stride), (padding, padding), (1, 1))
    found = conv_step(x, tile, geometry, groups, Parts(level, conv.LANES, conv.LANES, conv.LANES))
    expected = conv_step(x.double(), tile.double(), geometry, groups, Parts())
    for own, other in zip(found, expected, strict=True):
        assert (own - other).abs().max() <= 2e-6 * other.abs().max()


@pytest.mark.parametrize("sizes", [(8, 8, 6, 4), (32, 32, 5, 2)])  # by multiply-adds and by lookup
def test_parts_are_mixed_by_the_convolution(sizes):
    """The output is H times the parts; batch norm's gradient of the parts, or mixed_back, fits."""
    channels, rows, size, groups = sizes
    torch.manual_seed(0)
    x = torch.randn(2, channels * groups, size, size).contiguous(memory_format=torch.channels_last)
    tile = torch.randn(rows * groups, channels, 3, 3).sign()
    geometry = Geometry((1, 1), (1, 1), (1, 1))
    parts = conv.parts_of(x, tile, geometry, groups)
    if not conv.can_mix(tile, groups, parts):
        pytest.skip(f"level {parts.level} computes no such groups")
    found = conv_step(x, tile, geometry, groups, parts, mixed=lambda t: mixed_back(t, groups))
    exact = (x.double(), tile.double(), geometry, groups, Parts())
    expected = conv_step(*exact, mixed=lambda t: mix(t, groups))
    for own, other in zip(found, expected, strict=True):
        assert (own - other).abs().max() <= 2e-6 * other.abs().max()


def test_latents_are_stored_for_the_optimizer():
    """Of a tiled layer, in torch's default order: fused optimizers copy others at each step."""
    model = network(METHODS[0]).to(memory_format=torch.channels_last)
    fuse_(model)
    latent = model.blocks[0].conv1.parametrizations.weight.original
    assert latent.is_contiguous()


def conv_step(x, tile, geometry, groups, parts, mixed=None):
    """Output, and gradients of input and tile. mixed: what follows the convolution."""
    leaves = [x.detach().requires_grad_(), tile.detach().requires_grad_()]
    mixes = mixed is not None and x.dtype == torch.float32
    out = tile_conv(*leaves, geometry, groups, parts, mixes)
    if mixed is not None:
        out = mixed(out)
    out.backward(torch.linspace(-1, 1, out.numel(), dtype=out.dtype).sin().reshape(out.shape))
    return [out, *(leaf.grad for leaf in leaves)]


def test_state_and_evaluation_stay_the_same():
    """The same keys, shapes and values; a checkpoint of the plain network loads; eval is bit for bit."""
    plain = network(METHODS[0])
    step(plain, images(torch.float32))
    fused = network(METHODS[0])
    fuse_(fused)
    fused.load_state_dict(plain.state_dict())
    x = images(torch.float32).detach()
    assert torch.equal(fused.eval()(x), plain.eval()(x))
    assert list(fused.state_dict()) == list(plain.state_dict())


@pytest.mark.parametrize(
    "options",
    [{"momentum": None}, {"affine": False}, {"track_running_stats": False}, {"momentum": 0.3}],
)
def test_every_option_of_batch_norm(options):
    """Running statistics by average or momentum, without scale, without statistics."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, **options), nn.ReLU()).double()
    binarize_(plain, METHODS[0])
    fused = copy.deepcopy(plain)
    fuse_(fused)
    for _ in range(2):
        assert_same(step(fused, images()), step(plain, images()), 1e-9)


class Odd(nn.Module):
    """Reads the outputs of convolution and batch norm in ways that cannot be fused."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x):
        y = F.max_pool2d(self.second(self.first(x)), 2)
        z = self.norm(self.second(F.interpolate(y, scale_factor=2.0)))
        return torch.cat([2 * z - z / 2, z.relu() + z[:, :1]], 1) + z.mean(
            (2, 3), keepdim=True
        ).tile(2, 1, 1)


def test_other_operations_get_the_tensor():
    """Pools, slices, methods and sums of other shapes see the value that the plain network has."""
    torch.manual_seed(0)
    plain = Odd().double()
    binarize_(plain, METHODS[0])
    fused = copy.deepcopy(plain)
    rows = {row.name: row for row in fuse_(fused)}
    assert rows["first"].what == "plain: it has a bias"
    assert_same(step(fused, images()), step(plain, images()), 1e-9)


def test_describe_names_the_implementation():
    """Which layer does what, with its channels, type and level; and why another does not."""
    model = network("tbn(p=4, min_layer_size=0, copies='columns')", width=16)
    fuse_(model)
    step(model, images(torch.float32).detach().requires_grad_())
    found = {row.name: row.what for row in describe(model)}
    assert found["blocks.0.conv1"] == "plain: columns copies differ from channel to channel"
    assert found["blocks.0.bn1"] == "plain: the values are not in channels-last memory"


def test_packing_takes_fusion_back():
    """A packed network has torch's batch norm again, and the outputs of the trained one."""
    model = network(METHODS[0])
    fuse_(model)
    step(model, images(torch.float32))
    x = images(torch.float32).detach()
    expected = model.eval()(x)
    pack_(model)
    assert type(model.bn1) is nn.BatchNorm2d
    torch.testing.assert_close(model(x), expected)


def test_unfusing_restores_the_classes():
    """Convolutions and batch norms are those of a network that was never fused."""
    model = network(METHODS[0])
    before = [kind.__mro__[1:] for kind in map(type, model.modules())]
    fuse_(model)
    unfuse_(model)
    assert [kind.__mro__[1:] for kind in map(type, model.modules())] == before
