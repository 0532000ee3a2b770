"""S3DIS (Armeni et al., 2016): 272 rooms of six areas, scanned, every point labelled with one of 13 classes; one area is the test.

Reads stanford_indoor3d/Area_<n>_<room>.npy, (N, 7) numbers x y z r g b label, as yanx27/Pointnet_Pointnet2_pytorch prepares them
(data_utils/collect_indoor3d_data.py), or makes these files, once and in minutes, from Stanford3dDataset_v1.2_Aligned_Version.

Training as there: as many blocks per epoch as all points fill, each a 1 m x 1 m column around a random point of a room, with more than
1,024 points, of which `points` are drawn; turned about the vertical axis; class weights (largest share / share)^(1/3).
Evaluation is ours: each room is cut once into equal columns of at most 1 m x 1 m, the points of a column are dealt out in samples of
`points` by a fixed seed, and every point counts once (points that fill the last sample are labelled IGNORED). That repository lets columns
that overlap by half vote three times in its final test (test_semseg.py), and samples random columns while it trains; it has no
validation rooms and chooses the epoch on the test area.
"""

from collections import Counter
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from tbn_bench.data._base import Split, data_root, find
from tbn_bench.data._s3dis_rooms import CLASSES, RAW, Room, convert, read_room
from tbn_bench.data._segmentation import Cut, SegmentationDataModule, halves
from tbn_bench.scores import IGNORED

FOLDER = "stanford_indoor3d"
SIDE, LEAST, ATTEMPTS = (
    1.0,
    1024,
    100,
)  # metres, points of a training block, columns looked at before giving up


class Columns(Cut):
    """Random columns, a room as often as its points fill samples. Drawn from torch's global state, which a resumed run restores."""

    def __init__(self, rooms: list[Room], points: int, batch_size: int):
        self.rooms, self.points = rooms, points
        sizes = np.array([len(room.label) for room in rooms])
        self.room = np.repeat(
            np.arange(len(rooms)), np.maximum(1, np.round(sizes / points).astype(int))
        )
        if len(self.room) % batch_size == 1:
            self.room = np.append(self.room, 0)  # batch norm cannot take a batch of one

    def __len__(self) -> int:
        return len(self.room)

    def __getitem__(self, index: list[int]) -> Split:
        random = np.random.default_rng(torch.randint(2**62, ()).item())
        return _batch([self._sample(self.rooms[self.room[i]], random) for i in index])

    def _sample(self, room: Room, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        for _ in range(ATTEMPTS):
            centre = room.xyz[random.integers(len(room.xyz)), :2]
            inside = column(room, centre)
            if len(inside) > LEAST:
                picks = random.choice(inside, self.points, replace=len(inside) < self.points)
                return room.features(picks, centre), room.label[picks]
        raise ValueError(
            f"{room.path}: none of {ATTEMPTS} random columns of its {len(room.label):,} points has more than {LEAST:,}; prepare it again"
        )


def column(room: Room, centre: np.ndarray) -> np.ndarray:
    """Positions of the points in the SIDE x SIDE column around centre: (2,)."""
    low, high = np.searchsorted(room.xyz[:, 0], [centre[0] - SIDE / 2, centre[0] + SIDE / 2])
    return low + np.flatnonzero(np.abs(room.xyz[low:high, 1] - centre[1]) <= SIDE / 2)


class Grid(Cut):
    """Every point of every room once, in samples of `points` from one column."""

    def __init__(self, rooms: list[Room], points: int):
        self.rooms, self.points = rooms, points
        self.samples: list[
            tuple[int, np.ndarray, np.ndarray, int]
        ] = []  # room, picks, centre, how many of the picks count
        for i, room in enumerate(rooms):
            for centre, inside in cells(room):
                for start in range(0, len(inside), points):
                    picks = inside[start : start + points]
                    filled = np.concatenate([picks, np.resize(inside, points - len(picks))]).astype(
                        np.int32
                    )
                    self.samples.append((i, filled, centre, len(picks)))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: list[int]) -> Split:
        return _batch([self._sample(*self.samples[i]) for i in index])

    def _sample(
        self, room: int, picks: np.ndarray, centre: np.ndarray, count: int
    ) -> tuple[np.ndarray, np.ndarray]:
        label = self.rooms[room].label[picks].astype(np.int64)
        label[count:] = IGNORED
        return self.rooms[room].features(picks, centre), label


def cells(room: Room) -> list[tuple[np.ndarray, np.ndarray]]:
    """(centre (2,), positions of its points, shuffled by a fixed seed) of every column of a room's grid that has points."""
    counts = np.maximum(1, np.ceil(room.top[:2] / SIDE)).astype(int)
    place = np.minimum(room.xyz[:, :2] / room.top[:2] * counts, counts - 1).astype(int)
    number = place[:, 0] * counts[1] + place[:, 1]
    order = np.random.default_rng(0).permutation(len(number))
    order = order[np.argsort(number[order], kind="stable")]
    found, starts = np.unique(number[order], return_index=True)
    centres = (np.stack(np.divmod(found, counts[1]), 1) + 0.5) * room.top[:2] / counts
    return list(zip(centres.astype(np.float32), np.split(order, starts[1:]), strict=True))


