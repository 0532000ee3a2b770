"""Guards the packed file: bytes as predicted, dense weights back bit for bit, damage and hostility refused."""

import copy
import hashlib
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from fuzz import made_packed_files
from safetensors.numpy import save
from torch import nn

from tbn_bench import catalog, convert
from tbn_bench.convert.binarize import binarize_
from tbn_bench.convert.cost import cost
from tbn_bench.format import packed_file
from tbn_bench.format.packed_file import ArtifactError
from tbn_bench.layers import packed

MODELS = [
    ("mlp(hidden=[40, 24])", (1, 6, 6)),
    ("resnet_cifar(depth=8)", (3, 8, 8)),
    ("vit(dim=32, depth=1, heads=2, head_dim=16, mlp_dim=64)", (3, 8, 8)),
]
SPECS = [
    "full_precision",
    "sign",
    "bwn",
    "tbn(p=4, min_layer_size=0)",
    "tbn(p=4, alpha='layer', min_layer_size=600)",
]


def network(model: str, shape: tuple[int, ...]) -> nn.Module:
    return catalog.build("models", model, num_classes=8, in_shape=shape)


def saved(
    tmp_path, model="mlp(hidden=[40, 24])", shape=(1, 6, 6), spec="tbn(p=4, min_layer_size=0)"
):
    """(path, packed model, dense copy, cost) of a network with noise in its statistics."""
    net = network(model, shape)
    plan = binarize_(net, spec)
    net.train()(torch.randn(8, *shape))
    total, plain = cost(net, plan, shape), convert.dense(net.eval())
    if spec != "full_precision":
        convert.pack_(net)
    path = tmp_path / "net.safetensors"
    convert.save(net.eval(), path)
    return path, net, plain, total


@pytest.mark.parametrize(("model", "shape"), MODELS)
@pytest.mark.parametrize("spec", SPECS)
def test_bytes_are_as_predicted_and_the_network_comes_back(tmp_path, model, shape, spec):
    path, net, plain, total = saved(tmp_path, model, shape, spec)
    content = packed_file.read(path)
    header = int.from_bytes(path.read_bytes()[:8], "little")
    assert content.payload_bytes == total.stored_bytes
    assert path.stat().st_size == 8 + header + total.stored_bytes
    with torch.device("meta"):
        blank = network(model, shape)
    loaded, x = convert.load_(blank, path), torch.randn(3, *shape)
    with torch.no_grad():
        assert torch.equal(loaded(x), net(x))
    state = plain.state_dict()
    for name, weight in content.dense().items():
        assert np.array_equal(weight, state[name].numpy()), name


