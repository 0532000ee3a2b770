"""ModelNet40 (Wu et al., 2015): CAD models of 40 classes as clouds of points, official split.

The points are on the unit sphere. Reads the hdf5 layout of PointNet's authors
(modelnet40_ply_hdf5_2048, 9,840 + 2,468 clouds) or one with 1,024 points in the same layout:
train_files.txt and test_files.txt list .h5 files with `data` float32 (N, P, 3) and `label` uint8
(N, 1). The first `points` points of each cloud are taken, as in PointNet's code. The augmentation
is that of the TBN paper: random point dropout, scale, shift.

Where that layout is missing, or layout="txt" asks for it, the clouds are those of the code that the
TBN paper builds on (yanx27/Pointnet_Pointnet2_pytorch): modelnet40_normal_resampled with
modelnet40_{shape_names,train,test}.txt and <class>/<class>_0001.txt of 10,000 lines
"x,y,z,nx,ny,nz". The first `points` lines of each file are centred and scaled into the unit sphere;
normals are left out. The points are different ones, and there are 9,843 clouds for training instead
of 9,840. The parsed clouds are kept in tbn_bench_<split>_<points>.npz beside them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from tbn_bench.data._base import Split
from tbn_bench.data._parsed import fingerprint, kept, table, unit_sphere
from tbn_bench.data._points import PointDataModule
from tbn_bench.data._root import data_root, find

FOLDERS = ("modelnet40_ply_hdf5_2048", "modelnet40_ply_hdf5_1024")
ADDRESS = "https://shapenet.cs.stanford.edu/media/modelnet40_ply_hdf5_2048.zip"
TEXT = "modelnet40_normal_resampled"
TEXT_ADDRESS = "https://shapenet.cs.stanford.edu/media/modelnet40_normal_resampled.zip"
LAYOUTS = ("auto", "hdf5", "txt")
CLASSES = 40
_AGAIN = "fetch modelnet40_ply_hdf5_2048.zip again"
_TEXT_AGAIN = f"fetch {TEXT}.zip again"


def _arrays(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(data, label) of one file, as stored."""
    import h5py

    try:
        with h5py.File(path) as file:
            return file["data"][:], file["label"][:]
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing, though its folder lists it; {_AGAIN}") from error
    except (OSError, KeyError, TypeError, AttributeError) as error:
        why = " ".join(str(error).split())
        raise ValueError(
            f"{path} must be an hdf5 file with the arrays `data` and `label` ({why}); {_AGAIN}"
        ) from error


def read_clouds(path: Path, points: int) -> Split:
    """The first `points` points of every cloud in a file: (N, 3, points) float32, (N,).

    Raises ValueError naming the fault.
    """
    data, label = _arrays(path)
    shaped = data.ndim == 3 and data.shape[2] == 3
    if not shaped or data.dtype != np.float32 or not np.isfinite(data).all():
        raise ValueError(
            f"{path}: data must be finite float32 (N, points, 3), "
            f"got {data.dtype} {data.shape}; {_AGAIN}"
        )
    whole = label.size == len(data) and label.dtype.kind in "iu"
    if not whole or not ((label >= 0) & (label < CLASSES)).all():
        raise ValueError(
            f"{path}: label must hold {len(data)} whole numbers of 0 to {CLASSES - 1}, "
            f"got {label.dtype} {label.shape}; {_AGAIN}"
        )
    available = data.shape[1]
    if available < points:
        raise ValueError(
            f"{path} has {available} points per cloud, points={points} were asked for; "
            f"use modelnet40(points={available})"
        )
    x = torch.from_numpy(data[:, :points]).transpose(1, 2)
    y = torch.from_numpy(label.reshape(-1).astype(np.int64))
    return x.contiguous(), y


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is missing or unreadable ({error}); {_TEXT_AGAIN}") from error
    return _stripped(text)


def _stripped(text: str) -> list[str]:
    """The lines that are not empty."""
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line]


def read_text_cloud(path: Path, points: int) -> np.ndarray:
    """The first `points` points of a file in the unit sphere: (3, points) float32.

    Raises ValueError naming the fault.
    """
    rows = table(path, "x y z nx ny nz", _TEXT_AGAIN, delimiter=",", max_rows=points)
    available = len(rows)
    if available < points:
        raise ValueError(
            f"{path} has {available} points, points={points} were asked for; "
            f"use modelnet40(points={available})"
        )
    return unit_sphere(rows[:, :3]).T


