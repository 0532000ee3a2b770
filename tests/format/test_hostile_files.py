"""Guards the readers of packed files against files that lie: an ArtifactError of one line, before memory is taken."""

import json
import os
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fuzz import made_packed_files, packed_files
from fuzz.packed_mutations import text_of
from torch import nn

from tbn_bench import convert
from tbn_bench.convert.binarize import binarize_
from tbn_bench.experiment import export, weights
from tbn_bench.experiment.numpy_forward import NumpyForward
from tbn_bench.format import description, packed_file, strict_json
from tbn_bench.format.description import Weight
from tbn_bench.format.form import Form
from tbn_bench.format.layouts import Copies
from tbn_bench.format.packed_file import ArtifactError


def test_mutated_files_are_read_or_refused():
    """400 of them; python -m tests.fuzz.packed_files makes more."""
    report = packed_files.fuzz(400, seed=0)
    assert report.failures == 0, report.summary()
    assert report.peak_bytes < packed_files.MOST_BYTES
    assert {"fine", "refused by read"} <= set(report.outcomes)


def convolution(copies="shifted", rows=8):
    """(full precision, binarized and packed)"""
    net = nn.Sequential(nn.Conv2d(4, rows, 3, padding=1))
    small = nn.Sequential(nn.Conv2d(4, rows, 3, padding=1))
    binarize_(small, f"tbn(p=4, min_layer_size=0, copies={copies!r})")
    convert.pack_(small.eval())
    return net, small


def described(path, change, copies="shifted", rows=8):
    """A file of version 3 under a right hash. change(groups, metadata) changes what it says."""
    net, small = convolution(copies, rows)
    convert.save(small, path)
    header, data = made_packed_files.opened(path.read_bytes())
    metadata = header["__metadata__"]
    groups = json.loads(metadata["tbn_layers"])
    change(groups, metadata)
    metadata["tbn_layers"] = text_of(groups)
    path.write_bytes(made_packed_files.sealed(header, data))
    return net


def weight_of(groups):
    """[shape, p, scales, options] of the one layer."""
    return groups[0][1]["weight"]


def move(far):
    return lambda groups, metadata: weight_of(groups)[3].update(shifts=[[0, far]] * 4)


def say(**fields):
    return lambda groups, metadata: metadata.update(fields)


def other_kind(groups, metadata):
    """Far shifts of copies that nothing moves: their weight was said to be as large as if it did."""
    weight_of(groups)[3].update(copies="hadamard", shifts=[[0, 10**4000]] * 4)


def rename(name):
    return lambda groups, metadata: groups[0].__setitem__(0, [name])


def shape(value):
    return lambda groups, metadata: groups[0][1].update(bias=value)


