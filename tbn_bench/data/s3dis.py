"""S3DIS (Armeni et al., 2016): 272 scanned rooms of six areas; one area is the test.

Every point is labelled with one of 13 classes.

Reads stanford_indoor3d/Area_<n>_<room>.npy, (N, 7) numbers x y z r g b label, as
yanx27/Pointnet_Pointnet2_pytorch prepares them (data_utils/collect_indoor3d_data.py). Where they
are missing, it makes these files, once and in minutes, from Stanford3dDataset_v1.2_Aligned_Version.

Training is that repository's. An epoch has as many blocks as all points fill. Each block is a
1 m x 1 m column around a random point of a room, with more than 1,024 points, of which `points` are
drawn. It is turned about the vertical axis. Class weights are (largest share / share)^(1/3).

Evaluation is ours. Each room is cut once into equal columns of at most 1 m x 1 m. A fixed seed
deals out the points of a column in samples of `points`, and every point counts once: points that
fill the last sample are labelled IGNORED. In that repository's final test (test_semseg.py), columns
that overlap by half vote three times, and while it trains it samples random columns. It has no
validation rooms and chooses the epoch on the test area.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from tbn_bench.data._base import Split
from tbn_bench.data._root import data_root, find
from tbn_bench.data._s3dis_rooms import CLASSES, RAW, Room, convert, read_room
from tbn_bench.data._segmentation import Cut, SegmentationDataModule, halves
from tbn_bench.scores import IGNORED

FOLDER = "stanford_indoor3d"
SIDE = 1.0  # metres
LEAST = 1024  # a training block has more points than this
ATTEMPTS = 100  # random columns to look at before giving up


class Columns(Cut):
    """Random columns, each room as often as its points fill samples.

    They are drawn from torch's global state, which a resumed run restores.
    """

    def __init__(self, rooms: list[Room], points: int, batch_size: int):
        self.rooms = rooms
        self.points = points
        sizes = np.array([len(room.label) for room in rooms])
        filled = np.round(sizes / points).astype(int)
        times = np.maximum(1, filled)
        numbers = np.arange(len(rooms))
        self.room = np.repeat(numbers, times)
        if len(self.room) % batch_size == 1:
            self.room = np.append(self.room, 0)  # batch norm cannot take a batch of one

    def __len__(self) -> int:
        return len(self.room)

    def __getitem__(self, index: list[int]) -> Split:
        seed = torch.randint(2**62, ()).item()
        random = np.random.default_rng(seed)
        samples = []
        for number in self.room[index]:
            room = self.rooms[number]
            samples.append(self._sample(room, random))
        return _batch(samples)

    def _sample(self, room: Room, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        for _ in range(ATTEMPTS):
            middle = random.integers(len(room.xyz))
            centre = room.xyz[middle, :2]
            inside = column(room, centre)
            if len(inside) > LEAST:
                too_few = len(inside) < self.points
                picks = random.choice(inside, self.points, replace=too_few)
                return room.features(picks, centre), room.label[picks]
        raise ValueError(
            f"{room.path}: none of {ATTEMPTS} random columns of its {len(room.label):,} points "
            f"has more than {LEAST:,}; prepare it again"
        )


def column(room: Room, centre: np.ndarray) -> np.ndarray:
    """Positions of the points in the SIDE x SIDE column around centre: (2,)."""
    x, y = centre
    half = SIDE / 2
    all_x = room.xyz[:, 0]  # sorted
    low = np.searchsorted(all_x, x - half)
    high = np.searchsorted(all_x, x + half)
    near_y = room.xyz[low:high, 1]
    distance = np.abs(near_y - y)
    return low + np.flatnonzero(distance <= half)


@dataclass(frozen=True)
class _GridSample:
    """room: its number. picks: (points,) positions. The first `count` of them count."""

    room: int
    picks: np.ndarray
    centre: np.ndarray
    count: int


class Grid(Cut):
    """Every point of every room once, in samples of `points` from one column."""

    def __init__(self, rooms: list[Room], points: int):
        self.rooms = rooms
        self.points = points
        self.samples: list[_GridSample] = []
        for number, room in enumerate(rooms):
            for centre, inside in cells(room):
                self._deal(number, centre, inside)

    def _deal(self, room: int, centre: np.ndarray, inside: np.ndarray) -> None:
        """Adds the samples of one column. Its points fill the last one."""
        for start in range(0, len(inside), self.points):
            end = start + self.points
            picks = inside[start:end]
            count = len(picks)
            missing = self.points - count
            fill = np.resize(inside, missing)
            filled = np.concatenate([picks, fill])
            sample = _GridSample(room, filled.astype(np.int32), centre, count)
            self.samples.append(sample)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: list[int]) -> Split:
        chosen = [self.samples[i] for i in index]
        samples = [self._sample(sample) for sample in chosen]
        return _batch(samples)

    def _sample(self, sample: _GridSample) -> tuple[np.ndarray, np.ndarray]:
        room = self.rooms[sample.room]
        label = room.label[sample.picks].astype(np.int64)
        label[sample.count :] = IGNORED
        return room.features(sample.picks, sample.centre), label


def cells(room: Room) -> list[tuple[np.ndarray, np.ndarray]]:
    """(centre (2,), positions of its points) of every column of a room's grid that has points.

    A fixed seed shuffles the positions.
    """
    size = room.top[:2]
    whole = np.ceil(size / SIDE)
    counts = np.maximum(1, whole).astype(int)
    position = room.xyz[:, :2] / size * counts
    place = np.minimum(position, counts - 1).astype(int)
    row, col = place.T
    cols = counts[1]
    number = row * cols + col

    random = np.random.default_rng(0)
    shuffled = random.permutation(len(number))
    by_number = np.argsort(number[shuffled], kind="stable")
    order = shuffled[by_number]
    found, starts = np.unique(number[order], return_index=True)

    found_places = np.stack(np.divmod(found, cols), 1)
    centres = (found_places + 0.5) * size / counts
    groups = np.split(order, starts[1:])
    return list(zip(centres.astype(np.float32), groups, strict=True))


def _batch(samples: list[tuple[np.ndarray, np.ndarray]]) -> Split:
    features, labels = zip(*samples, strict=True)
    stacked_features = np.stack(features)
    stacked_labels = np.stack(labels)
    x = torch.from_numpy(stacked_features)
    y = torch.from_numpy(stacked_labels)
    return x, y.long()


def class_weights(rooms: list[Room]) -> Tensor:
    """(largest share / share)^(1/3) over the points of the rooms: (13,).

    A class without a point counts as one with one point.
    """
    points = np.zeros(len(CLASSES), int)
    for room in rooms:
        points += np.bincount(room.label, minlength=len(CLASSES))
    at_least_one = np.maximum(points, 1)
    ratio = points.max() / at_least_one
    weights = ratio ** (1 / 3)
    return torch.from_numpy(weights).float()


class S3DIS(SegmentationDataModule):
    """x: (N, 9, points): xyz around the block's centre, rgb in 0 to 1, xyz over the room's largest.

    y: (N, points), 0 to 12 or IGNORED. split_seed chooses val_rooms rooms that are held out, of
    those outside the test area. class_weights (13,) are of the rooms left for training.
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
            known = ", ".join(map(str, self.rooms))
            raise ValueError(f"test_area must be one of {known}, got {test_area!r}")
        training = sum(self.rooms.values()) - self.rooms[test_area]
        if not 0 < val_rooms < training:
            raise ValueError(f"val_rooms must lie between 1 and {training - 1}, got {val_rooms!r}")
        self.in_shape = (9, points)
        self.test_area = test_area

    def read(self) -> tuple[Split, Split, Split]:
        files = self._files()
        test_files = [path for path in files if _area(path) == self.test_area]
        others = [path for path in files if _area(path) != self.test_area]
        generator = torch.Generator().manual_seed(self.split_seed)
        order = torch.randperm(len(others), generator=generator).tolist()
        shuffled = [others[i] for i in order]

        rooms = [read_room(path) for path in shuffled[self.val_size :]]
        held_out = [read_room(path) for path in shuffled[: self.val_size]]
        test_rooms = [read_room(path) for path in test_files]
        self.class_weights = class_weights(rooms)

        points = self.in_shape[1]
        train = Columns(rooms, points, self.batch_size)
        val = Grid(held_out, points)
        test = Grid(test_rooms, points)
        return halves(train), halves(val), halves(test)

    def _files(self) -> list[Path]:
        roots = (data_root() / "s3dis", data_root())
        folder = find([root / FOLDER for root in roots])
        raw = find([root / RAW for root in roots])
        if folder is None and raw is None:
            raise ValueError(
                f"s3dis: neither {FOLDER} (Area_1_office_1.npy, ...) nor {RAW} "
                f"(Area_1/office_1/Annotations/*.txt, ...) found under {data_root()}. "
                f"Ask for {RAW} at http://buildingparser.stanford.edu/dataset.html "
                f"and unpack it in {data_root()}, or set TBN_BENCH_DATA to the folder that has it"
            )
        folder = folder or raw.with_name(FOLDER)
        if raw is not None:
            convert(raw, folder)
        files = sorted(folder.glob("Area_*_*.npy"))
        found = Counter(_area(path) for path in files)
        for area, count in self.rooms.items():
            if found[area] != count:
                raise ValueError(
                    f"{folder} must have {count} rooms Area_{area}_*.npy, got {found[area]}; "
                    f"prepare the missing ones, or put {RAW} beside it and they are made"
                )
        return files

    def prepare(self, x: Tensor, training: bool = False) -> Tensor:
        """x: (B, 9, points) -> the same, each block turned about its vertical axis in training."""
        if not (training and self.augment):
            return x
        share = torch.rand(len(x), 1, device=x.device)
        angle = 2 * torch.pi * share
        cos = angle.cos()
        sin = angle.sin()
        old_x = x[:, 0]
        old_y = x[:, 1]
        new_x = old_x * cos - old_y * sin
        new_y = old_x * sin + old_y * cos
        turned = torch.stack([new_x, new_y], 1)
        return torch.cat([turned, x[:, 2:]], 1)


def _area(path: Path) -> int:
    """5 of Area_5_hallway_1.npy."""
    _, number, *_ = path.name.split("_")
    if number.isdigit():
        return int(number)
    return 0