def read_text_split(folder: Path, name: str, size: int, points: int) -> Split:
    """All clouds that modelnet40_<name>.txt lists: (size, 3, points) float32, (size,).

    Raises ValueError naming the file at fault.
    """
    names = _lines(folder / "modelnet40_shape_names.txt")
    listing = folder / f"modelnet40_{name}.txt"
    shapes = _lines(listing)
    classes = [shape.rpartition("_")[0] for shape in shapes]
    if len(names) != CLASSES or len(shapes) != size or not set(classes) <= set(names):
        raise ValueError(
            f"{listing} must list {size:,} clouds such as airplane_0001 of the {CLASSES} classes "
            f"in modelnet40_shape_names.txt, got {len(shapes):,} of {len(names)}; {_TEXT_AGAIN}"
        )
    files = [folder / label / f"{shape}.txt" for label, shape in zip(classes, shapes, strict=True)]

    def make() -> dict[str, np.ndarray]:
        clouds = [read_text_cloud(file, points) for file in files]
        stacked = np.stack(clouds)
        return {"x": stacked}

    key = fingerprint(files, _TEXT_AGAIN, 1, points)
    arrays = kept(folder / f"tbn_bench_{name}_{points}.npz", key, make)
    y = torch.tensor([names.index(label) for label in classes])
    return torch.from_numpy(arrays["x"]), y


class ModelNet40(PointDataModule):
    num_classes = CLASSES
    val_size = 984  # a tenth
    text_sizes: ClassVar = {"train": 9_843, "test": 2_468}

    def __init__(
        self,
        points: int = 1024,
        train_points: int | None = None,
        batch_size: int = 24,
        seed: int = 0,
        split_seed: int = 0,
        augment: bool = True,
        val_size: int | None = None,
        layout: str = "auto",
    ):
        super().__init__(
            points,
            train_points,
            batch_size=batch_size,
            seed=seed,
            split_seed=split_seed,
            augment=augment,
            val_size=val_size,
        )
        if layout not in LAYOUTS:
            raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
        self.layout = layout

    def read(self) -> tuple[Split, Split]:
        if self.layout != "txt":
            folder = _folder(FOLDERS)
            if folder is not None:
                train = self._split(folder, "train")
                test = self._split(folder, "test")
                return train, test
        if self.layout != "hdf5":
            folder = _folder((TEXT,))
            if folder is not None:
                train = self._text_split(folder, "train")
                test = self._text_split(folder, "test")
                return train, test
        raise ValueError(self._missing())

    def _missing(self) -> str:
        wanted = {"hdf5": FOLDERS, "txt": (TEXT,), "auto": (*FOLDERS, TEXT)}
        archive, address = (TEXT, TEXT_ADDRESS) if self.layout == "txt" else (FOLDERS[0], ADDRESS)
        return (
            f"modelnet40: found no {' or '.join(wanted[self.layout])} under {data_root()}. "
            f"Fetch {archive}.zip ({address}) and unpack it in {data_root()}, "
            "or set TBN_BENCH_DATA to the folder that has it"
        )

    def _text_split(self, folder: Path, name: str) -> Split:
        size = self.text_sizes[name]
        points = self.in_shape[1]
        return read_text_split(folder, name, size, points)

    def _split(self, folder: Path, name: str) -> Split:
        """All files that <name>_files.txt lists.

        Only their names count, because the paths are those of the list's maker.
        """
        listing = folder / f"{name}_files.txt"
        if not listing.exists():
            raise ValueError(
                f"{listing} is missing: it lists the files of the {name} split; {_AGAIN}"
            )
        paths = [Path(line) for line in _stripped(listing.read_text())]
        if not paths:
            raise ValueError(f"{listing} lists no file; {_AGAIN}")
        clouds = []
        labels = []
        for path in paths:
            x, y = read_clouds(folder / path.name, self.in_shape[1])
            clouds.append(x)
            labels.append(y)
        return torch.cat(clouds), torch.cat(labels)


def _folder(names: Sequence[str]) -> Path | None:
    """The first folder of these names that exists, each looked for in two places."""
    candidates = []
    for name in names:
        candidates += [data_root() / "modelnet40" / name, data_root() / name]
    return find(candidates)
