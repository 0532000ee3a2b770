"""Folders of images, data sets by import path, and Hugging Face's: no file of this package is needed."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from tbn_bench import catalog
from tbn_bench.config import make
from tbn_bench.experiment.build import build


def write(path, value, mode="RGB", size=(12, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value, 0, 255)).save(path)


@pytest.fixture
def photos(tmp_path):
    """30 images of two classes; an image's red value is its number."""
    for i in range(30):
        kind = ("cat", "dog")[i % 2]
        write(tmp_path / "photos" / kind / f"{i:02}.png", i)
    return tmp_path / "photos"


def folder(path, **options):
    words = {"size": 8, "workers": 0, **options}
    listed = ", ".join(f"{key}={value!r}" for key, value in words.items())
    return catalog.build("data", f"image_folder(path={str(path)!r}, {listed})", batch_size=4)


def test_a_folder_of_classes_is_split_by_seed(photos):
    """A fifth is the test set, a tenth of the rest is held out; no image is in two of them."""
    data = folder(photos)
    data.setup()
    assert [data.size(split) for split in ("train", "val", "test")] == [22, 2, 6]
    assert (data.num_classes, data.class_names, data.in_shape) == (2, ["cat", "dog"], (3, 8, 8))
    names = [name for split in data.splits.values() for name in split[0].names]
    assert len(set(names)) == 30
    again, other = folder(photos), folder(photos, split_seed=1)
    again.setup()
    other.setup()
    assert list(again.splits["test"][0].names) == list(data.splits["test"][0].names)
    assert list(other.splits["test"][0].names) != list(data.splits["test"][0].names)


def test_normalised_by_the_training_images_or_as_given(photos):
    data = folder(photos)
    data.setup()
    reds = [int(name[-6:-4]) for name in data.splits["train"][0].names]
    assert data.mean == pytest.approx((np.mean(reds) / 255, 0.0, 1.0))
    given = folder(photos, mean=[0.0, 0.0, 0.0], std=[1.0, 1.0, 1.0])
    given.setup()
    x, y = next(iter(given.test_dataloader()))
    prepared = given.prepare(x)
    assert prepared.shape == (6, 3, 8, 8)
    assert torch.equal((prepared[:, 0, 0, 0] * 255).round().long() % 2, y)


def test_folders_may_name_the_splits(photos, tmp_path):
    for split, count in (("train", 4), ("val", 2), ("test", 3)):
        for kind in ("a", "b"):
            for i in range(count):
                write(tmp_path / "own" / split / kind / f"{i}.jpg", i, "L")
    data = folder(tmp_path / "own")
    data.setup()
    assert [data.size(split) for split in ("train", "val", "test")] == [8, 4, 6]
    assert data.first("train", 2).shape == (2, 1, 8, 8)


def test_a_run_trains_on_a_folder(photos):
    data = f"image_folder(path={str(photos)!r}, size=8, workers=0)"
    found = build(make({"data": data, "model": "mlp(hidden=[4])", "binarizer": "bwn"}))
    assert found.plan.rows[-1].shape == (2, 4)
    found.data.setup()
    first, again = (next(iter(found.data.train_dataloader()))[0] for _ in range(2))
    assert torch.equal(first, again)


def test_what_is_wrong_with_a_folder_is_named(photos, tmp_path):
    def refused(path, said, **options):
        with pytest.raises(ValueError, match=said):
            folder(path, **options).setup()

    refused(tmp_path / "none", "no folder")
    refused(photos, "mean must have 3", mean=[0.5], std=[0.5])
    refused(photos, "test_size must lie", test_size=30)
    (tmp_path / "one" / "a").mkdir(parents=True)
    refused(tmp_path / "one", "one class folder, a")
    (tmp_path / "one" / "b").mkdir()
    refused(tmp_path / "one", "has no image")
    write(photos / "cat" / "98.png", 3, "L")
    refused(photos, "98.png has 1 channel.*00.png has 3")
    (photos / "cat" / "98.png").write_text("no image")
    refused(photos, "98.png is no readable image")
    (photos / "cat" / "98.png").unlink()
    (photos / "bird").mkdir()
    refused(photos, "bird has no image")


class Made(TensorDataset):
    def __init__(self, n=40, shape=(3,), first=0, last=0):
        labels = first + torch.arange(n) % 2
        labels[n - 1 :] += last
        super().__init__(torch.randn(n, *shape), labels)


def named(train="own_sets:Made", test="own_sets:Made", in_shape=(3,), **options):
    words = {"train": train, "test": test, "in_shape": list(in_shape), "num_classes": 2}
    words |= {"test_args": {"n": 10}, **options}
    listed = ", ".join(f"{key}={value!r}" for key, value in words.items())
    return catalog.build("data", f"torch_dataset({listed})", batch_size=4)


@pytest.fixture
def own_sets(monkeypatch):
    module = ModuleType("own_sets")
    module.Made = Made
    module.number = lambda: 3
    monkeypatch.setitem(sys.modules, "own_sets", module)


def test_a_data_set_by_import_path(own_sets):
    data = named(args={"n": 50})
    data.setup()
    assert [data.size(split) for split in ("train", "val", "test")] == [45, 5, 10]


def test_nothing_is_imported_before_the_data_are_read():
    """A packed file names its data; to read one must not run code."""
    data = named("no_such_module:Made")
    assert data.num_classes == 2
    with pytest.raises(ValueError, match="no_such_module.*PYTHONPATH"):
        data.setup()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"train": "own_sets"}, "expected 'package.module:attribute'"),
        ({"train": "own_sets:None_such"}, "own_sets has no None_such"),
        ({"train": "own_sets:number"}, "must make a torch.utils.data.Dataset.*got int"),
        ({"args": {"m": 1}}, "refuses the arguments"),
        ({"args": {"n": 0}}, "empty data set"),
        ({"in_shape": (4,)}, r"sample of train has shape \(3,\)"),
        ({"args": {"first": 5}}, "label of train is 5"),
        ({"args": {"last": 1}}, "label of train is 2; num_classes=2 allows 0 to 1"),
        ({"val_size": 40}, "val_size must lie"),
        ({"test_args": None}, "name one data set"),
    ],
)
def test_what_is_wrong_with_a_named_data_set_is_said(own_sets, options, said):
    with pytest.raises(ValueError, match=said):
        named(**options).setup()


class Rows:
    column_names = ("image", "label")

    def __len__(self):
        return 20

    def __getitem__(self, i):
        return {"image": Image.new("L", (9, 7), 255 * (i % 2)), "label": i % 2}


def hugging(**options):
    words = {"name": "tiny", "in_shape": [1, 4, 4], "num_classes": 2, **options}
    listed = ", ".join(f"{key}={value!r}" for key, value in words.items())
    return catalog.build("data", f"hf_dataset({listed})", batch_size=4)


def test_a_hugging_face_data_set(monkeypatch):
    """With a stand-in for the package: names and splits go through; images are scaled and normalised."""
    asked = []

    def load_dataset(name, config, split):
        asked.append((name, config, split))
        return Rows()

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    data = hugging()
    data.setup()
    assert asked == [("tiny", None, "train"), ("tiny", None, "test")]
    x, y = next(iter(data.test_dataloader()))
    assert x.shape == (20, 1, 4, 4)
    assert torch.equal(x[:, 0, 0, 0], 2.0 * y - 1)
    with pytest.raises(ValueError, match="no column img; it has image, label"):
        hugging(image="img").setup()


def test_without_the_package_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match="pip install datasets"):
        hugging().setup()
