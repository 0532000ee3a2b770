"""Small packed files: every option gives the bytes it promises, every reader the same network, and no hostile file more memory."""

import base64
import json
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import nn

from tbn_bench import catalog, convert
from tbn_bench.convert.binarize import binarize_
from tbn_bench.experiment.numpy_forward import NumpyForward
from tbn_bench.format import packed_file
from tbn_bench.format.description import Stored
from tbn_bench.format.packed_file import ArtifactError
from tbn_bench.format.small import Small

ALL = {"fold_norm": True, "side": "float16", "kept": "int8", "short_header": True}
OPTIONS = [
    {},
    {"fold_norm": True},
    {"side": "float16"},
    {"side": "bfloat16"},
    {"kept": "int8"},
    {"short_header": True},
    ALL,
]
METHODS = [
    "bwn",
    "tbn(p=4, min_layer_size=0)",
    "tbn(p=4, min_layer_size=0, copies='hadamard')",
    "twn",
    "low_rank(rank=2, min_layer_size=0)",
    "adabin",
    "snn",
    "sign",
    "full_precision",
]


def trained(spec="tbn(p=4, min_layer_size=0)"):
    """A packed resnet with batch norms of random statistics, stem and head in float."""
    torch.manual_seed(0)
    net = catalog.build(
        "models", "resnet_cifar(depth=8, width=8)", num_classes=8, in_shape=(3, 8, 8)
    )
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 2)
            nn.init.normal_(layer.bias)
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    binarize_(net, spec, keep=("conv1", "fc"))
    if spec != "full_precision":
        convert.pack_(net)
    return net.eval()


def fresh(spec="bwn"):
    net = catalog.build(
        "models", "resnet_cifar(depth=8, width=8)", num_classes=8, in_shape=(3, 8, 8)
    )
    convert.binarize_inputs_(net, spec, ("conv1", "fc"))
    return net


def relative(got, expected):
    return float((got - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("spec", METHODS)
def test_every_method_keeps_its_outputs(spec, tmp_path):
    """With all options, within the rounding of float16 and int8; the reader's tensors are float32."""
    net = trained(spec)
    x = torch.randn(4, 3, 8, 8)
    plain = convert.save(net, tmp_path / "plain")
    small = convert.save(net, tmp_path / "small", **ALL)
    content = packed_file.read(tmp_path / "small")
    assert small == (tmp_path / "small").stat().st_size == content.file_bytes < plain
    assert content.plain_bytes == packed_file.read(tmp_path / "plain").payload_bytes
    with torch.no_grad():
        assert relative(convert.load(fresh(spec), tmp_path / "small")(x), net(x)) < 0.03


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_file_is_what_its_reader_writes_again(options, tmp_path):
    """Reading and writing changes no byte, and numpy computes what torch does."""
    convert.save(trained(), tmp_path / "first", **options)
    content = packed_file.read(tmp_path / "first")
    packed_file.write(tmp_path / "second", content)
    assert (tmp_path / "second").read_bytes() == (tmp_path / "first").read_bytes()
    x = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        expected = convert.load(fresh(), tmp_path / "first")(x)
    got = torch.from_numpy(NumpyForward(fresh().eval(), content)(x.numpy()))
    assert relative(got, expected) < 1e-5


def test_folded_norms_take_two_numbers_per_channel(tmp_path):
    """Exactly half of the bytes of the batch norms goes, and the outputs stay."""
    net = trained()
    convert.save(net, tmp_path / "plain")
    convert.save(net, tmp_path / "folded", fold_norm=True)
    saved = packed_file.read(tmp_path / "plain").payload_bytes
    saved -= packed_file.read(tmp_path / "folded").payload_bytes
    norms = [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert saved == sum(2 * 4 * layer.num_features for layer in norms) > 0
    x = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        assert relative(convert.load(fresh(), tmp_path / "folded")(x), net(x)) < 1e-5


def test_norms_that_share_a_vector_are_not_folded(tmp_path):
    """Two layers with one gamma have different scales once they are folded."""
    net = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.BatchNorm1d(4))
    net[3].weight = net[1].weight
    nn.init.uniform_(net[1].weight, 0.5, 2)
    net.train()(torch.randn(32, 6))
    convert.save(net.eval(), tmp_path / "net", fold_norm=True)
    other = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.BatchNorm1d(4))
    other[3].weight = other[1].weight
    x = torch.randn(5, 6)
    assert torch.allclose(convert.load(other, tmp_path / "net")(x), net(x), atol=1e-6)


def test_the_sizes_by_hand(tmp_path):
    """A float layer of 3 x 5 with bias: 15 int8, 3 scales and 3 biases in float16."""
    net = nn.Sequential(nn.Linear(5, 3))
    convert.save(net, tmp_path / "net", side="float16", kept="int8")
    content = packed_file.read(tmp_path / "net")
    assert content.stored_bytes() == {"0.weight": 15 + 6, "0.bias": 6}
    assert content.payload_bytes == 27
    assert content.plain_bytes == 72


@given(
    values=arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 5), st.integers(1, 5)),
        elements=st.floats(-1e4, 1e4, width=32),
    ),
    side=st.sampled_from(["float32", "float16", "bfloat16"]),
)
@settings(max_examples=100, deadline=None)
def test_int8_rows_are_near_and_encode_to_themselves(values, side):
    """Every weight within 1 % of its row's largest; encoding what was decoded gives the same bytes."""
    stored = Stored("w", "float32", values.shape)
    small = Small(side, "int8")
    coded = small.encode(stored, values)
    once = small.decode(stored, coded)
    again = small.encode(stored, once)
    assert all(np.array_equal(a, b) for a, b in zip(coded, again, strict=True))
    if values.shape[0] > 1:
        most = np.abs(values).max(1, keepdims=True)
        assert (np.abs(once - values) <= 0.01 * most + 1e-6).all()


