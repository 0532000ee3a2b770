"""Guards the readers of packed files against files that lie: an ArtifactError of one line, before memory is taken."""

import json
import os
import tracemalloc

import pytest
from fuzz import made_packed_files
from fuzz.packed_mutations import text_of
from torch import nn

from tbn_bench.format import strict_json
from tbn_bench.convert.binarize import binarize_
from tbn_bench.experiment import export
from tbn_bench.format import packed_file
from tbn_bench.format.packed_file import ArtifactError
from tbn_bench.layers import packed


def convolution(copies="shifted", rows=8):
    """(full precision, binarized and packed)"""
    net = nn.Sequential(nn.Conv2d(4, rows, 3, padding=1))
    small = nn.Sequential(nn.Conv2d(4, rows, 3, padding=1))
    binarize_(small, f"tbn(p=4, min_layer_size=0, copies={copies!r})")
    packed.pack_(small.eval())
    return net, small


def described(path, change, copies="shifted", rows=8):
    """A file of version 3 under a right hash. change(groups, metadata) changes what it says."""
    net, small = convolution(copies, rows)
    packed.save(small, path)
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


def rename(name):
    return lambda groups, metadata: groups[0].__setitem__(0, [name])


def shape(value):
    return lambda groups, metadata: groups[0][1].update(bias=value)


LIES = {
    "a shift of 1500": (move(1500), "a shift must be at most 255"),
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
    change, said = LIES[lie]
    path = tmp_path / "net.safetensors"
    described(path, change)
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
    for read in (packed_file.read, export.load, lambda path: packed.load_(convolution()[0], path)):
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
        ("[" * 33 + "]" * 33, "deeper than 32"),
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
    assert strict_json.loads("[" * 32 + "]" * 32)
