"""Guards the data sets: exact file formats, one-line errors for what is missing or damaged, a
held-out split that leaks nothing.
"""

import gzip
import hashlib
import os
import pickle
import shutil
import socket
import struct
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import torchvision

from tbn_bench import catalog
from tbn_bench.data import _points, cifar10, modelnet40, primitives
from tbn_bench.data._idx import read_idx
from tbn_bench.data._images import ImageDataModule

MNIST_FILES = {
    "train-images-idx3-ubyte": (60_000, 28, 28),
    "train-labels-idx1-ubyte": (60_000,),
    "t10k-images-idx3-ubyte": (10_000, 28, 28),
    "t10k-labels-idx1-ubyte": (10_000,),
}
CIFAR_FILES = (
    "data_batch_1",
    "data_batch_2",
    "data_batch_3",
    "data_batch_4",
    "data_batch_5",
    "test_batch",
)
LOOKALIKES = {
    "mnist": "mnist/MNIST/raw",
    "fashion_mnist": "FashionMNIST/raw",
}  # one with the folder of the data set, one without


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    """An empty data folder of our own, and no network: every connection and name look-up fails at
    once.
    """

    def refuse(*args, **kwargs):
        raise socket.gaierror("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("TBN_BENCH_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def idx(array: np.ndarray) -> bytes:
    """The IDX format by its specification: two zero bytes, type 8, rank, big-endian sizes, then the
    bytes.
    """
    return (
        struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
        + array.astype(np.uint8).tobytes()
    )


def label_of(n: int) -> np.ndarray:
    return np.arange(n) * 7 % 10


def mnist_array(shape: tuple[int, ...]) -> np.ndarray:
    """Labels, or images whose pixel (1, 2) is the label and (3, 4) is 255: enough to see pairing
    and orientation.
    """
    if len(shape) == 1:
        return label_of(shape[0])
    images = np.zeros(shape, np.uint8)
    images[:, 1, 2], images[:, 3, 4] = label_of(shape[0]), 255
    return images


@pytest.fixture(scope="module")
def mnist_gz(tmp_path_factory):
    """The four files in full size, packed (mostly zeros: some kB)."""
    folder = tmp_path_factory.mktemp("idx")
    for name, shape in MNIST_FILES.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(idx(mnist_array(shape)), 1))
    return folder


def one_line(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert "\n" not in text.strip(), text
    return text


def check_splits(data: ImageDataModule, sizes: tuple[int, int, int]) -> None:
    """The sizes, by the count of samples that the loaders really give."""
    loaders = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
    assert tuple(sum(len(y) for _, y in loader) for loader in loaders) == sizes
    assert tuple(data.size(name) for name in ("train", "val", "test")) == sizes


@pytest.mark.parametrize("name", LOOKALIKES)
def test_idx_sets_load_from_gz(name, root, mnist_gz):
    """55,000 + 5,000 + 10,000 samples, each image still beside its own label, rows before
    columns.
    """
    shutil.copytree(mnist_gz, root / LOOKALIKES[name])
    data = catalog.build("data", name)
    data.setup()
    check_splits(data, (55_000, 5_000, 10_000))
    for x, y in data.splits.values():
        assert (x.dtype, tuple(x.shape[1:])) == (torch.uint8, (1, 28, 28))
        assert torch.equal(x[:, 0, 1, 2].long(), y)
        assert bool((x[:, 0, 3, 4] == 255).all())


def test_plain_idx_is_read_byte_by_byte(tmp_path):
    """A 2 x 2 x 3 file written by hand, plain and .gz."""
    content = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 3, *range(12)])
    (tmp_path / "a").write_bytes(content)
    (tmp_path / "a.gz").write_bytes(gzip.compress(content))
    for path in (tmp_path / "a", tmp_path / "a.gz"):
        assert torch.equal(
            read_idx(path, (2, 2, 3)), torch.arange(12, dtype=torch.uint8).reshape(2, 2, 3)
        )


