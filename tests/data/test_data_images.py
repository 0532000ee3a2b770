"""Guards the larger image sets: their layouts on disk, damaged files named in one line, the cache,
random crops that workers cannot change.
"""

import hashlib
import os
import pickle
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file, save_file

from tbn_bench import catalog
from tbn_bench.data import imagenet, tiny_imagenet
from tbn_bench.data.cifar100 import CIFAR100
from tbn_bench.data.imagenet import ImageNet
from tbn_bench.data.tiny_imagenet import CACHE, TinyImageNet
from tbn_bench.experiment.lightning_data import LightningData

WNIDS = ["n03", "n01", "n02"]  # as in the real wnids.txt, not sorted
# of Python 3.12 and later in any process with threads; of torch on a machine with fewer cores than
# workers
WORKERS = pytest.mark.filterwarnings(
    "ignore:.*fork.*:DeprecationWarning", "ignore:This DataLoader will create"
)


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    """An empty data folder of our own, and no network.

    Sockets between a loader and its workers stay.
    """
    connect = socket.socket.connect

    def refuse(*args, **kwargs):
        if args and getattr(args[0], "family", None) == socket.AF_UNIX:
            return connect(*args, **kwargs)
        raise socket.gaierror("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("TBN_BENCH_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def refused(call: str, match: str) -> str:
    """The one line that setting up the set is refused with."""
    with pytest.raises(ValueError, match=match) as error:
        catalog.build("data", call).setup()
    assert "\n" not in str(error.value)
    return str(error.value)


def sizes(data) -> tuple[int, int, int]:
    """Samples that the loaders really give, which must be what size() says."""
    loaders = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
    found = tuple(sum(len(y) for _, y in loader) for loader in loaders)
    assert found == tuple(data.size(name) for name in ("train", "val", "test"))
    return found


# CIFAR-100


def coarse_of(fine: np.ndarray) -> np.ndarray:
    return fine * 7 % 20


def cifar_images(fine: np.ndarray, split: int) -> np.ndarray:
    """(n, 3, 32, 32): red, row 1, column 2 holds the fine label.

    Green everywhere the split's number.
    """
    images = np.zeros((len(fine), 3, 32, 32), np.uint8)
    images[:, 0, 1, 2], images[:, 1] = fine, split
    return images


def fine_of(n: int) -> np.ndarray:
    return (np.arange(n) * 37 % 100).astype(np.uint8)


@pytest.fixture
def cifar_bin(root, monkeypatch):
    """cifar-100-binary with 200 and 100 records: a coarse label byte, a fine one, 3,072 image
    bytes.
    """
    folder = root / "cifar-100-binary"
    folder.mkdir(parents=True)
    for i, (name, n) in enumerate((("train", 200), ("test", 100)), 1):
        fine = fine_of(n)
        rows = [coarse_of(fine)[:, None], fine[:, None], cifar_images(fine, i).reshape(n, -1)]
        (folder / f"{name}.bin").write_bytes(np.concatenate(rows, 1).astype(np.uint8).tobytes())
    monkeypatch.setattr(CIFAR100, "train_size", 200)
    monkeypatch.setattr(CIFAR100, "test_size", 100)
    return folder


@pytest.fixture
def cifar_py(root, monkeypatch):
    """cifar-100-python with 200 and 100 images, pickled as the official files are.

    Torchvision is told the md5 of these.
    """
    folder = root / "cifar100" / "cifar-100-python"
    folder.mkdir(parents=True)
    for i, (name, n) in enumerate((("train", 200), ("test", 100)), 1):
        fine, data = fine_of(n), cifar_images(fine_of(n), i).reshape(n, -1)
        value = {
            "fine_labels": fine.tolist(),
            "coarse_labels": coarse_of(fine).tolist(),
            "data": data,
        }
        (folder / name).write_bytes(pickle.dumps(value, protocol=2))
    (folder / "meta").write_bytes(
        pickle.dumps({"fine_label_names": [str(i) for i in range(100)]}, protocol=2)
    )
    sums = {
        path.name: hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        for path in folder.iterdir()
    }
    official = torchvision.datasets.CIFAR100
    monkeypatch.setattr(official, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(official, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(official, "meta", official.meta | {"md5": sums["meta"]})
    return folder


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("layout", ["cifar_bin", "cifar_py"])
def test_cifar100_layouts(layout, coarse, request):
    """Both layouts: images beside their labels, fine or coarse, channels first, the official split,
    20 samples held out.
    """
    request.getfixturevalue(layout)
    data = catalog.build("data", f"cifar100(coarse={coarse}, val_size=20)")
    data.setup()
    assert sizes(data) == (180, 20, 100)
    assert data.num_classes == (20 if coarse else 100)
    for name, (x, y) in data.splits.items():
        fine = x[:, 0, 1, 2].numpy()
        assert (x.dtype, tuple(x.shape[1:])) == (torch.uint8, data.in_shape)
        assert y.tolist() == (coarse_of(fine) if coarse else fine).tolist()
        assert x[:, 1].unique().tolist() == [2 if name == "test" else 1]
        assert int(x[:, 2].sum()) == 0


def test_cifar100_has_50000_and_10000_records(root):
    """Without a test's counts, a file that is one byte short is refused with the size it must
    have.
    """
    folder = root / "cifar-100-binary"
    folder.mkdir(parents=True)
    with (folder / "train.bin").open("wb") as file:
        file.truncate(50_000 * 3074 - 1)
    assert str(folder / "train.bin") in refused(
        "cifar100", "must have 153,700,000 bytes, got 153,699,999"
    )
    assert (CIFAR100.train_size, CIFAR100.test_size) == (50_000, 10_000)


@pytest.mark.parametrize("place", [0, 1])
def test_cifar100_labels_out_of_range_are_named(place, cifar_bin):
    """A file of the right size that holds something else: coarse labels end at 19, fine ones at
    99.
    """
    content = bytearray((cifar_bin / "test.bin").read_bytes())
    content[3074 * 5 + place] = (20, 100)[place]
    (cifar_bin / "test.bin").write_bytes(content)
    assert str(cifar_bin / "test.bin") in refused(
        "cifar100", "coarse labels below 20 and fine ones below 100"
    )


def test_missing_cifar100_says_what_to_fetch_and_where_to_put_it(root):
    """Nothing there and no network; then a half unpacked folder."""
    said = refused("cifar100", "cifar-100-binary.tar.gz")
    assert str(root / "cifar100") in said
    assert "TBN_BENCH_DATA" in said
    (root / "cifar100" / "cifar-100-binary").mkdir(parents=True)
    assert "train.bin" in refused("cifar100", "cifar-100-binary.tar.gz")


class Payload:
    """Unpickling this makes a folder."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("name", ["train", "test", "meta"])
def test_a_hostile_cifar100_file_is_not_executed(name, cifar_py, tmp_path):
    """A pickle that is not the official file is refused, before it is unpickled."""
    content, marker = pickle.dumps(Payload(tmp_path / "executed")), tmp_path / "executed"
    pickle.loads(content)
    marker.rmdir()  # it was live
    (cifar_py / name).write_bytes(content)
    refused("cifar100(coarse=True)", "cifar-100-binary.tar.gz")
    assert not marker.exists()


# Images as files


def picture(value: int, size: tuple[int, int] = (64, 64), mode: str = "RGB") -> Image.Image:
    """Brighter from top to bottom, `value` on average.

    Where it has colours, all three are alike.
    """
    rows = np.clip(np.linspace(value - 12, value + 12, size[1]), 0, 255).astype(np.uint8)
    return Image.fromarray(np.repeat(rows[:, None], size[0], 1)).convert(mode)


def value_of(x: torch.Tensor) -> torch.Tensor:
    """(B,) averages of pictures (B, 3, H, W), all the right way up."""
    assert bool((x[:, :, -1].float().mean((1, 2)) > x[:, :, 0].float().mean((1, 2)) + 8).all())
    return x.float().mean((1, 2, 3))


def class_of(x: torch.Tensor) -> list[int]:
    """Pictures of class c are 60 c + 40 to 60 c + 60 bright."""
    return ((value_of(x) - 30) / 60).int().tolist()


@pytest.fixture
def tiny(root, monkeypatch):
    """tiny-imagenet-200 with 3 classes of 4 images and 6 images in val, of which one is grey."""
    folder = root / "tiny-imagenet-200"
    (folder / "val" / "images").mkdir(parents=True)
    (folder / "wnids.txt").write_text("\n".join(WNIDS))
    (folder / "words.txt").write_text("".join(f"{wnid}\ta word, another\n" for wnid in WNIDS))
    for c, wnid in enumerate(sorted(WNIDS)):
        (folder / "train" / wnid / "images").mkdir(parents=True)
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t62\t62\n")
        for i in range(4):
            picture(60 * c + 40 + 5 * i).save(
                folder / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", quality=95
            )
    rows = [f"val_{i}.JPEG\t{sorted(WNIDS)[i * 2 % 3]}\t0\t32\t44\t62\n" for i in range(6)]
    (folder / "val" / "val_annotations.txt").write_text("".join(rows))
    for i in range(6):
        image = picture(60 * (i * 2 % 3) + 40 + 2 * i, mode="L" if i == 3 else "RGB")
        image.save(folder / "val" / "images" / f"val_{i}.JPEG", quality=95)
    for name, count in (("num_classes", 3), ("per_class", 4), ("test_size", 6)):
        monkeypatch.setattr(TinyImageNet, name, count)
    return folder


@pytest.mark.parametrize("place", ["tiny-imagenet-200", "tiny_imagenet/tiny-imagenet-200"])
def test_tiny_imagenet_layout(place, root, tiny):
    """Images beside their labels, numbered by sorted WordNet id, upright, grey ones as RGB, val as
    the test set in its own order.
    """
    (root / place).parent.mkdir(exist_ok=True)
    tiny.rename(root / place)
    data = catalog.build("data", "tiny_imagenet(val_size=5)")
    data.setup()
    assert sizes(data) == (7, 5, 6)
    for x, y in data.splits.values():
        assert (x.dtype, tuple(x.shape[1:])) == (torch.uint8, (3, 64, 64))
        assert class_of(x) == y.tolist()
    assert data.splits["test"][1].tolist() == [0, 2, 1, 0, 2, 1]
    seen = torch.cat([value_of(data.splits[name][0]) for name in ("train", "val")]).sort().values
    assert torch.allclose(
        seen, torch.tensor([60.0 * c + 40 + 5 * i for c in range(3) for i in range(4)]), atol=1.5
    )


def test_tiny_imagenet_counts():
    """Without a test's counts: 200 classes of 500, 10,000 for the test, 10,000 held out.

    Crop 64 after padding 8, and flip.
    """
    assert (
        TinyImageNet.num_classes,
        TinyImageNet.per_class,
        TinyImageNet.test_size,
        TinyImageNet.val_size,
    ) == (
        200,
        500,
        10_000,
        10_000,
    )
    assert (TinyImageNet.crop_padding, TinyImageNet.flip) == (8, True)


def test_the_second_start_decodes_nothing(tiny, monkeypatch):
    """It reads one file, written whole: the same images, and no other file beside it."""
    first, second = (catalog.build("data", "tiny_imagenet(val_size=5)") for _ in range(2))
    first.setup()
    monkeypatch.setattr(tiny_imagenet, "_decode", None)
    second.setup()
    for name in first.splits:
        assert torch.equal(first.splits[name][0], second.splits[name][0])
    assert sorted(path.name for path in tiny.iterdir()) == sorted(
        [CACHE, "train", "val", "wnids.txt", "words.txt"]
    )


def replace(cache: Path, metadata: bool = True, **changes) -> None:
    """The cache written again by another hand."""
    with tiny_imagenet.safe_open(cache, "pt") as file:
        kept = file.metadata()
    save_file(
        {name: change(load_file(cache)["images"]) for name, change in changes.items()},
        cache,
        kept if metadata else None,
    )


STALE = {
    "truncated": lambda cache: cache.write_bytes(cache.read_bytes()[:-1000]),
    "empty": lambda cache: cache.write_bytes(b""),
    "something else": lambda cache: cache.write_text("<html>404 Not Found</html>"),
    "an image short": lambda cache: replace(cache, images=lambda x: x[1:].clone()),
    "other numbers": lambda cache: replace(cache, images=lambda x: x.short()),
    "another name": lambda cache: replace(cache, pictures=lambda x: x),
    "of unknown files": lambda cache: replace(cache, metadata=False, images=lambda x: x * 0),
    "of a longer file": lambda cache: lengthen(cache.parent / "val/images/val_1.JPEG"),
    "of another list": lambda cache: rename(cache.parent / "train/n01/images/n01_0.JPEG"),
}


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def rename(path: Path) -> None:
    path.rename(path.with_name("n01_9.JPEG"))


@pytest.mark.parametrize("fault", STALE)
def test_a_stale_cache_is_made_again(fault, tiny, monkeypatch):
    """Damaged, of another shape, or of other files than those that lie there now: decoded again
    once, and right the next time.
    """
    decoded, decode_all = [], tiny_imagenet._decode_all
    monkeypatch.setattr(
        tiny_imagenet, "_decode_all", lambda *args: decoded.append(1) or decode_all(*args)
    )
    catalog.build("data", "tiny_imagenet(val_size=5)").setup()
    STALE[fault](tiny / CACHE)
    for _ in range(2):
        data = catalog.build("data", "tiny_imagenet(val_size=5)")
        data.setup()
        assert all(class_of(x) == y.tolist() for x, y in data.splits.values())
        assert len(decoded) == 2
    images = load_file(tiny / CACHE)["images"]
    assert (images.dtype, tuple(images.shape)) == (torch.uint8, (18, 3, 64, 64))


def test_a_cache_that_cannot_be_written_is_a_warning(tiny):
    """The images are there all the same, and no half file stays behind."""
    (tiny / CACHE).mkdir()
    data = catalog.build("data", "tiny_imagenet(val_size=5)")
    with pytest.warns(UserWarning, match="cannot be written .*decoded again at every start"):
        data.setup()
    assert class_of(data.splits["test"][0]) == data.splits["test"][1].tolist()
    assert not list(tiny.glob("*.part"))


def annotate(folder: Path, old: str, new: str) -> None:
    path = folder / "val" / "val_annotations.txt"
    path.write_text(path.read_text().replace(old, new))


LACKING = {
    "an image": (
        lambda f: (f / "train/n02/images/n02_1.JPEG").unlink(),
        "train/n02/images must hold 4 .JPEG images, got 3",
    ),
    "a class": (
        lambda f: shutil.rmtree(f / "train/n01"),
        "train/n01/images must hold 4 .JPEG images, got 0",
    ),
    "wnids": (lambda f: (f / "wnids.txt").unlink(), "cannot read .*wnids.txt: No such file"),
    "a wnid": (
        lambda f: (f / "wnids.txt").write_text("n01\nn02\nn02\n"),
        "wnids.txt must list 3 classes, got 2",
    ),
    "annotations": (
        lambda f: (f / "val/val_annotations.txt").unlink(),
        "cannot read .*val_annotations.txt",
    ),
    "an annotation": (
        lambda f: annotate(f, "val_1.JPEG\tn03\t0\t32\t44\t62\n", ""),
        "6 images a class of wnids.txt, got 5",
    ),
    "a known class": (
        lambda f: annotate(f, "val_1.JPEG\tn03", "val_1.JPEG\tn04"),
        "val_1.JPEG has none",
    ),
    "a class in a line": (
        lambda f: annotate(f, "val_1.JPEG\tn03\t0\t32\t44\t62", "val_1.JPEG"),
        "val_1.JPEG has none",
    ),
    "a val image": (
        lambda f: (f / "val/images/val_5.JPEG").unlink(),
        "val/images must hold the 6 images .*, got 5",
    ),
}


@pytest.mark.parametrize("what", LACKING)
def test_what_tiny_imagenet_lacks_is_named(what, tiny):
    """One line: the folder or file that is short, what it must hold, what it holds, what to
    fetch.
    """
    damage, match = LACKING[what]
    damage(tiny)
    said = refused("tiny_imagenet(val_size=5)", match)
    assert str(tiny) in said
    assert "fetch tiny-imagenet-200.zip again" in said


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


DAMAGE = {
    "truncated": (cut, "cannot be decoded"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be decoded"),
    "a web page": (lambda path: path.write_text("<html>404 Not Found</html>"), "cannot be decoded"),
    "another size": (
        lambda path: picture(50, (60, 64)).save(path),
        "must be 64 x 64 pixels, got 64 x 60",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_tiny_image_is_named(damage, tiny):
    """One line: the file; and no cache is written."""
    path = tiny / "train" / "n03" / "images" / "n03_2.JPEG"
    DAMAGE[damage][0](path)
    assert str(path) in refused("tiny_imagenet(val_size=5)", DAMAGE[damage][1])
    assert not list(tiny.glob(f"{CACHE}*"))


def test_missing_tiny_imagenet_says_what_to_fetch_and_where_to_put_it(root):
    said = refused("tiny_imagenet", "tiny-imagenet-200.zip")
    assert str(root) in said
    assert tiny_imagenet.ADDRESS in said


COUNTS = (8, 7, 6)  # training images of the three classes
PIXELS = [(80, 60), (60, 90), (64, 64), (300, 210), (41, 40)]  # sizes they come in


@pytest.fixture
def full(root, monkeypatch):
    """imagenet with 3 classes, 21 images for training and 5 in val."""
    folder = root / "imagenet"
    for part, counts in (("train", COUNTS), ("val", (2, 2, 1))):
        for c, (wnid, count) in enumerate(zip(sorted(WNIDS), counts, strict=True)):
            (folder / part / wnid).mkdir(parents=True)
            for i in range(count):
                picture(60 * c + 40 + 2 * i, PIXELS[i % 5]).save(
                    folder / part / wnid / f"{wnid}_{part}_{i}.JPEG", quality=95
                )
    for name, count in (("num_classes", 3), ("train_size", 21), ("test_size", 5)):
        monkeypatch.setattr(ImageNet, name, count)
    return folder


def ready(options: str = "", workers: int = 0) -> ImageNet:
    """The set at 32 pixels, 4 images a batch, 6 held out."""
    data = catalog.build(
        "data", f"imagenet(size=32, workers={workers}, batch_size=4, val_size=6{options})"
    )
    data.setup()
    return data


def test_imagenet_counts():
    """Without a test's counts: 1,000 classes, 1,281,167 images, 50,000 for the test, 10,000 held
    out.
    """
    assert (ImageNet.num_classes, ImageNet.train_size, ImageNet.test_size, ImageNet.val_size) == (
        1_000,
        1_281_167,
        50_000,
        10_000,
    )
    data = catalog.build("data", "imagenet")
    assert (data.in_shape, data.resize, data.workers) == (
        (3, 224, 224),
        256,
        len(os.sched_getaffinity(0)),
    )


@pytest.mark.parametrize("place", ["imagenet", "ILSVRC2012"])
def test_imagenet_layout(place, root, full):
    """15 + 6 + 5 images beside their labels, upright, at the size asked for, the official val as
    the test set in sorted order.
    """
    full.rename(root / place)
    data = ready()
    assert (sizes(data), data.in_shape, data.resize) == ((15, 6, 5), (3, 32, 32), 37)
    for loader in (data.val_dataloader(), data.test_dataloader()):
        for x, y in loader:
            assert (x.dtype, tuple(x.shape[1:])) == (torch.uint8, (3, 32, 32))
            assert class_of(x) == y.tolist()
    assert data.splits["test"][1].tolist() == [0, 0, 1, 1, 2]


def test_a_random_crop_keeps_its_label(full):
    """Training images may lack their darkest and brightest rows, not their class.

    Each of the 15 comes once.
    """
    data = ready()
    batches = list(data.train_dataloader())
    assert [len(y) for _, y in batches] == [4, 4, 4, 3]
    for x, y in batches:
        assert (x.dtype, tuple(x.shape[1:])) == (torch.uint8, (3, 32, 32))
        assert ((x.float().mean((1, 2, 3)) - 20) / 60).int().tolist() == y.tolist()


def test_imagenet_splits_share_no_file(full):
    """Train and val are together all training files, each once; test is val's files."""
    data = ready()
    files = {name: [str(x.path(i)) for i in range(len(x))] for name, (x, _) in data.splits.items()}
    assert sorted(files["train"] + files["val"]) == sorted(
        str(path) for path in (full / "train").glob("*/*.JPEG")
    )
    assert files["test"] == sorted(str(path) for path in (full / "val").glob("*/*.JPEG"))
    assert not set(files["train"]) & set(files["val"])


def test_the_imagenet_split_depends_on_its_own_seed_alone(full):
    held = [
        ready(options).splits["val"][0].names.tolist()
        for options in ("", ", seed=3", ", split_seed=1")
    ]
    assert held[0] == held[1] != held[2]


def epochs(data: ImageNet, which: tuple[int, ...]) -> list[torch.Tensor]:
    """Images and labels of these epochs from one loader, in the order they come."""
    loader, found = data.train_dataloader(), []
    for epoch in which:
        loader.sampler.set_epoch(epoch)
        x, y = (torch.cat(part) for part in zip(*loader, strict=True))
        found += [x, y]
    return found


@WORKERS
def test_workers_change_neither_order_nor_augmentation(full):
    """Both follow from (seed, epoch) alone: the same bytes from 0, 1 and 3 workers, whatever the
    global random state.
    """
    expected = epochs(ready(), (0, 1))
    for workers in (1, 3):
        torch.manual_seed(workers)
        np.random.seed(workers)
        assert all(map(torch.equal, epochs(ready(workers=workers), (0, 1)), expected))
    assert not torch.equal(expected[0].sort(0).values, expected[2].sort(0).values)
    assert expected[1].tolist() != expected[3].tolist()
    assert not torch.equal(epochs(ready(", seed=1"), (0,))[0], expected[0])


def test_an_image_is_cropped_anew_in_every_epoch(full):
    """The same image in two epochs, and two images of one file in an epoch: other crops.

    Without augmentation the middle always.
    """
    data = ready()
    batches = data.train_dataloader().dataset
    first, again, later = (batches[epoch, [0]][0] for epoch in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    plain = ready(", augment=False")
    assert torch.equal(plain.train_dataloader().dataset[5, [0]][0], plain.splits["train"][0][:1])


class Watcher(pl.LightningModule):
    """Trains one number and keeps what it was shown."""

    def __init__(self):
        super().__init__()
        self.weight, self.shown = torch.nn.Parameter(torch.zeros(())), []

    def training_step(self, batch, _):
        self.shown.append(batch[0].double().sum().item())
        return self.weight * 1

    def validation_step(self, batch, _):
        assert batch[0].dtype == torch.float32

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def shown(folder: Path, epochs: int, workers: int, resume: Path | None = None) -> list[float]:
    keep = pl.callbacks.ModelCheckpoint(
        folder, "last", enable_version_counter=False, save_on_train_epoch_end=True
    )
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[keep],
        num_sanity_val_steps=0,
    )
    module = Watcher()
    trainer.fit(module, LightningData(ready(workers=workers)), ckpt_path=resume, weights_only=True)
    return module.shown


@pytest.mark.filterwarnings("ignore")  # Lightning's advice
def test_a_resumed_run_sees_the_order_it_would_have_seen(full, tmp_path):
    """Two epochs at once, without workers.

    Or one, and the second resumed with workers, which fetch ahead as soon as they are asked.
    """
    whole = shown(tmp_path, 2, workers=0)
    first = shown(tmp_path, 1, workers=2)
    resumed = shown(tmp_path, 2, workers=2, resume=tmp_path / "last.ckpt")
    assert len(whole) == 8
    assert first + resumed == pytest.approx(whole, rel=1e-9)
    assert shown(tmp_path, 2, workers=2) == pytest.approx(whole, rel=1e-9)


@WORKERS
@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_leaves_nothing_out(workers, full, monkeypatch):
    """A last batch of one image counts, in the order of the files."""
    monkeypatch.setattr(ImageNet, "eval_batch_size", 2)
    data = ready(workers=workers)
    got = list(data.test_dataloader())
    assert [len(y) for _, y in got] == [2, 2, 1]
    assert torch.equal(torch.cat([x for x, _ in got]), data.splits["test"][0][:])


def test_images_are_indexed_as_a_tensor_would_be(full):
    """By slice and by positions, with repeats: what export and the latency suites do."""
    data = ready()
    x = data.splits["test"][0]
    assert len(x) == 5
    assert torch.equal(x[torch.arange(7) % 5], torch.cat([x[:], x[:2]]))
    assert torch.equal(x[3:4], next(iter(data.test_dataloader()))[0][3:4])


def test_pixels_are_normalised_once():
    """By the mean and standard deviation of each channel, in training as in evaluation."""
    data = catalog.build("data", "imagenet")
    x = torch.randint(0, 256, (2, 3, 5, 5), dtype=torch.uint8)
    expected = torchvision.transforms.functional.normalize(
        x / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    )
    for training in (False, True):
        assert torch.allclose(data.prepare(x, training), expected, atol=1e-6)


def noise(path: Path, size: tuple[int, int], smooth: int = 1) -> Image.Image:
    """A file of random pixels, each `smooth` wide, and what it decodes to."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (size[1] // smooth, size[0] // smooth, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(path, "JPEG", quality=95)
    return Image.open(path).convert("RGB")


@pytest.mark.parametrize("size", [(80, 60), (61, 97), (50, 50), (33, 40)])
def test_the_centre_crop_is_torchvisions(size, tmp_path):
    """Bit by bit what Resize and CenterCrop give, on even and odd sizes, reduced and enlarged."""
    image, t = noise(tmp_path / "a.JPEG", size), torchvision.transforms
    for side, resize in ((32, 37), (45, 52), (32, 32)):
        expected = t.Compose([t.Resize(resize), t.CenterCrop(side)])(image)
        assert np.array_equal(
            imagenet.centre_crop(tmp_path / "a.JPEG", side, resize), np.asarray(expected)
        )


class Fixed:
    """A generator that draws what it is told, in turn."""

    def __init__(self, uniform, integers, flip):
        self.drawn, self.placed, self.flip = iter(uniform), iter(integers), flip

    def uniform(self, low, high):
        return next(self.drawn)

    def integers(self, n):
        return next(self.placed)

    def random(self):
        return 0.0 if self.flip else 1.0


def test_a_crop_box_by_hand():
    """A quarter of 40 x 20 at ratio 1 or 2; a ratio that does not fit is drawn again.

    No fit in ten tries: the middle at the limit.
    """
    assert imagenet.crop_box(40, 20, Fixed([0.245, 0.0], [3, 5], 0)) == (3, 5, 17, 19)
    assert imagenet.crop_box(40, 20, Fixed([0.25, np.log(2)], [0, 10], 0)) == (0, 10, 20, 20)
    assert imagenet.crop_box(40, 20, Fixed([1.0, 0.0, 0.245, 0.0], [3, 5], 0)) == (3, 5, 17, 19)
    assert imagenet.crop_box(400, 30, Fixed([1.0, 0.0] * 10, [], 0)) == (180, 0, 220, 30)
    assert imagenet.crop_box(30, 400, Fixed([1.0, 0.0] * 10, [], 0)) == (0, 180, 30, 220)


def test_crop_boxes_are_spread_as_torchvisions():
    """Limits and averages of area, ratio and place over 3,000 boxes.

    The averages within four standard errors of each other.
    """
    rng, crop = np.random.default_rng(0), torchvision.transforms.RandomResizedCrop
    ours = np.array([imagenet.crop_box(500, 375, rng) for _ in range(3000)])
    image = torch.empty(3, 375, 500)
    theirs = np.array([crop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(3000)])[
        :, [1, 0, 3, 2]
    ]
    theirs[:, 2:] += theirs[:, :2]
    spread = []
    for left, top, right, bottom in (ours.T, theirs.T):
        w, h = right - left, bottom - top
        spread.append(np.stack([w * h / (500 * 375), np.log(w / h), left, top, right, bottom]))
    a, b = spread
    error = np.sqrt((a.var(1) + b.var(1)) / 3000)
    assert (abs(a.mean(1) - b.mean(1)) < 4 * error).all()
    assert (a[:2].min(1).tolist(), a[:2].max(1).tolist()) == (
        pytest.approx([0.08, np.log(3 / 4)], abs=0.01),
        pytest.approx([b[0].max(), np.log(4 / 3)], abs=0.03),
    )


@pytest.mark.parametrize("size", [(500, 374), (75, 60)])
@pytest.mark.parametrize("flip", [False, True])
def test_a_random_crop_shows_the_box(flip, size, tmp_path):
    """The box, resized and perhaps mirrored.

    Decoded at a fraction where the file is large, within some grey levels of the whole file's.
    """
    image, (w, h) = noise(tmp_path / "a.JPEG", size, 40 if size[0] > 99 else 5), size
    box = imagenet.crop_box(w, h, Fixed([0.5, 0.1], [7, 3], 0))
    expected = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR, box)).astype(int)
    got = imagenet.random_crop(tmp_path / "a.JPEG", 32, Fixed([0.5, 0.1], [7, 3], flip)).astype(int)
    difference = np.abs(got - (expected[:, ::-1] if flip else expected))
    assert difference.mean() < (
        1.5 if size[0] > 99 else 1e-9
    )  # a shift by 2 pixels of 500 makes 3.5


ODD = {
    "grey": (picture(100, mode="L"), "JPEG"),
    "CMYK": (picture(100, mode="CMYK"), "JPEG"),
    "a PNG": (picture(100), "PNG"),
    "a PNG with a palette": (picture(100).quantize(64), "PNG"),
    "a PNG with transparency": (picture(100, mode="RGBA"), "PNG"),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_files_become_rgb(kind, tmp_path):
    """As in the real set, under the name .JPEG: three equal channels, the right way up, in training
    and evaluation.
    """
    image, form = ODD[kind]
    path = tmp_path / "a.JPEG"
    image.save(path, form)
    for pixels in (
        imagenet.centre_crop(path, 32, 37),
        imagenet.random_crop(path, 8, Fixed([0.9, 0.0], [0, 0], False)),
    ):
        x = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None]
        assert value_of(x).item() == pytest.approx(100, abs=3)


@WORKERS
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("damage", ["truncated", "empty", "a web page"])
def test_a_damaged_imagenet_file_is_named(damage, workers, full):
    """When it is reached, in training or evaluation, by the loader or a worker of it."""
    data = ready(workers=workers)
    for split, loader in (("train", data.train_dataloader()), ("test", data.test_dataloader())):
        path = data.splits[split][0].path(2)
        DAMAGE[damage][0](path)
        with pytest.raises(ValueError, match="cannot be decoded") as error:
            list(loader)
        assert str(path) in str(error.value)
        assert workers or "\n" not in str(error.value)


def flatten(folder: Path) -> None:
    for path in list(folder.glob("*/*.JPEG")):
        path.rename(folder / path.name)
    for path in folder.iterdir():
        if path.is_dir():
            path.rmdir()


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


SHORT = {
    "an image": (
        lambda f: (f / "train/n02/n02_train_3.JPEG").unlink(),
        "train must hold 21 .*, got 20 in 3, the fewest .6. in n02",
    ),
    "a class": (
        lambda f: shutil.rmtree(f / "train/n01"),
        "train must hold 21 .JPEG images in 3 folders, got 13 in 2",
    ),
    "a val image": (
        lambda f: (f / "val/n03/n03_val_0.JPEG").unlink(),
        "val must hold 5 .*, got 4 in 3, the fewest .0. in n03",
    ),
    "train": (
        lambda f: shutil.rmtree(f / "train"),
        "train is missing; it must hold 21 .JPEG images in 3 folders",
    ),
    "val": (lambda f: shutil.rmtree(f / "val"), "val is missing; it must hold 5"),
    "images": (lambda f: empty(f / "train"), "train must hold 21 .*, got 0 in 0; unpack"),
    "val's folders": (lambda f: flatten(f / "val"), "val is flat.*valprep.sh"),
    "a name": (
        lambda f: (f / "val/n02").rename(f / "val/n04"),
        "folders of the same names, n02 is in one alone",
    ),
}


@pytest.mark.parametrize("what", SHORT)
def test_what_imagenet_lacks_is_named(what, full):
    """One line: the folder that is short, what it must hold, what it holds, what to do."""
    SHORT[what][0](full)
    assert str(full) in refused("imagenet", SHORT[what][1])


def test_what_lies_beside_the_images_does_not_count(full):
    """Archives, listings and hidden files that other systems leave."""
    for name in (
        "train/n01.tar",
        "val/synset.txt",
        "train/n01/._n01_train_0.JPEG",
        "train/n02/notes.txt",
        "val/.cache/a.JPEG",
    ):
        (full / name).parent.mkdir(exist_ok=True)
        (full / name).write_bytes(b"")
    assert sizes(ready()) == (15, 6, 5)


def test_missing_imagenet_says_what_to_fetch_and_where_to_put_it(root):
    said = refused("imagenet", "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar")
    assert str(root / "imagenet") in said
    assert "TBN_BENCH_DATA" in said


@pytest.mark.parametrize("options", ["size=0", "size=64, resize=63", "workers=-1", "size=64.0"])
def test_impossible_options_are_refused(options):
    refused(
        f"imagenet({options})", "size must be 1 or more, resize at least size, workers 0 or more"
    )


def test_a_size_in_quotes_is_refused():
    refused(
        "imagenet(size=64, resize='80')", r"imagenet: option resize must be int \| None, got '80'"
    )


def test_an_imagenet_split_leaves_something_to_train_on(full):
    refused("imagenet(val_size=21)", "between 0 .train on every sample. and 20, got 21")
