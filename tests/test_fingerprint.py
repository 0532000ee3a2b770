"""The fingerprint of a run's code: what changes it, and what does not."""

import os
import subprocess
import sys

import pytest

from tbn_bench import catalog, fingerprint
from tbn_bench.config import make

SOURCE = '''
"""A method."""
from tbn_bench.binarizers._base import Binarizer

class Mine(Binarizer):
    """Says what it does."""

    def layer(self, target):  # a comment
        return 0.5
'''


def hashed(folder, source):
    path = folder / "mine.py"
    path.write_text(source)
    return fingerprint.of_file(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# a comment", "# another"),
        ('"""Says what it does."""', '"""Says more."""'),
        ("    def layer", "\n\n    def layer"),
        ("return 0.5", "return (0.50)"),
    ],
)
def test_comments_docstrings_and_layout_do_not_count(tmp_path, old, new):
    """Two sources that compute the same by the same syntax tree have one fingerprint."""
    assert hashed(tmp_path, SOURCE) == hashed(tmp_path, SOURCE.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"), [("0.5", "0.25"), ("return 0.5", "pass"), ("layer", "decide")]
)
def test_code_counts(tmp_path, old, new):
    """Another constant, statement or name is another fingerprint."""
    assert hashed(tmp_path, SOURCE) != hashed(tmp_path, SOURCE.replace(old, new))


def test_every_entry_has_a_fingerprint():
    """Entries of one shelf differ, and a call's options do not count: they are in the config."""
    for field, shelf in fingerprint.SHELF_OF.items():
        found = {}
        for name in catalog.names(shelf):
            found[name] = fingerprint.of(make({field: name}))[field]
        assert len(set(found.values())) == len(found)
    with_options = make({"binarizer": "tbn(p=4)"})
    assert fingerprint.of(with_options) == fingerprint.of(make({"binarizer": "tbn"}))


def test_shared_files_and_inner_entries_count():
    """A model's fingerprint covers _resnet.py, that of smoke(of='digits') covers digits."""
    files = {path.name for path in fingerprint._files("models", "resnet_cifar(depth=8)")}
    assert files == {"_resnet.py", "resnet_cifar.py"}
    files = {path.name for path in fingerprint._files("data", "smoke(of='digits')")}
    assert {"smoke.py", "digits.py", "_base.py"} <= files


def test_the_changed_part_is_named_and_unknown_is_unknown():
    """Only a known difference counts: no fingerprint, or no such entry, is None."""
    config = make({"binarizer": "bwn"})
    now = fingerprint.of(config)
    assert fingerprint.changed(now, config) == []
    assert fingerprint.changed(now | {"binarizer": "0" * 12}, config) == ["binarizer"]
    assert fingerprint.changed(None, config) is None
    assert fingerprint.changed(now, make({"binarizer": "of_someone_else"})) is None


@pytest.mark.parametrize(
    "values",
    [
        {"model": "from_timm(name='resnet18', pretrained='given.safetensors')"},
        {"data": "image_folder(path='photos')"},
        {"data": "csv_forecast(path='photos/a/1.png', target='y')"},
        {"data": "hf_dataset(name='photos', in_shape=[1, 8, 8], num_classes=2)"},
    ],
)
def test_files_that_a_call_names_count(tmp_path, monkeypatch, values):
    """Other weights under the same name are not the run's; a file that is gone is unknown."""
    monkeypatch.chdir(tmp_path)
    photo = tmp_path / "photos" / "a" / "1.png"
    photo.parent.mkdir(parents=True)
    for file in (photo, tmp_path / "given.safetensors"):
        file.write_bytes(b"first")
    config = make(values)
    recorded = fingerprint.of(config)
    assert fingerprint.changed(recorded, config) == []
    for file in (photo, tmp_path / "given.safetensors"):
        file.write_bytes(b"another")
    (part,) = fingerprint.changed(recorded, config)
    assert fingerprint.named(["model", part]).startswith("the code of model and the content of ")
    monkeypatch.chdir(photo.parent)
    assert fingerprint.changed(recorded, config) == []


def test_images_of_equal_size_in_one_folder_count(tmp_path, monkeypatch):
    """Equal names and sizes do not hide another beginning or another end of a file."""
    monkeypatch.chdir(tmp_path)
    photo = tmp_path / "photos" / "a" / "1.png"
    photo.parent.mkdir(parents=True)
    config = make({"data": "image_folder(path='photos')"})
    found = []
    for written, content in enumerate(
        (b"a" * 200_000, b"b" + b"a" * 199_999, b"a" * 199_999 + b"b")
    ):
        photo.write_bytes(content)
        os.utime(photo, (written, written))
        found.append(fingerprint.of(config))
    assert fingerprint.changed(found[0], config) == ["inside photos"]
    assert fingerprint.named(["inside photos"]) == "the content of photos"
    assert len({record["inside photos"] for record in found}) == 3
    assert len({record["file photos"] for record in found}) == 1


def test_a_data_set_of_ones_own_module_counts(tmp_path, monkeypatch):
    """Its source is found by its import path and is not imported."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine_here").mkdir()
    source = tmp_path / "mine_here" / "sets.py"
    source.write_text("raise ImportError\nSIZE = 3")
    config = make({"data": "torch_dataset(train='mine_here.sets:Set', test='digits')"})
    recorded = fingerprint.of(config)
    assert fingerprint.changed(recorded, config) == []
    source.write_text("raise ImportError\nSIZE = 4")
    os.utime(source, (0, 0))
    assert fingerprint.changed(recorded, config) == ["module mine_here.sets"]


def test_it_needs_no_torch():
    """A list of records may be marked on a machine without torch."""
    code = (
        "import sys; from tbn_bench import fingerprint, config; "
        "fingerprint.of(config.make({'binarizer': 'tbn(p=4)'})); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_equations_are_here():
    """A file of the equations that has moved must be named anew."""
    for name in fingerprint.EQUATIONS:
        assert (fingerprint._ROOT / name).is_file(), name
