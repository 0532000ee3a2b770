"""Rooms of S3DIS: the prepared .npy files.

They are made from Stanford3dDataset_v1.2_Aligned_Version where they are missing.
"""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tbn_bench.data._parsed import table

RAW = "Stanford3dDataset_v1.2_Aligned_Version"
_AGAIN = (
    "prepare it again with data_utils/collect_indoor3d_data.py of yanx27/Pointnet_Pointnet2_pytorch"
)
CLASSES = (
    "ceiling",
    "floor",
    "wall",
    "beam",
    "column",
    "window",
    "door",
    "table",
    "chair",
    "sofa",
    "bookcase",
    "board",
    "clutter",
)
# A byte that no number has becomes a space. One is between two numbers in
# Area_5/hallway_6/Annotations/ceiling_1.txt.
_NUMBERS = bytes(b if chr(b) in "0123456789.+-eE \t\r\n" else 32 for b in range(256))


@dataclass(frozen=True)
class Room:
    """Points in order of x.

    xyz: (N, 3) float32 metres, none below 0. rgb: (N, 3) uint8. label: (N,) uint8.
    top: (3,), the largest xyz.
    """

    xyz: np.ndarray
    rgb: np.ndarray
    label: np.ndarray
    path: Path

    @cached_property
    def top(self) -> np.ndarray:
        return np.maximum(self.xyz.max(0), 1e-6)

    def features(self, picks: np.ndarray, centre: np.ndarray) -> np.ndarray:
        """xyz around the centre (2,) of a block, rgb in 0 to 1, xyz over the room's largest.

        picks: (P,) -> (9, P) float32.
        """
        xyz = self.xyz[picks]
        rgb = self.rgb[picks]
        share = xyz / self.top
        out = np.empty((9, len(picks)), np.float32)
        out[:3] = xyz.T
        out[3:6] = rgb.T / 255
        out[6:] = share.T
        out[:2] -= centre[:, None]
        return out


def read_room(path: Path) -> Room:
    """One file of (N, 7) numbers x y z r g b label. Raises ValueError naming the fault."""
    try:
        rows = np.load(path)
    except (OSError, ValueError, EOFError) as error:
        why = " ".join(str(error).split())
        raise ValueError(
            f"{path} must be a .npy file of (N, 7) numbers ({why}); {_AGAIN}"
        ) from error
    _check_numbers(rows, path)
    _check_values(rows, path)

    order = np.argsort(rows[:, 0], kind="stable")
    rows = rows[order]
    position = rows[:, :3]
    xyz = (position - position.min(0)).astype(np.float32)
    return Room(
        np.asfortranarray(xyz),
        rgb=rows[:, 3:6].astype(np.uint8),
        label=rows[:, 6].astype(np.uint8),
        path=path,
    )


def _check_numbers(rows: Any, path: Path) -> None:
    """Raises ValueError unless it is an array of (N, 7) numbers."""
    expected = f"{path} must hold (N, 7) numbers x y z r g b label"
    if not isinstance(rows, np.ndarray):
        kind = type(rows).__name__
        raise ValueError(f"{expected}, got {kind}; {_AGAIN}")
    shaped = rows.ndim == 2 and rows.shape[1] == 7 and len(rows) > 0
    numeric = rows.dtype.kind in "fiu"
    if not shaped or not numeric:
        raise ValueError(f"{expected}, got {rows.dtype} {rows.shape}; {_AGAIN}")


def _check_values(rows: np.ndarray, path: Path) -> None:
    """Raises ValueError for an impossible colour or label, or a coordinate that is not finite."""
    rgb = rows[:, 3:6]
    label = rows[:, 6]
    last = len(CLASSES) - 1
    if not np.isfinite(rows).all() or not _whole(rgb, 255) or not _whole(label, last):
        raise ValueError(
            f"{path} must hold finite x y z, whole r g b of 0 to 255 "
            f"and whole labels of 0 to {last}; "
            f"r g b lie in {rgb.min():g} to {rgb.max():g}, "
            f"labels in {label.min():g} to {label.max():g}; {_AGAIN}"
        )


def _whole(values: np.ndarray, largest: int) -> bool:
    """Whether all values are whole numbers of 0 to `largest`."""
    not_below = values >= 0
    not_above = values <= largest
    whole = values == np.floor(values)
    fits = not_below & not_above & whole
    return bool(fits.all())


def convert(raw: Path, target: Path) -> None:
    """Writes <target>/<area>_<room>.npy for every <raw>/<area>/<room>/Annotations.

    A file that is there already stays. A file <class>_<number>.txt has the points of one object,
    "x y z r g b". Classes without a label (stairs) are clutter.
    """
    target.mkdir(exist_ok=True)
    for annotations in sorted(raw.glob("Area_*/*/Annotations")):
        room = annotations.parent
        area = room.parent
        path = target / f"{area.name}_{room.name}.npy"
        sources = sorted(annotations.glob("*.txt"))
        if sources and not path.exists():
            _convert_room(sources, path)


def _convert_room(sources: list[Path], path: Path) -> None:
    """Writes a file beside `path` and renames it, so that no reader sees half a file."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with part.open("wb") as file:
        objects = [_object(source) for source in sources]
        rows = np.concatenate(objects)
        np.save(file, rows)
    part.replace(path)


def _object(path: Path) -> np.ndarray:
    """(N, 7) float32 of one object's file."""
    with path.open("rb") as file:
        lines = (line.translate(_NUMBERS).decode() for line in file)
        rows = table(path, "x y z r g b", f"unpack {RAW} again", lines)
    name, *_ = path.name.split("_")
    known = name if name in CLASSES else "clutter"
    number = CLASSES.index(known)
    label = np.full(len(rows), number, np.float32)
    return np.column_stack([rows, label])