LIES = {
    "a shift of 1500": (move(1500), "a shift must be at most 255"),
    "a shift of another kind": (other_kind, "shifts belong to copies='shifted' alone"),
    "a shift of copies in rows": (move(1), "shifts belong to copies='shifted' alone", "rotated"),
    "an infinite shift": (move("@inf@"), "Infinity is no number of JSON"),
    "a shift beyond float64": (move("@huge float@"), "beyond the numbers of float64"),
    "a shift of 5000 digits": (move("@too huge int@"), "4300"),
    "many axes": (shape("@many axes@"), "up to 32 axes"),
    "a product of many digits": (shape("@many large axes@"), "up to 32 axes"),
    "33 axes": (shape([1] * 33), "up to 32 axes"),
    "32 large axes": (shape([2**40] * 32), "a shape of"),
    "many lists": (shape("@many lists@"), "expected .shape, p, scales, options."),
    "a nested shape": (shape("@deep list@"), "nested deeper than 32 levels"),
    "a shape that is nested deeper": (shape("@deeper list@"), "nested deeper than 32 levels"),
    "a key twice": (shape("@twice@"), "the key 'a' is there twice"),
    "a name that is no text": (rename("\ud800"), "printable letters"),
    "a name of two lines": (rename("a\nb"), "printable letters"),
    "a long name": (rename("a" * 501), "at most 500"),
    "an alias to a list": (say(tbn_aliases='{"0.bias": ["0.alphas"]}'), "must hold strings"),
    "an alias to itself": (say(tbn_aliases='{"0.bias": "0.bias"}'), "shares the tensor|elements"),
    "a cycle": (say(tbn_aliases='{"0.bias": "x", "x": "0.bias"}'), "shares the tensor|elements"),
    "a config of NaN": (say(tbn_config='{"lr": NaN}'), "NaN is no number of JSON"),
    "a config that is a list": (say(tbn_config="[1]"), "must be a JSON object"),
    "a nested config": (
        say(tbn_config='{"a":' * 40 + "1" + "}" * 40),
        "nested deeper than 32 levels",
    ),
    "a key of the config twice": (
        say(tbn_config='{"seed": 1, "seed": 2}'),
        "the key 'seed' is there twice",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_in_the_description_is_refused_in_one_line(tmp_path, lie):
    change, said, *copies = LIES[lie]
    path = tmp_path / "net.safetensors"
    described(path, change, *copies)
    with pytest.raises(ArtifactError, match=said) as caught:
        packed_file.read(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


def peak_bytes(call):
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    except ArtifactError:
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def grow(factor):
    """The same tile that many times as often."""

    def change(groups, metadata):
        weight = weight_of(groups)
        weight[0][0] *= factor
        weight[1] *= factor

    return change


@pytest.mark.parametrize("factor", [2**12, 2**20, 2**30])
def test_a_claimed_p_takes_no_memory(tmp_path, factor):
    """Neither when it is read nor when it is made dense or loaded: 2^20 times the weight would take 1.2 GB."""
    net = described(tmp_path / "net", grow(factor), "rotated")
    content = packed_file.read(tmp_path / "net")
    for call in (
        content.dense,
        lambda: NumpyForward(net, content),
        lambda: convert.load_(net, content),
    ):
        with pytest.raises(ArtifactError):
            call()
        assert peak_bytes(call) < 20e6


def test_shifts_are_held_once_for_all_modules_of_a_group(tmp_path):
    """1000 layers of 10,000 copies each are 72 MB of shifts where each holds its own."""
    p, modules = 10_000, 1000
    shifts = ",".join(["[0]"] * p)
    names = ",".join(f'"{n}"' for n in range(modules))
    spec = f'[[{p},1,1],{p},0,{{"copies":"shifted","shifts":[{shifts}]}}]'
    text = f'[[[{names}],{{"weight":{spec}}}]]'
    metadata = {"tbn_format_version": "3", "tbn_layers": text}
    entry = {"dtype": "U8", "shape": [modules], "data_offsets": [0, modules]}
    header = {"__metadata__": metadata, "uint8": entry}
    path = tmp_path / "net"
    path.write_bytes(made_packed_files.sealed(header, bytes(modules)))
    assert len(packed_file.read(path).weights) == modules
    assert peak_bytes(lambda: packed_file.read(path)) < 30e6


def test_a_far_shift_enlarges_nothing_in_the_numpy_reader(tmp_path):
    """A shift of 255 makes the kernel 513 x 513: 135 MB for 32 x 4 x 3 x 3 weights."""
    net = described(tmp_path / "net", move(255), rows=32)
    content = packed_file.read(tmp_path / "net")
    x = np.ones((1, 4, 6, 6), np.float32)
    assert peak_bytes(lambda: NumpyForward(net, content)(x)) < 20e6
    with pytest.raises(ArtifactError, match="the dense weights take"):
        content.dense()


@pytest.mark.parametrize("shift", [0, 1, -2, 7])
def test_shifted_copies_in_numpy_are_those_of_the_dense_weight(tmp_path, shift):
    """Also where a shift moves a copy out of the input."""
    net = described(tmp_path / "net", move(shift))
    content = packed_file.read(tmp_path / "net")
    x = torch.randn(2, 4, 6, 5)
    dense = torch.from_numpy(content.dense()["0.weight"])
    reach = abs(shift)
    bias = torch.from_numpy(np.array(content.tensors["0.bias"]))
    expected = torch.nn.functional.conv2d(x, dense, bias, padding=1 + reach).numpy()
    found = NumpyForward(net, content)(x.numpy())
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


# Files that are whole, and of another network.


def installed(module, name, form, more=()):
    """Loads a file whose weight `name` has this form, and zeros as other tensors, into a network of one module."""
    parts = {
        part: f"0.{buffer}" for part, buffer in description.BUFFERS.items() if part in form.sizes
    }
    tensors = {full: np.zeros(form.lengths[part], form.types[part]) for part, full in parts.items()}
    tensors |= dict(more)
    content = packed_file.Artifact(tensors, {name: Weight(form, parts)})
    return convert.load_(nn.Sequential(module), content)


def shifted(kernel, groups=1, scales=1, shift=1):
    shape = (4, 4 // groups, kernel, kernel)
    return Form(shape, 2, scales, copies=Copies(shape, 2, "shifted", ((0, shift), (0, 0))))


FLOATS = {"0.bias": np.zeros(4, np.float32)}
MISFITS = {
    "bits of a bias": (nn.Linear(4, 4), "0.bias", Form((4,)), FLOATS),
    "bits of a statistic": (nn.BatchNorm1d(8), "0.running_mean", Form((8,)), FLOATS),
    "bits of a method": (nn.Linear(4, 4), "0.forward", Form((4, 4)), FLOATS),
    "bits of another layer": (nn.Linear(4, 4), "1.weight", Form((4, 4)), FLOATS),
    "another shape": (nn.Linear(4, 4), "0.weight", Form((4, 5)), FLOATS),
    "whole numbers as a bias": (nn.Linear(4, 4), "0.weight", Form((4, 4)), {"0.bias": np.zeros(4, np.int64)}),
    "a bias of another shape": (nn.Linear(4, 4), "0.weight", Form((4, 4)), {"0.bias": np.zeros(5, np.float32)}),
    "no bias": (nn.Linear(4, 4), "0.weight", Form((4, 4)), {}),
    "a shift of a norm": (nn.LayerNorm((4, 4, 3, 3)), "0.weight", shifted(3), FLOATS),
    "a shift of named padding": (nn.Conv2d(4, 4, 3, padding="same"), "0.weight", shifted(3), FLOATS),
    "a shift of reflected padding": (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), "0.weight", shifted(3), FLOATS),
    "a far shift of groups": (nn.Conv2d(4, 4, 3, groups=2), "0.weight", shifted(3, 2, 1, 200), FLOATS),
    "a far shift, scales in a row": (nn.Conv2d(4, 4, 3), "0.weight", shifted(3, 1, 8, 200), FLOATS),
}  # fmt: skip


@pytest.mark.parametrize("misfit", MISFITS)
def test_a_file_that_does_not_fit_is_refused_in_one_line(misfit):
    module, name, form, more = MISFITS[misfit]
    with pytest.raises(ArtifactError, match="does not belong to this Sequential") as caught:
        installed(module, name, form, more)
    assert str(caught.value).isprintable()


def test_a_bare_layer_is_refused():
    """It cannot be replaced in place, nor when it is packed."""
    parts = {"tile": "tile_bits", "alphas": "alphas"}
    tensors = {"tile_bits": np.zeros(2, np.uint8), "alphas": np.ones(0, np.float32)}
    content = packed_file.Artifact(tensors, {"weight": Weight(Form((4, 4)), parts)})
    with pytest.raises(ArtifactError, match=r"wrap it: nn.Sequential\(layer\)"):
        convert.load_(nn.Linear(4, 4, bias=False), content)


@pytest.mark.parametrize(
    "form",
    [
        Form((4, 4, 3, 3), 2, 4, "ternary", copies=Copies((4, 4, 3, 3), 2, "columns")),
        Form(
            (4, 4, 3, 3), 1, 4, "codebook", index_bits=2, copies=Copies((4, 4, 3, 3), 1, "columns")
        ),
        Form((4, 4, 3, 3), 2, 2, offsets=True, copies=Copies((4, 4, 3, 3), 2, "hadamard")),
        Form((4, 4, 3, 3), 2, 2, copies=Copies((4, 4, 3, 3), 2, "aligned")),
        Form((4, 4, 3, 3), 2, 4, copies=Copies((4, 4, 3, 3), 2, "hadamard")),
        Form((4, 4, 3, 3), 2, 4, copies=Copies((4, 4, 3, 3), 2, "shifted", ((0, 1), (0, 0)))),
        Form((4, 4, 3, 3), 1, 4, copies=Copies((4, 4, 3, 3), 1, "shifted", ((1, 1),))),
    ],
    ids=lambda form: f"{form.code} {form.kind} {form.scales}",
)
def test_forms_that_no_method_has_compute_their_dense_weight(form):
    """Only signs with a scale per copy share products; the others multiply by the whole weight. Aligned copies may be said."""
    rng = np.random.default_rng(0)
    content = {
        part: rng.uniform(0.5, 1, n).astype(form.types[part])
        if form.types[part] == "float32"
        else rng.integers(0, 128, n).astype(np.uint8)
        for part, n in form.lengths.items()
    }
    for name in ("tile", "codebook"):
        content.get(name, np.zeros(1))[-1] = 0  # padding bits are clear
    more = {f"0.{description.BUFFERS[part]}": values for part, values in content.items()} | FLOATS
    net = installed(nn.Conv2d(4, 4, 3, padding=1), "0.weight", form, more)
    x = torch.randn(2, 4, 6, 6)
    dense = torch.from_numpy(form.dense(content))
    reach = 0 if form.copies is None else form.copies.reach
    expected = torch.nn.functional.conv2d(x, dense, padding=1 + reach)
    with torch.no_grad():
        torch.testing.assert_close(net(x), expected, rtol=1e-5, atol=1e-4)


def test_groups_and_copies_of_channels_compute_the_dense_weight():
    """Sums of neighbouring channels would cross the groups."""
    form = Form((4, 2, 3, 3), 2, 1, copies=Copies((4, 2, 3, 3), 2, "columns"))
    more = {
        **FLOATS,
        "0.tile_bits": np.arange(5, dtype=np.uint8),
        "0.alphas": np.ones(1, np.float32),
    }
    more["0.tile_bits"][-1] &= 15
    net = installed(nn.Conv2d(4, 4, 3, groups=2), "0.weight", form, more)
    x = torch.randn(2, 4, 6, 6)
    dense = torch.from_numpy(form.dense({"tile": more["0.tile_bits"], "alphas": more["0.alphas"]}))
    with torch.no_grad():
        torch.testing.assert_close(net(x), torch.nn.functional.conv2d(x, dense, groups=2))


class Standardised(nn.Conv2d):
    def forward(self, x):
        return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)


def test_a_layer_that_reads_its_weight_itself_moves_its_copies(tmp_path):
    """Loaded into a new network its padding grows with its kernel, as in the one that was trained."""
    net = nn.Sequential(Standardised(4, 8, 3, padding=1))
    binarize_(net, "tbn(p=2, min_layer_size=0, copies='shifted')")
    convert.pack_(net.eval())
    convert.save(net, tmp_path / "net")
    loaded = convert.load_(nn.Sequential(Standardised(4, 8, 3, padding=1)), tmp_path / "net")
    x = torch.randn(2, 4, 6, 6)
    with torch.no_grad():
        assert torch.equal(loaded(x), net(x))


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"0.bias": np.zeros((8, 1), np.float32)}, r"0.bias is float32 \(8, 1\) in the file"),
        ({"0.bias": np.zeros(8, bool)}, "0.bias is bool"),
        ({}, "does not hold 0.bias"),
    ],
)
def test_the_numpy_reader_refuses_tensors_of_another_network(tensors, said):
    net, small = convolution()
    content = convert.to_artifact(small)
    del content.tensors["0.bias"]
    content.tensors |= tensors
    with pytest.raises(ArtifactError, match=said):
        NumpyForward(net, content)


