"""Packed files of every format version, as earlier versions of this package wrote them."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from tbn_bench.format import packed_file

FOLDER = Path(__file__).parent / "golden"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())


def digests(arrays):
    """name -> [type, shape, first half of the hash of the values]."""
    found = {}
    for name, value in arrays.items():
        value = np.ascontiguousarray(value)
        digest = hashlib.sha256(value.tobytes()).hexdigest()[:32]
        found[name] = [value.dtype.name, list(value.shape), digest]
    return found


@pytest.mark.parametrize("name", EXPECTED)
def test_an_older_file_has_the_same_content(name):
    """Tensors and dense weights are equal to the last bit; config, names and inputs too."""
    found = packed_file.read(FOLDER / name)
    assert {
        "config": found.config,
        "commit": found.commit,
        "aliases": found.aliases,
        "inputs": found.inputs,
        "tensors": digests(found.tensors),
        "dense": digests(found.dense()),
    } == EXPECTED[name]


@pytest.mark.parametrize(
    "name",
    [name for name in EXPECTED if name.endswith(("_v3.safetensors", "small_v4.safetensors"))],
)
def test_the_current_version_is_written_in_the_same_bytes(name, tmp_path, monkeypatch):
    """A file of version 3 or 4 that is read and written again does not change."""
    old = FOLDER / name
    header, _ = json.JSONDecoder().raw_decode(old.read_bytes()[8:].decode("latin-1"))
    _, _, version = header["__metadata__"]["producer"].partition(" ")
    monkeypatch.setattr(packed_file, "__version__", version)
    packed_file.write(tmp_path / name, packed_file.read(old))
    assert (tmp_path / name).read_bytes() == old.read_bytes()