class Attentive(nn.Module):
    """nn.MultiheadAttention reads its weights itself; a layer used twice and two layers with one weight."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.twice = nn.Linear(16, 16)
        self.encode, self.decode = nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False)
        self.decode.weight = self.encode.weight

    def forward(self, x):
        x = self.attention(x, x, x, need_weights=False)[0]
        return self.decode(self.encode(self.twice(self.twice(x))))


@pytest.mark.parametrize("spec", ["bwn", "tbn(p=4, min_layer_size=0)"])
def test_attention_and_shared_weights_are_stored_once_as_bits(tmp_path, spec):
    net, x = Attentive(), torch.randn(2, 5, 16)
    plan = binarize_(net, spec)
    expected = net.eval()(x).detach()
    total = sum(row.stored_bits for row in plan.rows) // 8 + 4 * (48 + 16 + 16)
    convert.pack_(net)
    convert.save(net, tmp_path / "a.safetensors")
    content = packed_file.read(tmp_path / "a.safetensors")
    assert content.payload_bytes == total
    assert {"attention.in_proj_weight", "attention.out_proj.weight", "decode.weight"} <= set(
        content.weights
    )
    loaded = convert.load_(Attentive(), tmp_path / "a.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), expected, rtol=1e-5, atol=1e-5)


class Two(nn.Module):
    """Two parameters of one storage."""

    def __init__(self, first: torch.Tensor, second: torch.Tensor):
        super().__init__()
        self.first, self.second = nn.Parameter(first), nn.Parameter(second)


VIEWS = {
    "transpose": (lambda w: w, lambda w: w.t(), 2),
    "slice": (lambda w: w[:4], lambda w: w[::2], 2),
    "expanded": (lambda w: w[0].expand(8, 8), lambda w: w[0][:, None].expand(8, 8), 2),
    "offset": (lambda w: w[:4], lambda w: w[4:], 2),
    "diagonal": (lambda w: w[0], lambda w: w.diagonal(), 2),
    "the same layout": (lambda w: w, lambda w: w.view(8, 8), 1),
    "axes of length 1": (lambda w: w[:1], lambda w: w.as_strided((1, 8), (1, 1)), 1),
}


@pytest.mark.parametrize("view", VIEWS)
def test_views_of_one_storage_keep_their_values(tmp_path, view):
    """Tensors are shared in the file where memory, shape and strides are the same, and there alone."""
    first, second, stored = VIEWS[view]
    values = torch.arange(64.0).reshape(8, 8)
    net = Two(first(values), second(values))
    convert.save(net, tmp_path / "net.safetensors")
    assert len(packed_file.read(tmp_path / "net.safetensors").tensors) == stored
    blank = Two(torch.zeros(net.first.shape), torch.zeros(net.second.shape))
    loaded = convert.load_(blank, tmp_path / "net.safetensors")
    assert torch.equal(loaded.first, first(values))
    assert torch.equal(loaded.second, second(values))


def test_a_decoder_of_the_transposed_encoder_comes_back(tmp_path):
    """Square weights, tied by a transpose: the file holds both, and the decoder is not the encoder."""
    enc, dec = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
    dec.weight = nn.Parameter(enc.weight.t())
    convert.save(nn.Sequential(enc, dec), tmp_path / "net.safetensors")
    blank = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    loaded = convert.load_(blank, tmp_path / "net.safetensors")
    assert torch.equal(loaded[0].weight, enc.weight)
    assert torch.equal(loaded[1].weight, enc.weight.t())


def test_the_reader_needs_no_torch(tmp_path):
    path, *_ = saved(tmp_path)
    code = f"import sys; from tbn_bench.format import packed_file; packed_file.read({str(path)!r}).dense(); print('torch' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "False"
    )


def rewrite(path, change):
    """The same network as a file of version 2, with its metadata changed."""
    content = packed_file.read(path)
    made_packed_files.write_2(path, content)
    header = json.loads(path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")])
    metadata = header["__metadata__"]
    change(metadata, content.tensors)
    path.write_bytes(save(content.tensors, metadata))


def edit_layer(**fields):
    def change(metadata, tensors):
        layers = json.loads(metadata["tbn_layers"])
        layers["1.weight"] |= fields
        metadata["tbn_layers"] = json.dumps(layers)

    return change


def flip_a_bit(metadata, tensors):
    tensors["1.tile_bits"] = tensors["1.tile_bits"] ^ np.uint8(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda m, t: m.update(tbn_format_version="5"),
            "format version '5', this tbn_bench reads 1, 2, 3, 4",
        ),
        (lambda m, t: m.pop("tbn_format_version"), "not a packed network"),
        (lambda m, t: m.update(tbn_layers="{"), "damaged metadata"),
        (lambda m, t: m.update(tbn_layers="[]"), "damaged metadata"),
        (lambda m, t: m.update(tbn_aliases='{"a": "b"}'), "shares the tensor 'b'"),
        (flip_a_bit, "hash of its tile is wrong"),
        (edit_layer(p=0), "impossible shape"),
        (edit_layer(p=7), "do not make"),
        (edit_layer(shape=[2**40, 2**40]), "impossible shape"),
        (edit_layer(shape=[]), "impossible shape"),
        (edit_layer(shape=[40, 37]), "do not make"),
        (edit_layer(tile="nothing"), "tensors are missing"),
        (edit_layer(tile="1.bias"), "expected uint8"),
        (edit_layer(alphas="1.tile_bits"), "expected float32"),
        (edit_layer(bit_order="msb"), "unknown bit order"),
        (edit_layer(sha256=3), "its description must have"),
        (
            edit_layer(code="huffman"),
            "code must be one of sign, ternary, codebook, low_rank, got 'huffman'",
        ),
        (edit_layer(code=3), "its code cannot be read"),
        (edit_layer(code="ternary"), r"its tile is uint8 \(45,\), expected uint8 \(72,\)"),
        (edit_layer(code="codebook", index_bits=2), "a codebook needs p = 1"),
        (edit_layer(index_bits="2"), "its index_bits cannot be read"),
        (edit_layer(exponents=True), "its alphas is float32 .4,., expected int8 .4,."),
        (edit_layer(exponents="yes"), "its exponents cannot be read"),
        (edit_layer(offsets="nothing"), "tensors are missing"),
        (edit_layer(offsets=None), "its offsets cannot be read"),
        (edit_layer(offsets="1.tile_bits"), "its offsets is uint8 .45,., expected float32 .4,."),
        (edit_layer(copies="sideways"), "copies='sideways': must be one of"),
        (edit_layer(copies=["rotated"]), "its copies cannot be read"),
        (
            edit_layer(copies="shifted"),
            "expected 4 shifts of 0 numbers .at least one spatial axis.",
        ),
        (
            edit_layer(copies="shifted", shifts=[[0, "x"]]),
            "its shifts must be lists of whole numbers",
        ),
        (edit_layer(copies="shifted", shifts=[5]), "its shifts must be lists of whole numbers"),
        (edit_layer(shifts="[0]"), "its shifts cannot be read"),
    ],
)
def test_a_file_that_is_not_right_is_refused(tmp_path, change, message):
    path, *_ = saved(tmp_path)
    rewrite(path, change)
    with pytest.raises(ArtifactError, match=message) as caught:
        packed_file.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def set_tile(metadata, tensors, value):
    """The first byte of a tile, under a right hash."""
    tensors["1.tile_bits"] = np.concatenate([[np.uint8(value)], tensors["1.tile_bits"][1:]])
    edit_layer(sha256=hashlib.sha256(tensors["1.tile_bits"].tobytes()).hexdigest())(
        metadata, tensors
    )


def drop(name):
    def change(metadata, tensors):
        layers = json.loads(metadata["tbn_layers"])
        del layers["1.weight"][name]
        metadata["tbn_layers"] = json.dumps(layers)

    return change


CODED = {
    "ternary": (nn.Conv2d(3, 4, 3), "twn"),
    "codebook": (nn.Conv2d(3, 4, 3), "snn(tau=3)"),
    "exponents": (nn.Linear(3, 4), "irnet"),
    "offsets": (nn.Linear(3, 4), "adabin"),
    "low_rank": (nn.Conv2d(3, 4, 3), "low_rank(rank=2, min_layer_size=0)"),
}


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("ternary", drop("code"), r"its tile is uint8 \(22,\), expected uint8 \(14,\)"),
        (
            "ternary",
            edit_layer(code="codebook", index_bits=3, codebook="1.alphas"),
            "its tile is uint8",
        ),
        ("codebook", drop("codebook"), "its codebook is missing"),
        ("codebook", edit_layer(codebook="nothing"), "its tensors are missing"),
        (
            "codebook",
            edit_layer(codebook="1.tile_bits"),
            "its codebook is uint8 .5,., expected uint8 .9,.",
        ),
        ("codebook", edit_layer(codebook=7), "its codebook cannot be read"),
        ("codebook", drop("index_bits"), "1 to 9 index bits"),
        ("codebook", edit_layer(index_bits=4), "its tile is uint8 .5,., expected uint8 .6,."),
        ("codebook", edit_layer(index_bits=-1), "1 to 9 index bits"),
        ("codebook", edit_layer(index_bits=10**9), "1 to 9 index bits"),
        ("exponents", drop("exponents"), "its alphas is int8 .4,., expected float32 .4,."),
        ("offsets", edit_layer(offsets="1.bias_"), "its tensors are missing"),
        ("offsets", edit_layer(alphas="1.tile_bits"), "expected float32"),
        ("low_rank", drop("rank"), "a rank from 1 on belongs to code low_rank"),
        ("low_rank", drop("code"), "a rank from 1 on belongs to code low_rank"),
        ("low_rank", edit_layer(rank="2"), "its rank cannot be read"),
        ("low_rank", edit_layer(rank=-2), "a rank from 1 on"),
        ("low_rank", edit_layer(rank=3), "rank 3 of .4, 3, 3, 3. has 10 scales, got 9"),
        ("low_rank", edit_layer(rank=10**9), "has 1000000007 scales, got 9"),
        ("low_rank", edit_layer(p=2, q=54), "low_rank needs p = 1"),
        ("low_rank", edit_layer(exponents=True), "low_rank needs p = 1, float scales"),
        ("low_rank", edit_layer(alphas="1.bias"), "has 9 scales, got 4"),
        ("low_rank", edit_layer(shape=[4, 3, 9, 3]), "do not make"),
        ("low_rank", edit_layer(tile="1.alphas"), "its tile is float32"),
    ],
)
def test_a_coded_weight_that_is_not_right_is_refused(tmp_path, kind, change, message):
    """The optional fields, each missing, of a wrong type, or not fitting the tensors."""
    path = tmp_path / "n.safetensors"
    coded(path, kind)
    packed_file.read(path).dense()
    rewrite(path, change)
    with pytest.raises(ArtifactError, match=message) as caught:
        packed_file.read(path)
    assert str(path) in str(caught.value)


def test_bytes_that_no_writer_makes_are_refused(tmp_path):
    """243 and more are no five ternary digits, even where the hash says that they are meant."""
    net, path = nn.Sequential(nn.Identity(), nn.Linear(3, 4)), tmp_path / "n.safetensors"
    binarize_(net, "twn")
    convert.pack_(net)
    net[1].tile_bits[0] = 243
    with pytest.raises(ArtifactError, match="the data is damaged"):
        convert.save(net, path)
    net[1].tile_bits[0] = 242
    convert.save(net, path)
    rewrite(path, lambda metadata, tensors: set_tile(metadata, tensors, 243))
    with pytest.raises(ArtifactError, match="the data is damaged"):
        packed_file.read(path)


def coded(path, kind):
    """A packed network of one coded layer, called 1, as a file."""
    module, spec = CODED[kind]
    net = nn.Sequential(nn.Identity(), copy.deepcopy(module))
    binarize_(net, spec)
    convert.pack_(net)
    convert.save(net, path)
    return net


@pytest.mark.parametrize("kind", CODED)
def test_a_flipped_bit_is_refused(tmp_path, kind):
    """In every byte: of scales, offsets, codebooks and biases as of signs, and of the header, which says what they mean."""
    path = tmp_path / "n.safetensors"
    coded(path, kind)
    whole = path.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError):
            packed_file.read(path)


@pytest.mark.parametrize("part", ["alphas", "offsets"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scales_that_are_not_finite_are_refused(tmp_path, part, value):
    """By the writer; by the reader of an old file; and by that of a new one whose hash is right."""
    path = tmp_path / "n.safetensors"
    net = coded(path, "offsets")
    content = packed_file.read(path)
    header, data = made_packed_files.opened(path.read_bytes())
    scale = content.tensors[f"1.{part}"][:1].tobytes()
    damaged = {**content.tensors, f"1.{part}": np.full(4, value, np.float32)}
    with torch.no_grad():
        getattr(net[1], part)[2] = value
    with pytest.raises(ArtifactError, match=f"weight 1.weight: its {part} are not finite"):
        convert.save(net, tmp_path / "not.safetensors")
    assert not (tmp_path / "not.safetensors").exists()
    made_packed_files.write_2(path, packed_file.Artifact(damaged, content.weights))
    with pytest.raises(
        ArtifactError, match=f"weight 1.weight: its {part} are not finite; export it again"
    ):
        packed_file.read(path)
    path.write_bytes(
        made_packed_files.sealed(header, data.replace(scale, np.float32(value).tobytes(), 1))
    )
    with pytest.raises(ArtifactError, match=f"its {part} are not finite"):
        packed_file.read(path)


@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize("kind", CODED)
def test_files_of_older_versions_are_read(tmp_path, kind, version):
    path, old = tmp_path / "n.safetensors", tmp_path / "old.safetensors"
    coded(path, kind)
    content = packed_file.read(path)
    content.config, content.commit = {"seed": 1}, "c0ffee"
    made_packed_files.write_2(old, content)
    rewrite(old, lambda metadata, tensors: metadata.update(tbn_format_version=version))
    found = packed_file.read(old)
    assert (found.weights, found.aliases, found.config) == (content.weights, {}, {"seed": 1})
    assert found.commit == "c0ffee"
    assert {n: t.ravel().tolist() for n, t in found.tensors.items()} == {
        n: t.ravel().tolist() for n, t in content.tensors.items()
    }


def test_a_file_says_the_same_in_the_same_bytes(tmp_path):
    """The header is made of the network, and its size is known before it is written."""
    path, net, *_ = saved(tmp_path)
    first, content = path.read_bytes(), packed_file.read(path)
    convert.save(net, path)
    assert path.read_bytes() == first
    packed_file.write(path, content)
    assert path.read_bytes() == first
    assert content.header_bytes == 8 + int.from_bytes(first[:8], "little")
    assert content.file_bytes == len(first)


def test_a_header_by_hand(tmp_path):
    """Two layers of one shape are one group; a scalar, a counter, and an option that is not the usual one."""
    net = nn.Sequential(*(nn.Linear(4, 4) for _ in range(2)), nn.Linear(4, 2, bias=False))
    binarize_(net, "tbn(p=2, min_layer_size=0, copies='rotated')", keep=["2"])
    convert.pack_(net)
    net.register_buffer("steps", torch.tensor(3))
    path = tmp_path / "n.safetensors"
    convert.save(net, path, config={}, commit="c0ffee")
    header, data = made_packed_files.opened(path.read_bytes())
    metadata = header.pop("__metadata__")
    assert json.loads(metadata["tbn_layers"]) == [
        [["0", "1"], {"weight": [[4, 4], 2, 2, {"copies": "rotated"}], "bias": [4]}],
        [[""], {"steps": {"int64": []}}],
        [["2"], {"weight": [2, 4]}],
    ]
    assert sorted(metadata) == [
        "commit",
        "producer",
        "sha256",
        "tbn_config",
        "tbn_format_version",
        "tbn_layers",
    ]
    assert header == {
        "int64": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]},
        "float32": {"dtype": "F32", "shape": [20], "data_offsets": [8, 88]},
        "uint8": {"dtype": "U8", "shape": [2], "data_offsets": [88, 90]},
    }
    assert len(data) == 90


def test_headers_are_short(tmp_path):
    """Less than half a percent of ResNet-18's file, and less than the bits of a small network."""
    sizes = {}
    for model, shape in (("resnet(depth=18)", (3, 64, 64)), ("micro_cnn", (1, 28, 28))):
        net = network(model, shape)
        binarize_(net, "tbn(p=4)")
        convert.pack_(net)
        content = convert.to_artifact(net)
        sizes[model] = content.header_bytes, content.payload_bytes
    header, payload = sizes["resnet(depth=18)"]
    assert header < 0.005 * payload
    header, payload = sizes["micro_cnn"]
    assert header < 0.2 * payload


