"""Rooms of S3DIS: the prepared .npy files, and their making from Stanford3dDataset_v1.2_Aligned_Version."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from tbn_bench.data._parsed import table

RAW = "Stanford3dDataset_v1.2_Aligned_Version"
CLASSES = (
    "ceiling", "floor", "wall", "beam", "column", "window", "door", "table", "chair", "sofa", "bookcase", "board", "clutter",
)  # fmt: skip
# Whatever cannot stand in a number becomes a space: Area_5/hallway_6/Annotations/ceiling_1.txt has such a byte between two numbers.
_NUMBERS = bytes(b if chr(b) in "0123456789.+-eE \t\r\n" else 32 for b in range(256))


@dataclass(frozen=True)
class Room:
    """Points in order of x. xyz: (N, 3) float32 metres, none below 0; rgb: (N, 3) and label: (N,) uint8; top: (3,), the largest xyz."""

    xyz: np.ndarray
    rgb: np.ndarray
    label: np.ndarray
    path: Path

    @cached_property
    def top(self) -> np.ndarray:
        return np.maximum(self.xyz.max(0), 1e-6)

    def features(self, picks: np.ndarray, centre: np.ndarray) -> np.ndarray:
        """xyz around the centre (2,) of a block, rgb in 0 to 1, xyz over the room's largest. picks: (P,) -> (9, P) float32."""
        xyz, out = self.xyz[picks], np.empty((9, len(picks)), np.float32)
        out[:3], out[3:6], out[6:] = xyz.T, self.rgb[picks].T / 255, (xyz / self.top).T
        out[:2] -= centre[:, None]
        return out


def read_room(path: Path) -> Room:
    """One file of (N, 7) numbers x y z r g b label. Raises ValueError naming what is wrong with it."""
    again = "prepare it again with data_utils/collect_indoor3d_data.py of yanx27/Pointnet_Pointnet2_pytorch"
    try:
        rows = np.load(path)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(
            f"{path} must be a .npy file of (N, 7) numbers ({' '.join(str(error).split())}); {again}"
        ) from error
    if (
        not isinstance(rows, np.ndarray)
        or rows.ndim != 2
        or rows.shape[1] != 7
        or not len(rows)
        or rows.dtype.kind not in "fiu"
    ):
        got = f"{rows.dtype} {rows.shape}" if isinstance(rows, np.ndarray) else type(rows).__name__
        raise ValueError(f"{path} must hold (N, 7) numbers x y z r g b label, got {got}; {again}")
    if (
        not np.isfinite(rows).all()
        or not _whole(rows[:, 3:6], 255)
        or not _whole(rows[:, 6], len(CLASSES) - 1)
    ):
        raise ValueError(
            f"{path} must hold finite x y z, whole r g b of 0 to 255 and whole labels of 0 to {len(CLASSES) - 1}; r g b lie in "
            f"{rows[:, 3:6].min():g} to {rows[:, 3:6].max():g}, labels in {rows[:, 6].min():g} to {rows[:, 6].max():g}; {again}"
        )
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    xyz = (rows[:, :3] - rows[:, :3].min(0)).astype(np.float32)
    return Room(
        np.asfortranarray(xyz), rows[:, 3:6].astype(np.uint8), rows[:, 6].astype(np.uint8), path
    )


def _whole(values: np.ndarray, largest: int) -> bool:
    return bool(((values >= 0) & (values <= largest) & (values == np.floor(values))).all())


def convert(raw: Path, target: Path) -> None:
    """Writes <target>/<area>_<room>.npy for every <raw>/<area>/<room>/Annotations; what is there already stays.

    A file <class>_<number>.txt has the points of one object, "x y z r g b"; classes without a label (stairs) are clutter.
    """
    target.mkdir(exist_ok=True)
    for annotations in sorted(raw.glob("Area_*/*/Annotations")):
        path = target / f"{annotations.parent.parent.name}_{annotations.parent.name}.npy"
        sources = sorted(annotations.glob("*.txt"))
        if sources and not path.exists():
            part = path.with_name(f".{path.name}.{os.getpid()}")
            with part.open("wb") as file:
                np.save(file, np.concatenate([_object(source) for source in sources]))
            part.replace(path)


def _object(path: Path) -> np.ndarray:
    """(N, 7) float32 of one object's file."""
    name = path.name.split("_")[0]
    with path.open("rb") as file:
        rows = table(
            path,
            "x y z r g b",
            f"unpack {RAW} again",
            (line.translate(_NUMBERS).decode() for line in file),
        )
    label = CLASSES.index(name) if name in CLASSES else CLASSES.index("clutter")
    return np.column_stack([rows, np.full(len(rows), label, np.float32)])