GOOD = idx(np.arange(12).reshape(2, 2, 3))
PACKED = gzip.compress(bytes(range(256)) * 64)
BAD = {
    "truncated": ("a", GOOD[:-1]),
    "too_long": ("a", GOOD + b"\0"),
    "empty": ("a", b""),
    "labels_for_images": ("a", b"\0\0\x08\x01" + GOOD[4:]),
    "wrong_magic": ("a", b"\x89PNG" + GOOD[4:]),
    "wrong_type": ("a", b"\0\0\x0d\x03" + GOOD[4:]),
    "wrong_sizes": ("a", idx(np.arange(12).reshape(3, 2, 2))),
    "truncated_gz": ("a.gz", gzip.compress(GOOD)[:-9]),
    "not_gz": ("a.gz", b"<html>404 Not Found</html>"),
    "damaged_gz": ("a.gz", PACKED[:12] + b"\xff" * 20 + PACKED[32:]),
}


@pytest.mark.parametrize("fault", BAD)
def test_damaged_idx_is_named(fault, tmp_path):
    """One line: which file, what is wrong with it, fetch it again."""
    name, content = BAD[fault]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match="fetch it again") as error:
        read_idx(tmp_path / name, (2, 2, 3))
    assert str(tmp_path / name) in one_line(error)


@pytest.mark.parametrize("name", LOOKALIKES)
def test_missing_idx_says_what_to_fetch_and_where_to_put_it(name, root, mnist_gz):
    """With three of four files there and no network: the fourth, the folder and the variable, in
    one line.
    """
    folder = root / LOOKALIKES[name]
    shutil.copytree(mnist_gz, folder)
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(ValueError, match="t10k-labels-idx1-ubyte") as error:
        catalog.build("data", name).setup()
    said = one_line(error)
    assert str(root) in said
    assert "TBN_BENCH_DATA" in said


def test_truncated_download_is_named(root, mnist_gz):
    """A set whose image file stopped half way is refused with the path of that file."""
    folder = root / LOOKALIKES["mnist"]
    shutil.copytree(mnist_gz, folder)
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="fetch it again") as error:
        catalog.build("data", "mnist").setup()
    assert str(path) in one_line(error)


def cifar_images(label: np.ndarray, batch: int) -> np.ndarray:
    """(n, 3, 32, 32): red, row 1, column 2 holds the label; green everywhere the batch's number."""
    images = np.zeros((len(label), 3, 32, 32), np.uint8)
    images[:, 0, 1, 2], images[:, 1] = label, batch
    return images


@pytest.fixture(scope="module")
def cifar_bin(tmp_path_factory):
    """The official binary layout in full size (184 MB, so removed afterwards)."""
    folder = tmp_path_factory.mktemp("cifar") / "cifar-10-batches-bin"
    folder.mkdir()
    label = label_of(10_000)
    for i, name in enumerate(CIFAR_FILES, 1):
        records = np.concatenate(
            [label[:, None].astype(np.uint8), cifar_images(label, i).reshape(10_000, -1)], axis=1
        )
        (folder / f"{name}.bin").write_bytes(records.tobytes())
    yield folder
    shutil.rmtree(folder)


def check_cifar(data: ImageDataModule) -> None:
    """Images beside their labels, channels first, batches 1 to 5 in training and 6 in the test."""
    for name, batches in (("train", {1, 2, 3, 4, 5}), ("val", {1, 2, 3, 4, 5}), ("test", {6})):
        x, y = data.splits[name]
        assert (x.dtype, tuple(x.shape[1:])) == (torch.uint8, (3, 32, 32))
        assert torch.equal(x[:, 0, 1, 2].long(), y)
        assert set(x[:, 1, 0, 0].tolist()) == batches
        assert int(x[:, 2].sum()) == 0


