"""Guards the second opinion: numpy on a packed file gives what torch gives, for layers and
networks.
"""

import numpy as np
import pytest
import torch
from torch import nn

from tbn_bench import catalog, convert
from tbn_bench.convert.binarize import binarize_
from tbn_bench.experiment import numpy_ops
from tbn_bench.experiment.numpy_forward import FUNCTIONS, NumpyForward
from tbn_bench.experiment.numpy_ops import Unsupported


def error(model, structure, x):
    """Largest difference between numpy and torch, as a share of the largest output."""
    model.eval()
    with torch.no_grad():
        expected = model(x).numpy()
    found = NumpyForward(structure, convert.to_artifact(model))(x.numpy())
    assert (found.dtype, found.shape) == (np.float32, expected.shape)
    return np.abs(found - expected).max() / np.abs(expected).max()


def stirred(model):
    """The same model with statistics and affine parameters that hide no mistake."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                for tensor in (module.running_mean, module.weight, module.bias):
                    tensor.normal_()
                module.running_var.uniform_(0.5, 2)
    return model


class Airbench(nn.Module):
    """The forms of a fast CIFAR network: an even kernel, named padding, pools that leave a rest."""

    def __init__(self):
        super().__init__()
        self.whiten, self.conv = nn.Conv2d(3, 8, 2), nn.Conv2d(8, 16, 3, padding="same", bias=False)
        self.norm, self.act, self.pool = nn.BatchNorm2d(16), nn.GELU(), nn.MaxPool2d(3)
        self.head = nn.Linear(16 * 25, 10, bias=False)

    def forward(self, x):
        x = self.act(self.norm(nn.functional.max_pool2d(self.conv(self.act(self.whiten(x))), 2)))
        return self.head(self.pool(x).flatten(1)) / 9


LAYERS = {
    "stride, padding, dilation, groups": (nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 2), (1, 2), groups=2), (4, 9, 8)),
    "depthwise, reflected": (nn.Conv2d(4, 4, 3, padding=1, groups=4, padding_mode="reflect"), (4, 6, 5)),
    "an even kernel padded by name": (nn.Conv2d(3, 5, (2, 3), padding="same"), (3, 6, 7)),
    "one dimension": (nn.Conv1d(3, 5, 3, 2, 1), (3, 11)),
    "max pool, ceil": (nn.MaxPool2d(3, 2, 1, ceil_mode=True), (2, 8, 6)),
    "average pool": (nn.AvgPool2d(3, 2, 1, count_include_pad=False), (2, 8, 7)),
    "average pool with its padding": (nn.AvgPool2d(2, padding=1), (2, 6, 7)),
    "adaptive pool": (nn.AdaptiveAvgPool2d((3, None)), (2, 7, 5)),
    "layer norm": (nn.LayerNorm((3, 4)), (2, 3, 4)),
    "no affine": (nn.BatchNorm2d(3, affine=False), (3, 4, 4)),
    "gelu": (nn.GELU(), (5, 5)), "tanh gelu": (nn.GELU("tanh"), (5, 5)), "hardtanh": (nn.Hardtanh(-0.5, 0.7), (5, 5)),
    "prelu": (nn.PReLU(3), (3, 4)), "softmax": (nn.Softmax(-1), (3, 4)), "flatten": (nn.Flatten(1, 2), (2, 3, 4)),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_torchs(name):
    """In every form of its arguments, on seven samples."""
    layer, shape = LAYERS[name]
    with pytest.warns() if "even" in name else torch.no_grad():  # torch warns of an uneven padding
        assert error(nn.Sequential(layer), nn.Sequential(layer), torch.randn(7, *shape)) < 1e-6


NETWORKS = {
    "mlp": (1, 8, 8), "resnet_cifar(depth=8)": (3, 12, 12), "resnet_cifar(depth=18, width=8)": (3, 16, 16), "vgg_small(width=8)": (3, 16, 16),
    "micro_cnn": (1, 12, 12), "vit(dim=16, depth=1, heads=2, head_dim=8, mlp_dim=16)": (3, 8, 8),
    "resnet_cifar(depth=8, activation='rprelu', shortcuts='conv')": (3, 8, 8), "pointnet_cls": (3, 20),
}  # fmt: skip


@pytest.mark.parametrize(
    "binarizer",
    ["tbn(p=2, min_layer_size=0)", "bwn", "twn", "tbn(p=2, min_layer_size=0, copies='shifted')"],
)
@pytest.mark.parametrize("spec", NETWORKS)
def test_a_network_is_its_packed_file(spec, binarizer):
    """By the structure of a full-precision model with other weights."""
    shape = NETWORKS[spec]
    model, structure = (
        catalog.build("models", spec, num_classes=10, in_shape=shape) for _ in range(2)
    )
    binarize_(stirred(model), binarizer)
    convert.pack_(model.eval())
    assert error(model, structure, torch.randn(3, *shape)) < 1e-5


def test_the_forms_of_airbench():
    """On the meta device: no torch kernel can have run."""
    model = stirred(Airbench())
    binarize_(model, "tbn(p=2, min_layer_size=0)")
    convert.pack_(model.eval())
    with torch.device("meta"):
        structure = Airbench()
    assert error(model, structure, torch.randn(5, 3, 32, 32)) < 1e-5


def test_patches_are_laid_out_a_few_images_at_a_time(monkeypatch):
    """The result does not depend on how many."""
    layer, x = nn.Sequential(nn.Conv2d(3, 4, 3)), torch.randn(5, 3, 6, 6)
    monkeypatch.setattr(numpy_ops, "COLUMN_FLOATS", 1000)
    assert error(layer, layer, x) < 1e-6


class Odd(nn.Module):
    def forward(self, x):
        return torch.fft.fft(x).abs() + torch.add(x, x, alpha=2)


@pytest.mark.parametrize(
    ("model", "said"),
    [(nn.Sequential(nn.CELU(), nn.Mish()), "CELU, Mish"), (Odd(), "the function fft"),
     (nn.Sequential(nn.Identity(), nn.BatchNorm2d(3, track_running_stats=False)), "without running statistics")],
)  # fmt: skip
def test_what_has_no_rule_is_named(model, said):
    """All of it at once, before anything is computed, where the graph shows it."""
    with pytest.raises(Unsupported, match=said):
        NumpyForward(model, convert.to_artifact(model))(np.zeros((1, 3, 4, 4), np.float32))


def test_an_argument_that_a_rule_does_not_know_is_refused(monkeypatch):
    """torch.add(alpha=2) is no plain sum."""
    monkeypatch.setitem(FUNCTIONS, "fft_fft", lambda x: x)
    with pytest.raises(Unsupported, match="add as add calls it"):
        NumpyForward(Odd(), convert.to_artifact(Odd()))(np.zeros((1, 3), np.float32))


def test_a_value_that_is_written_over_while_others_read_it_is_refused():
    """torch's result would depend on the order."""

    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.ReLU(inplace=True)

        def forward(self, x):
            y = x * 2
            return self.act(y) + y

    with pytest.raises(Unsupported, match="ReLU in place"):
        NumpyForward(Shared(), convert.to_artifact(Shared()))


def test_a_binarized_input_is_refused_by_name():
    """Its binarizer's own code is torch's."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Hardtanh(), nn.Conv2d(4, 4, 3))
    binarize_(model, "bireal")
    convert.pack_(model.eval())
    with pytest.raises(Unsupported, match="the input binarizer"):
        NumpyForward(model, convert.to_artifact(model))