def _batch(samples: list[tuple[np.ndarray, np.ndarray]]) -> Split:
    x, y = (np.stack(arrays) for arrays in zip(*samples, strict=True))
    return torch.from_numpy(x), torch.from_numpy(y).long()


def class_weights(rooms: list[Room]) -> Tensor:
    """(largest share / share)^(1/3) over the points of the rooms: (13,). A class without a point counts as one with one point."""
    points = sum(np.bincount(room.label, minlength=len(CLASSES)) for room in rooms)
    return torch.from_numpy((points.max() / np.maximum(points, 1)) ** (1 / 3)).float()


class S3DIS(SegmentationDataModule):
    """x: (N, 9, points): xyz around the block's centre, rgb in 0 to 1, xyz over the room's largest. y: (N, points), 0 to 12 or IGNORED.

    val_rooms of the rooms that are not of the test area are held out by split_seed. class_weights (13,) are of those left for training.
    """

    tasks = ("semantic_segmentation",)
    num_classes = len(CLASSES)
    val_size = 20
    rooms: ClassVar = {1: 44, 2: 40, 3: 23, 4: 49, 5: 68, 6: 48}
    class_weights: Tensor

    def __init__(
        self,
        points: int = 4096,
        test_area: int = 5,
        val_rooms: int = 20,
        batch_size: int = 16,
        seed: int = 0,
        split_seed: int = 0,
        augment: bool = True,
    ):
        super().__init__(
            points,
            batch_size=batch_size,
            seed=seed,
            split_seed=split_seed,
            augment=augment,
            val_size=val_rooms,
        )
        if test_area not in self.rooms:
            raise ValueError(
                f"test_area must be one of {', '.join(map(str, self.rooms))}, got {test_area!r}"
            )
        training = sum(self.rooms.values()) - self.rooms[test_area]
        if not 0 < val_rooms < training:
            raise ValueError(f"val_rooms must lie between 1 and {training - 1}, got {val_rooms!r}")
        self.in_shape, self.test_area = (9, points), test_area

    def read(self) -> tuple[Split, Split, Split]:
        files = self._files()
        test = [f for f in files if _area(f) == self.test_area]
        others = [f for f in files if _area(f) != self.test_area]
        order = torch.randperm(
            len(others), generator=torch.Generator().manual_seed(self.split_seed)
        ).tolist()
        held, train = (
            [others[i] for i in part] for part in (order[: self.val_size], order[self.val_size :])
        )
        rooms = [read_room(path) for path in train]
        self.class_weights = class_weights(rooms)
        val, test = (
            Grid([read_room(path) for path in part], self.in_shape[1]) for part in (held, test)
        )
        return halves(Columns(rooms, self.in_shape[1], self.batch_size)), halves(val), halves(test)

    def _files(self) -> list[Path]:
        roots = (data_root() / "s3dis", data_root())
        folder, raw = (find([root / name for root in roots]) for name in (FOLDER, RAW))
        if folder is None and raw is None:
            raise ValueError(
                f"s3dis: neither {FOLDER} (Area_1_office_1.npy, ...) nor {RAW} (Area_1/office_1/Annotations/*.txt, ...) found under "
                f"{data_root()}. Ask for {RAW} at http://buildingparser.stanford.edu/dataset.html and unpack it in {data_root()}, "
                "or set TBN_BENCH_DATA to the folder that has it"
            )
        folder = folder or raw.with_name(FOLDER)
        if raw is not None:
            convert(raw, folder)
        files = sorted(folder.glob("Area_*_*.npy"))
        found = Counter(_area(path) for path in files)
        for area, count in self.rooms.items():
            if found[area] != count:
                raise ValueError(
                    f"{folder} must have {count} rooms Area_{area}_*.npy, got {found[area]}; prepare the missing ones, or put {RAW} "
                    "beside it and they are made"
                )
        return files

    def prepare(self, x: Tensor, training: bool = False) -> Tensor:
        """x: (B, 9, points) -> the same, each block turned about its vertical axis when training."""
        if not (training and self.augment):
            return x
        angle = 2 * torch.pi * torch.rand(len(x), 1, device=x.device)
        cos, sin = angle.cos(), angle.sin()
        turned = torch.stack([x[:, 0] * cos - x[:, 1] * sin, x[:, 0] * sin + x[:, 1] * cos], 1)
        return torch.cat([turned, x[:, 2:]], 1)


def _area(path: Path) -> int:
    """5 of Area_5_hallway_1.npy."""
    number = path.name.split("_")[1]
    return int(number) if number.isdigit() else 0