def link(source: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    for path in source.iterdir():
        (folder / path.name).symlink_to(path)


@pytest.mark.parametrize("place", ["cifar10/cifar-10-batches-bin", "cifar-10-batches-bin"])
def test_cifar_binary_layout(place, root, cifar_bin):
    """45,000 + 5,000 + 10,000 samples.

    A file that is not the official one, byte by byte, is a warning and no refusal.
    """
    link(cifar_bin, root / place)
    data = catalog.build("data", "cifar10")
    with pytest.warns(UserWarning, match="differs from the official file") as said:
        data.setup()
    assert {str(w.message).split()[0] for w in said} == {f"{name}.bin" for name in CIFAR_FILES}
    check_splits(data, (45_000, 5_000, 10_000))
    check_cifar(data)


@pytest.mark.parametrize("size", [0, 10_000 * 3073 - 1, 10_000 * 3073 + 1])
def test_cifar_binary_of_a_wrong_size_is_named(size, tmp_path):
    """One line: the file, its size, the size it must have."""
    path = tmp_path / "data_batch_1.bin"
    with path.open("wb") as file:
        file.truncate(size)
    with pytest.raises(
        ValueError, match=f"30,730,000 bytes, got {size:,}; fetch it again"
    ) as error:
        cifar10._batch(path)
    assert str(path) in one_line(error)


def test_missing_cifar_says_what_to_fetch_and_where_to_put_it(root):
    """Nothing there and no network: the archive, the folder and the variable, in one line."""
    with pytest.raises(ValueError, match="cifar-10-binary.tar.gz") as error:
        catalog.build("data", "cifar10").setup()
    said = one_line(error)
    assert str(root / "cifar10") in said
    assert "TBN_BENCH_DATA" in said


def test_one_missing_cifar_batch_says_what_to_fetch(root):
    """A half unpacked folder: the path of the missing file, and the archive to unpack again."""
    folder = root / "cifar10" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    with pytest.raises(ValueError, match="data_batch_1.bin") as error:
        catalog.build("data", "cifar10").setup()
    assert str(folder) in one_line(error)
    assert "cifar-10-binary.tar.gz" in str(error.value)


@pytest.fixture
def cifar_py(root, monkeypatch):
    """torchvision's layout, 20 images a batch, pickled as the official files are.

    Torchvision is told the md5 of these.
    """
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    label = label_of(20)
    for i, name in enumerate(CIFAR_FILES, 1):
        value = {
            "batch_label": name,
            "labels": label.tolist(),
            "data": cifar_images(label, i).reshape(20, -1),
            "filenames": [],
        }
        (folder / name).write_bytes(pickle.dumps(value, protocol=2))
    (folder / "batches.meta").write_bytes(
        pickle.dumps({"label_names": list("0123456789")}, protocol=2)
    )
    sums = {
        path.name: hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        for path in folder.iterdir()
    }
    official = torchvision.datasets.CIFAR10
    monkeypatch.setattr(official, "train_list", [[n, sums[n]] for n in CIFAR_FILES[:5]])
    monkeypatch.setattr(official, "test_list", [[n, sums[n]] for n in CIFAR_FILES[5:]])
    monkeypatch.setattr(official, "meta", official.meta | {"md5": sums["batches.meta"]})
    return folder


def test_cifar_python_layout(cifar_py):
    """The same pairing and orientation through torchvision's reader."""
    data = catalog.build("data", "cifar10(val_size=30)")
    data.setup()
    check_splits(data, (70, 30, 20))
    check_cifar(data)


class Payload:
    """Unpickling this makes a folder."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_a_hostile_cifar_batch_is_not_executed(cifar_py, tmp_path):
    """A pickle that is not the official file is refused, before it is unpickled."""
    content, marker = pickle.dumps(Payload(tmp_path / "executed")), tmp_path / "executed"
    pickle.loads(content)
    marker.rmdir()  # it was live
    (cifar_py / "data_batch_3").write_bytes(content)
    with pytest.raises(ValueError, match="cifar-10-binary.tar.gz") as error:
        catalog.build("data", "cifar10").setup()
    assert not marker.exists()
    assert "\n" not in str(error.value)


class Numbered(ImageDataModule):
    """Sample i of the 1,000 for training is the number i; the 7 test samples are 2,000 to 2,006."""

    num_classes, in_shape, mean, std, val_size = 10, (1, 1, 1), (0.0,), (1.0,), 100

    def read(self):
        x, t = (
            torch.arange(a, b, dtype=torch.float32).reshape(-1, 1, 1, 1)
            for a, b in ((0, 1000), (2000, 2007))
        )
        return (x, x.flatten().long()), (t, t.flatten().long())


def numbers(**options) -> dict[str, list[int]]:
    data = Numbered(**options)
    data.setup()
    return {name: y.tolist() for name, (_, y) in data.splits.items()}


def test_the_held_out_split_leaks_nothing():
    """Train and val are disjoint and together all training samples, each once.

    The test set is what was read, in order.
    """
    got = numbers()
    assert (len(got["train"]), len(got["val"])) == (900, 100)
    assert sorted(got["train"] + got["val"]) == list(range(1000))
    assert got["test"] == list(range(2000, 2007))


def test_the_split_depends_on_its_own_seed_alone():
    """Equal for an equal split_seed, whatever the run's seed and the global random state.

    Another for another.
    """
    first = numbers(split_seed=3, seed=0)
    torch.manual_seed(99)
    assert numbers(split_seed=3, seed=1, batch_size=7) == first
    other = numbers(split_seed=4)
    assert set(other["val"]) != set(first["val"])
    assert sorted(other["train"] + other["val"]) == list(range(1000))


def test_an_epoch_visits_every_sample_once():
    """Shuffled anew by (seed, epoch) and by nothing else; evaluation keeps the order.

    A partial last batch counts.
    """
    data = Numbered(batch_size=64, seed=5)
    data.setup()

    def epoch(e: int) -> list[int]:
        loader = data.train_dataloader()
        loader.sampler.set_epoch(e)
        return [i for _, y in loader for i in y.tolist()]

    assert sorted(epoch(0)) == sorted(data.splits["train"][1].tolist())
    assert epoch(0) == epoch(0)
    assert epoch(0) != epoch(1)
    assert [i for _, y in data.test_dataloader() for i in y.tolist()] == list(range(2000, 2007))


@pytest.mark.parametrize("size", [-1, 1000])
def test_an_impossible_split_is_refused(size):
    """val_size must leave something to train on."""
    with pytest.raises(ValueError, match=f"between 0 .* and 999, got {size}"):
        numbers(val_size=size)


def test_digits_need_no_network():
    """1,200 + 200 + 397 of scikit-learn's 1,797 digits, every class in the test set, pixels in 0 to
    1.
    """
    data = catalog.build("data", "digits")
    data.setup()
    check_splits(data, (1200, 200, 397))
    assert sorted(set(data.splits["test"][1].tolist())) == list(range(10))
    x = torch.cat([x for x, _ in data.splits.values()])
    assert (x.min().item(), x.max().item()) == (0.0, 1.0)
    assert x.mean().item() == pytest.approx(data.mean[0], abs=1e-4)


def write_clouds(path: Path, first: int, n: int, points: int = 6, **changes) -> None:
    """A file as PointNet's authors made them.

    Cloud i of the set has label i % 40; its point j is (i, j, -j) / 100.
    """
    number = np.arange(first, first + n)
    i, j = np.meshgrid(number, np.arange(points), indexing="ij")
    arrays = {
        "data": np.stack([i, j, -j], -1).astype(np.float32) / 100,
        "label": (number % 40)[:, None].astype(np.uint8),
    }
    with h5py.File(path, "w") as file:
        for name, array in (arrays | changes).items():
            if array is not None:
                file.create_dataset(name, data=array, compression="gzip")


@pytest.fixture
def modelnet(root):
    """60 + 30 clouds for training and 10 for the test, in the layout of
    modelnet40_ply_hdf5_2048.
    """
    folder = root / "modelnet40_ply_hdf5_2048"
    folder.mkdir(parents=True)
    for name, first, n in (("train0", 0, 60), ("train1", 60, 30), ("test0", 100, 10)):
        write_clouds(folder / f"ply_data_{name}.h5", first, n)
        with (folder / f"{name[:-1]}_files.txt").open("a") as file:
            file.write(
                f"data/modelnet40_ply_hdf5_2048/ply_data_{name}.h5\n"
            )  # a path of their machine
    return folder


@pytest.mark.parametrize(
    "place",
    ["modelnet40_ply_hdf5_2048", "modelnet40_ply_hdf5_1024", "modelnet40/modelnet40_ply_hdf5_1024"],
)
def test_modelnet_layout(place, root, modelnet):
    """All listed files, each cloud beside its label, coordinates first, the first points of each,
    the official split.
    """
    (root / place).parent.mkdir(exist_ok=True)
    modelnet.rename(root / place)
    data = catalog.build("data", "modelnet40(points=4, val_size=9)")
    data.setup()
    check_splits(data, (81, 9, 10))
    seen = {name: (x[:, 0, 0] * 100).round().long() for name, (x, _) in data.splits.items()}
    assert sorted([*seen["train"].tolist(), *seen["val"].tolist()]) == list(range(90))
    assert seen["test"].tolist() == list(range(100, 110))
    for name, (x, y) in data.splits.items():
        assert (x.dtype, tuple(x.shape[1:])) == (torch.float32, data.in_shape)
        assert torch.equal(seen[name] % 40, y)
        assert torch.equal(x[0, 1], torch.arange(4) / 100)
        assert torch.equal(x[:, 1], -x[:, 2])


GONE = np.full((30, 6, 3), np.nan, np.float32)
BAD_CLOUDS = {
    "no labels": {"label": None},
    "no data": {"data": None},
    "labels of another length": {"label": np.zeros((29, 1), np.uint8)},
    "a class too many": {"label": np.full((30, 1), 40, np.uint8)},
    "labels that are no numbers": {"label": np.zeros((30, 1), np.float32)},
    "normals": {"data": np.zeros((30, 6, 6), np.float32)},
    "double": {"data": np.zeros((30, 6, 3))},
    "not finite": {"data": GONE},
    "too few points": {"data": np.zeros((30, 3, 3), np.float32)},
}


@pytest.mark.parametrize("fault", BAD_CLOUDS)
def test_wrong_modelnet_files_are_named(fault, modelnet):
    """One line: the file, what it must hold, what it holds."""
    path = modelnet / "ply_data_train1.h5"
    write_clouds(path, 60, 30, **BAD_CLOUDS[fault])
    with pytest.raises(ValueError, match="must|asked for") as error:
        catalog.build("data", "modelnet40(points=4)").setup()
    assert str(path) in one_line(error)


DAMAGE = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-200]),
    "empty": lambda path: path.write_bytes(b""),
    "a web page": lambda path: path.write_text("<html>404 Not Found</html>"),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("name", ["ply_data_train1.h5", "test_files.txt"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_modelnet_files_are_named(damage, name, modelnet):
    """One line: the file, and what to fetch again.

    A cut listing of one file names nothing, or a file that is not there.
    """
    DAMAGE[damage](modelnet / name)
    with pytest.raises(ValueError, match="fetch modelnet40_ply_hdf5_2048.zip again") as error:
        catalog.build("data", "modelnet40(points=4)").setup()
    assert str(modelnet) in one_line(error)


def test_missing_modelnet_says_what_to_fetch_and_where_to_put_it(root):
    """Nothing there: the archive with its address, the folder and the variable, in one line."""
    with pytest.raises(ValueError, match="modelnet40_ply_hdf5_2048.zip") as error:
        catalog.build("data", "modelnet40").setup()
    said = one_line(error)
    assert str(root) in said
    assert "TBN_BENCH_DATA" in said


@pytest.mark.parametrize(
    "options", ["points=0", "points=2.5", "points=4, train_points=5", "points=4, train_points=0"]
)
def test_modelnet_refuses_an_impossible_number_of_points(options):
    with pytest.raises(ValueError, match="points must"):
        catalog.build("data", f"modelnet40({options})")


def test_dropped_points_are_stood_in_for_by_the_first():
    """Each cloud keeps its size and some of its points in their places.

    Between 0 and 87.5 % become the first point.
    """
    x = torch.randn(200, 3, 100)
    y = _points.drop_points(x)
    dropped, kept = (y == x[:, :, :1]).all(1), (y == x).all(1)
    assert bool((kept | dropped).all())
    share = dropped.float().mean(1)
    assert share.max() < 0.99
    assert share.min() < 0.1
    assert 0.35 < share.mean() < 0.55


def test_a_cloud_is_scaled_and_moved_as_one():
    """One factor of 0.8 to 1.25 per cloud, and one shift of at most 0.1 per axis."""
    x = torch.randn(100, 3, 50)
    y = _points.scale_and_shift(x)
    factor = (y[:, :, 1:] - y[:, :, :1]) / (x[:, :, 1:] - x[:, :, :1])
    first = factor[:, :1, :1]
    assert torch.allclose(factor, first.expand_as(factor), atol=1e-2)
    assert 0.79 < first.min() < 0.85
    assert 1.2 < first.max() < 1.26
    assert (y - first * x).abs().amax() < 0.11


def test_clouds_are_augmented_in_training_only():
    """Evaluation sees what was read; train_points of them, all different, are left in training."""
    x = torch.rand(5, 3, 20)
    data = catalog.build("data", "primitives(points=20, train_points=8)")
    assert data.prepare(x) is x
    assert tuple(data.prepare(x, training=True).shape) == (5, 3, 8)
    plain = catalog.build("data", "primitives(points=20, train_points=8, augment=False)").prepare(
        x, training=True
    )
    for cloud, source in zip(plain, x, strict=True):
        assert (
            len({tuple(p) for p in cloud.T.tolist()} & {tuple(p) for p in source.T.tolist()}) == 8
        )


def test_primitives_need_no_network():
    """The same clouds every time, every class in the test set, centred in the unit sphere, and no
    two classes alike.
    """
    data, again = (catalog.build("data", "primitives(n=100, points=64)") for _ in range(2))
    data.setup(), again.setup()
    check_splits(data, (80, 20, 50))
    assert all(
        torch.equal(a, b)
        for s in data.splits
        for a, b in zip(data.splits[s], again.splits[s], strict=True)
    )
    x, y = data.splits["test"]
    assert torch.bincount(y).tolist() == [5] * data.num_classes
    assert x.norm(dim=1).amax(1).tolist() == pytest.approx([1.0] * 50)
    assert x.mean(2).abs().max() < 1e-5


def test_primitives_are_what_they_are_called():
    """The equations of a sphere, a torus, a cube and a cone hold for every point."""
    surfaces, u = primitives.SURFACES, torch.rand(1, 500, 3)
    assert surfaces["sphere"](u).norm(dim=-1).sub(1).abs().max() < 1e-5
    x, y, z = surfaces["torus"](u).unbind(-1)
    assert (((x.square() + y.square()).sqrt() - 1).square() + z.square()).sqrt().sub(
        0.35
    ).abs().max() < 1e-5
    x, y, z = surfaces["cube"](u).unbind(-1)
    assert torch.maximum((x + y).abs(), (x - y).abs()).max() < 1 + 1e-5
    assert bool((((x + y).abs() > 1 - 1e-5) | ((x - y).abs() > 1 - 1e-5) | (z.abs() == 1)).all())
    x, y, z = surfaces["cone"](u).unbind(-1)
    on_mantle = ((x.square() + y.square()).sqrt() - (1 - z) / 2).abs() < 1e-5
    assert bool((on_mantle | (z == -1)).all())


REAL = os.environ.get("TBN_BENCH_DATA")  # read at import: the fixture above hides it


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_real_files(name, request, monkeypatch):
    """Where real files are: sample counts, balanced test classes, and the mean and deviation that
    the class states.
    """
    beside = [request.config.rootpath / "data", request.config.rootpath.parent / "shared" / "data"]
    for folder in [Path(REAL)] if REAL else beside:
        monkeypatch.setenv("TBN_BENCH_DATA", str(folder))
        data = catalog.build("data", name)
        there = (
            data._file("t10k-images-idx3-ubyte")
            if name != "cifar10"
            else list(folder.glob("**/cifar-10-batches-bin/test_batch.bin"))
        )
        if there:
            break
    else:
        pytest.skip(f"no {name} files under $TBN_BENCH_DATA, ./data or ../shared/data")
    data.setup()
    check_splits(data, (45_000 if name == "cifar10" else 55_000, 5_000, 10_000))
    if name != "mnist":  # MNIST's classes are not balanced
        assert torch.bincount(data.splits["test"][1]).tolist() == [1000] * 10
    x = data.splits["train"][0].float() / 255
    assert x.mean((0, 2, 3)).tolist() == pytest.approx(data.mean, abs=2e-3)
    assert x.std((0, 2, 3)).tolist() == pytest.approx(data.std, abs=6e-3)


def test_real_modelnet(request, monkeypatch):
    """Where real files are: all clouds of the official split, 40 classes on both sides, on the unit
    sphere.
    """
    beside = [request.config.rootpath / "data", request.config.rootpath.parent / "shared" / "data"]
    folder = next(
        (f for f in ([Path(REAL)] if REAL else beside) if list(f.glob("**/modelnet40_ply_hdf5_*"))),
        None,
    )
    if folder is None:
        pytest.skip("no modelnet40 files under $TBN_BENCH_DATA, ./data or ../shared/data")
    monkeypatch.setenv("TBN_BENCH_DATA", str(folder))
    data = catalog.build("data", "modelnet40(points=256)")
    data.setup()
    assert (data.size("val"), data.size("test")) == (984, 2468)
    assert data.size("train") + 984 in (9840, 9843)  # PointNet's authors left out three
    x, y = data.splits["test"]
    assert torch.bincount(y, minlength=modelnet40.CLASSES).min() >= 20
    assert 0.9 < x.norm(dim=1).amax(1).mean() < 1.01