def test_bfloat16_rounds_as_torch_does():
    x = torch.randn(1000) * torch.logspace(-30, 30, 1000)
    stored = Stored("b", "float32", (1000,))
    small = Small("bfloat16")
    got = small.decode(stored, small.encode(stored, x.numpy()))
    assert np.array_equal(got, x.to(torch.bfloat16).float().numpy())


@pytest.mark.parametrize("options", [{"side": "int4"}, {"kept": "float16"}])
def test_an_unknown_type_is_an_error(options, tmp_path):
    with pytest.raises(ValueError, match="must be one of float32, .*got"):
        convert.save(trained(), tmp_path / "net", **options)


def test_a_value_that_float16_cannot_hold_is_an_error(tmp_path):
    net = nn.Sequential(nn.Linear(5, 3))
    nn.init.constant_(net[0].bias, 1e5)
    with pytest.raises(ArtifactError, match=r"0.bias has a value of 1e\+05, which float16 cannot"):
        convert.save(net, tmp_path / "net", side="float16")
    convert.save(net, tmp_path / "net", side="bfloat16")


def edited(path, change):
    """The file with changed metadata, and its hash made right again."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    metadata = header["__metadata__"]
    change(metadata)
    metadata["sha256"] = packed_file._NO_HASH
    text = json.dumps(header, separators=(",", ":")).encode()
    start = len(text).to_bytes(8, "little") + text
    digest = packed_file._hash(start, data[end:])
    start = start.replace(
        packed_file._hash_field(packed_file._NO_HASH), packed_file._hash_field(digest)
    )
    path.write_bytes(start + data[end:])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m.update(tbn_small='{"side":"int4","kept":"int8"}'), "side must be one of"),
        (lambda m: m.update(tbn_small='{"side":[],"kept":"int8"}'), "side must be one of"),
        (lambda m: m.update(tbn_small='{"side":"float16"}'), "tbn_small must have side and kept"),
        (lambda m: m.pop("tbn_small"), "no tbn_small"),
        (lambda m: m.update(tbn_small='{"side":"float32","kept":"float32"}'), "elements, its desc"),
        (lambda m: m.update(tbn_layers='[[["a"],{"b":{"zeros":[1000000000]}}]]'), "constants must be"),
        (lambda m: m.update(tbn_layers='[[["a"],{"b":{"ones":[2,2]}}]]'), "constants must be"),
        (lambda m: m.update(tbn_format_version="3"), "belongs to a small file|elements, its desc"),
        (lambda m: m.update(tbn_short="!"), "tbn_short"),
    ],
)  # fmt: skip
def test_a_small_file_that_is_not_right_is_refused(change, said, tmp_path):
    path = tmp_path / "net"
    convert.save(trained(), path, fold_norm=True, side="float16", kept="int8")
    edited(path, change)
    with pytest.raises(ArtifactError, match=said):
        packed_file.read(path)


def test_a_short_header_cannot_grow_without_limit(tmp_path):
    """As a bomb of compressed data would."""
    convert.save(trained(), tmp_path / "net", short_header=True)
    bomb = base64.b85encode(zlib.compress(b" " * (packed_file.HEADER_BYTES + 1))).decode()
    edited(tmp_path / "net", lambda m: m.update(tbn_short=bomb))
    with pytest.raises(ArtifactError, match="tbn_short must be at most 524288 bytes"):
        packed_file.read(tmp_path / "net")


def test_plain_files_stay_version_3(tmp_path):
    convert.save(trained(), tmp_path / "net")
    assert b'"tbn_format_version":"3"' in (tmp_path / "net").read_bytes()
    assert packed_file.read(tmp_path / "net").small is None
