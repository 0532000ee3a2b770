"""ModelNet40 (Wu et al., 2015): CAD models of 40 classes as clouds of points on the unit sphere, official split.

Reads the hdf5 layout of PointNet's authors (modelnet40_ply_hdf5_2048, 9,840 + 2,468 clouds) or one with 1,024 points in the same
layout: train_files.txt and test_files.txt list .h5 files with `data` float32 (N, P, 3) and `label` uint8 (N, 1). The first `points`
points of each cloud are taken, as PointNet's code does. Augmentation as in the TBN paper: random point dropout, scale, shift.
"""

from pathlib import Path

import h5py
import numpy as np
import torch

from tbn_bench.data._base import Split, data_root, find
from tbn_bench.data._points import PointDataModule

FOLDERS = ("modelnet40_ply_hdf5_2048", "modelnet40_ply_hdf5_1024")
ADDRESS = "https://shapenet.cs.stanford.edu/media/modelnet40_ply_hdf5_2048.zip"
CLASSES = 40
_AGAIN = "fetch modelnet40_ply_hdf5_2048.zip again"


def _arrays(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(data, label) of one file, as stored."""
    try:
        with h5py.File(path) as file:
            return file["data"][:], file["label"][:]
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing, though its folder lists it; {_AGAIN}") from error
    except (OSError, KeyError, TypeError, AttributeError) as error:
        why = " ".join(str(error).split())
        raise ValueError(f"{path} must be an hdf5 file with the arrays `data` and `label` ({why}); {_AGAIN}") from error


def read_clouds(path: Path, points: int) -> Split:
    """The first `points` points of every cloud in a file: (N, 3, points) float32, (N,). Raises ValueError naming what is wrong with it."""
    data, label = _arrays(path)
    if data.ndim != 3 or data.shape[2] != 3 or data.dtype != np.float32 or not np.isfinite(data).all():
        raise ValueError(f"{path}: data must be finite float32 (N, points, 3), got {data.dtype} {data.shape}; {_AGAIN}")
    if label.size != len(data) or label.dtype.kind not in "iu" or not ((label >= 0) & (label < CLASSES)).all():
        raise ValueError(
            f"{path}: label must hold {len(data)} whole numbers of 0 to {CLASSES - 1}, got {label.dtype} {label.shape}; {_AGAIN}"
        )
    if data.shape[1] < points:
        raise ValueError(
            f"{path} has {data.shape[1]} points per cloud, points={points} were asked for; use modelnet40(points={data.shape[1]})"
        )
    x = torch.from_numpy(data[:, :points]).transpose(1, 2).contiguous()
    return x, torch.from_numpy(label.reshape(-1).astype(np.int64))


class ModelNet40(PointDataModule):
    num_classes = CLASSES
    val_size = 984  # a tenth

    def __init__(
        self,
        points: int = 1024,
        train_points: int | None = None,
        batch_size: int = 24,
        seed: int = 0,
        split_seed: int = 0,
        augment: bool = True,
        val_size: int | None = None,
    ):
        super().__init__(
            points, train_points, batch_size=batch_size, seed=seed, split_seed=split_seed, augment=augment, val_size=val_size
        )

    def read(self) -> tuple[Split, Split]:
        folder = find([root / name for name in FOLDERS for root in (data_root() / "modelnet40", data_root())])
        if folder is None:
            raise ValueError(
                f"modelnet40: neither {' nor '.join(FOLDERS)} found under {data_root()}. Fetch modelnet40_ply_hdf5_2048.zip ({ADDRESS}) "
                f"and unpack it in {data_root()}, or set TBN_BENCH_DATA to the folder that has it"
            )
        return self._split(folder, "train"), self._split(folder, "test")

    def _split(self, folder: Path, name: str) -> Split:
        """All files that <name>_files.txt lists; the paths in it are those of its maker, only the file names count."""
        listing = folder / f"{name}_files.txt"
        if not listing.exists():
            raise ValueError(f"{listing} is missing: it lists the files of the {name} split; {_AGAIN}")
        names = [Path(line.strip()).name for line in listing.read_text().splitlines() if line.strip()]
        if not names:
            raise ValueError(f"{listing} lists no file; {_AGAIN}")
        parts = [read_clouds(folder / file, self.in_shape[1]) for file in names]
        return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])