@pytest.mark.parametrize("keep", [0, 4, 8, 100, -1])
def test_a_truncated_file_is_refused(tmp_path, keep):
    path, *_ = saved(tmp_path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ArtifactError, match="not a whole safetensors file"):
        packed_file.read(path)


def test_a_pickle_is_refused_and_not_run(tmp_path):
    marker = tmp_path / "ran"

    class Payload:
        def __reduce__(self):
            return (open, (str(marker), "w"))

    pickle.loads(pickle.dumps(Payload())).close()
    assert marker.exists(), "the payload must be live for this test to mean anything"
    marker.unlink()
    path = tmp_path / "net.safetensors"
    path.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(ArtifactError):
        packed_file.read(path)
    assert not marker.exists()


def test_a_huge_header_is_refused(tmp_path):
    path = tmp_path / "net.safetensors"
    path.write_bytes((2**62).to_bytes(8, "little") + b"{}")
    with pytest.raises(ArtifactError):
        packed_file.read(path)


def test_a_missing_file_and_a_folder_say_so(tmp_path):
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(ArtifactError, match="cannot read|not a whole"):
            packed_file.read(path)


def test_a_file_of_another_network_is_refused(tmp_path):
    path, *_ = saved(tmp_path)
    for other in ("mlp(hidden=[40])", "mlp(hidden=[44, 24])", "resnet_cifar(depth=8)"):
        with pytest.raises(ArtifactError, match="does not belong|in the file"):
            convert.load_(network(other, (1, 6, 6)), path)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path, net, *_ = saved(tmp_path)
    before = path.read_bytes()

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ArtifactError, match="No space left"):
        convert.save(net, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_bits_unpacked_in_the_graph_are_the_bits(tmp_path):
    net = network("mlp(hidden=[40, 24])", (1, 6, 6))
    binarize_(net, "tbn(p=3, min_layer_size=0, alpha='layer')")
    convert.pack_(net)
    graph, x = copy.deepcopy(net), torch.randn(2, 1, 6, 6)
    for module in graph.modules():
        if isinstance(module, packed.Packed):
            module.unpack_in_forward_()
            assert module.factor is None
    with torch.no_grad():
        assert torch.equal(graph(x), net(x))