# What is no file.


def write_empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (os.mkdir, "Is a directory"),
        (os.mkfifo, "not a regular file"),
        (write_empty, "not a whole safetensors file"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
        (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
        (lambda path: None, "No such file"),
        (
            lambda path: path.write_bytes(b"\2\0\0\0\0\0\0\0\xff\xff"),
            "not a whole safetensors file",
        ),
    ],
)
def test_what_is_no_packed_file_is_refused_without_waiting(tmp_path, make, said):
    path = tmp_path / "net.safetensors"
    make(path)
    for read in (packed_file.read, export.load, lambda path: convert.load_(convolution()[0], path)):
        with pytest.raises(ArtifactError, match=said) as caught:
            read(path)
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "BF16"])
def test_types_that_numpy_lacks_are_refused(tmp_path, dtype):
    path = tmp_path / "net"
    described(path, lambda groups, metadata: None)
    header, data = made_packed_files.opened(path.read_bytes())
    width = 2 if dtype == "BF16" else 1
    header["uint8"] |= {"dtype": dtype, "shape": [header["uint8"]["shape"][0] // width]}
    path.write_bytes(made_packed_files.sealed(header, data))
    with pytest.raises(ArtifactError, match=f"has type {dtype}|not a whole"):
        packed_file.read(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("NaN", "NaN is no number"),
        ("[1e999]", "1e999 is beyond"),
        ('{"a": 1, "a": 1}', "twice"),
        ("[" * 33 + "1" + "]" * 33, "deeper than 32"),
        ("[" * 100_000, "deeper than 32"),
        (b"\xff", "decode"),
        ("9" * 5000, "4300"),
    ],
)
def test_json_is_read_strictly(text, said):
    with pytest.raises(ValueError, match=said):
        strict_json.loads(text)


def test_strict_json_reads_what_json_writes():
    value = {"a": [1, -2.5, None, True, "\u00e9", {}], "b": 1e300}
    assert strict_json.loads(json.dumps(value)) == value
    assert strict_json.loads("[" * 32 + "1" + "]" * 32)


# Files that are right stay readable.


@pytest.mark.parametrize(
    "copies", ["aligned", "rotated", "permuted", "hadamard", "shifted", "columns"]
)
def test_a_copy_for_each_row_is_no_lie(tmp_path, copies):
    """p = 64 of 64 rows and channels, as large as p can be for all kinds but aligned."""
    net, small = (nn.Sequential(nn.Conv2d(64, 64, 1, bias=False)) for _ in range(2))
    binarize_(small, f"tbn(p=64, min_layer_size=0, copies={copies!r}, alpha='layer')")
    convert.pack_(small.eval())
    convert.save(small, tmp_path / "net")
    content = packed_file.read(tmp_path / "net")
    content.dense()
    x = torch.randn(2, 64, 5, 5)
    with torch.no_grad():
        expected = small(x)
    np.testing.assert_allclose(
        NumpyForward(net, content)(x.numpy()), expected, rtol=1e-4, atol=1e-4
    )
    with torch.no_grad():
        assert torch.equal(convert.load_(net, content)(x), expected)


@pytest.mark.parametrize("state", [[1], {"model.x": torch.zeros(1)}, {3: 4}, "x"])
def test_a_checkpoint_of_something_else_is_refused(tmp_path, state):
    """What export and --init start from: one line, and what to do."""
    (tmp_path / "checkpoints").mkdir()
    torch.save({"state_dict": state}, tmp_path / "checkpoints" / "best.ckpt")
    record = SimpleNamespace(
        path=tmp_path, config={"data": "synthetic", "model": "mlp(hidden=[4])"}
    )
    with pytest.raises(ValueError, match="is unreadable .*delete .* and run again") as caught:
        weights.trained(record)
    assert str(caught.value).isprintable()
