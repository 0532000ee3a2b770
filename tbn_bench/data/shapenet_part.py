"""ShapeNet parts (Yi et al., 2016): 16,881 CAD models of 16 categories, official split.

Every point is labelled with one of 50 parts.

Reads shapenetcore_partanno_segmentation_benchmark_v0_normal: synsetoffset2category.txt,
train_test_split/shuffled_<split>_file_list.json and <synset>/<id>.txt of lines
"x y z nx ny nz label". Parsing takes about a minute; the result is kept in tbn_bench_<split>.npz
beside them.

As in yanx27/Pointnet_Pointnet2_pytorch, each cloud is in the unit sphere, every training batch
draws `points` of its points anew with replacement, and it is scaled and shifted. Two things are
ours: evaluation draws once, by a fixed seed, and the official validation set chooses the epoch.
That code trains on the validation set too, and chooses on the test set. Normals are left out.
"""

import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from tbn_bench.data._base import Split
from tbn_bench.data._parsed import fingerprint, kept, table, unit_sphere
from tbn_bench.data._root import data_root, find
from tbn_bench.data._segmentation import Cut, SegmentationDataModule, halves, with_category

FOLDER = "shapenetcore_partanno_segmentation_benchmark_v0_normal"
ADDRESS = f"https://shapenet.cs.stanford.edu/media/{FOLDER}.zip"
_AGAIN = f"fetch {FOLDER}.zip again"
# Category -> its number of parts. Their labels go on from category to category.
PARTS = {
    "Airplane": 4,
    "Bag": 2,
    "Cap": 2,
    "Car": 4,
    "Chair": 4,
    "Earphone": 3,
    "Guitar": 3,
    "Knife": 2,
    "Lamp": 4,
    "Laptop": 2,
    "Motorbike": 6,
    "Mug": 2,
    "Pistol": 3,
    "Rocket": 3,
    "Skateboard": 3,
    "Table": 3,
}


def _labels() -> tuple[tuple[int, ...], ...]:
    """Category -> the labels of its parts."""
    labels: list[tuple[int, ...]] = []
    first = 0
    for count in PARTS.values():
        end = first + count
        own = range(first, end)
        labels.append(tuple(own))
        first = end
    return tuple(labels)


LABELS = _labels()


class Shapes(Cut):
    """Clouds of any length, one after the other.

    points: (T, 3), labels: (T,), counts and category: (N,).
    """

    def __init__(self, arrays: dict[str, np.ndarray], size: int):
        self.points = torch.from_numpy(arrays["points"])
        self.labels = torch.from_numpy(arrays["labels"])
        counts = arrays["counts"].astype(np.int64)
        self.counts = torch.from_numpy(counts)
        category = arrays["category"].astype(np.int64)
        self.category = torch.from_numpy(category)
        ends = self.counts.cumsum(0)
        self.starts = ends - self.counts
        self.size = size

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, index: list[int]) -> Split:
        return self.draw(torch.tensor(index))

    def draw(self, index: Tensor, generator: torch.Generator | None = None) -> Split:
        """`size` points of each cloud, with replacement.

        index: (B,) -> (B, 4, size), the fourth channel the category, and (B, size).
        """
        shape = (len(index), self.size)
        share = torch.rand(shape, generator=generator, dtype=torch.float64)
        count = self.counts[index].unsqueeze(1)
        start = self.starts[index].unsqueeze(1)
        inside = (share * count).long()
        place = start + inside

        points = self.points[place].transpose(1, 2)
        category = self.category[index].reshape(-1, 1, 1)
        channel = category.expand(-1, 1, self.size)
        labels = self.labels[place].long()
        return torch.cat([points, channel], 1), labels


def read_shape(path: Path, category: int) -> tuple[np.ndarray, np.ndarray]:
    """(points (P, 3) in the unit sphere, labels (P,) uint8) of one file.

    Raises ValueError naming the fault.
    """
    rows = table(path, "x y z nx ny nz label", _AGAIN)
    labels = rows[:, 6]
    if not np.isin(labels, LABELS[category]).all():
        found = ", ".join(f"{label:g}" for label in np.unique(labels)[:8])
        raise ValueError(
            f"{path} must have the parts {LABELS[category]} of a {list(PARTS)[category]}, "
            f"got {found}; {_AGAIN}"
        )
    return unit_sphere(rows[:, :3]), labels.astype(np.uint8)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is missing or unreadable ({error}); {_AGAIN}") from error


def _synsets(folder: Path) -> dict[str, int]:
    """Folder -> category, from lines such as "Airplane 02691156"."""
    path = folder / "synsetoffset2category.txt"
    rows = [line.split() for line in _text(path).splitlines() if line.strip()]
    names = sorted(row[0] for row in rows)
    if names != sorted(PARTS) or any(len(row) != 2 for row in rows):
        raise ValueError(
            f"{path} must list the 16 categories {', '.join(PARTS)} with their folders, "
            f"got {len(rows)} lines; {_AGAIN}"
        )
    categories = list(PARTS)
    return {synset: categories.index(name) for name, synset in rows}


class ShapeNetPart(SegmentationDataModule):
    """x as read: (N, 4, points), the coordinates and the category; prepared: (B, 3 + 16, points).

    y: (N, points), 0 to 49.
    """

    tasks = ("part_segmentation",)
    num_classes = sum(PARTS.values())
    parts = LABELS
    sizes: ClassVar = {"train": 12_137, "val": 1_870, "test": 2_874}
    val_size = sizes["val"]

    def __init__(
        self,
        points: int = 2048,
        batch_size: int = 16,
        seed: int = 0,
        augment: bool = True,
    ):
        super().__init__(points, batch_size=batch_size, seed=seed, augment=augment)
        self.in_shape = (3 + len(PARTS), points)

    def read(self) -> tuple[Split, Split, Split]:
        folder = find([data_root() / "shapenet_part" / FOLDER, data_root() / FOLDER])
        if folder is None:
            raise ValueError(
                f"shapenet_part: {FOLDER} not found under {data_root()}. "
                f"Fetch {FOLDER}.zip ({ADDRESS}) and unpack it in {data_root()}, "
                "or set TBN_BENCH_DATA to the folder that has it"
            )
        train = self._shapes(folder, "train")
        val = self._shapes(folder, "val")
        test = self._shapes(folder, "test")
        return halves(train), _drawn_once(val), _drawn_once(test)

    def _shapes(self, folder: Path, name: str) -> Shapes:
        arrays = self._arrays(folder, name)
        points = self.in_shape[1]
        return Shapes(arrays, points)

    def prepare(self, x: Tensor, training: bool = False) -> Tensor:
        """x: (B, 4, points) as read -> (B, 3 + 16, points), scaled and shifted when training."""
        augmented = training and self.augment
        return with_category(x, len(PARTS), augmented)

    def _listed(self, folder: Path, name: str) -> list[tuple[Path, int]]:
        """(file, category) of every shape of a split; an entry is "shape_data/<synset>/<id>"."""
        path = folder / "train_test_split" / f"shuffled_{name}_file_list.json"
        synsets = _synsets(folder)
        text = _text(path)
        shapes = []
        try:
            for entry in json.loads(text):
                synset, shape = entry.split("/")[-2:]
                shapes.append((folder / synset / f"{shape}.txt", synsets[synset]))
        except (json.JSONDecodeError, AttributeError, TypeError, ValueError, KeyError) as error:
            raise ValueError(
                f"{path} must list entries such as shape_data/03001627/abc ({error}); {_AGAIN}"
            ) from error
        if len(shapes) != self.sizes[name]:
            raise ValueError(
                f"{path} must list {self.sizes[name]:,} shapes, got {len(shapes):,}; {_AGAIN}"
            )
        return shapes

    def _arrays(self, folder: Path, name: str) -> dict[str, np.ndarray]:
        shapes = self._listed(folder, name)
        paths = [path for path, _ in shapes]
        categories = [category for _, category in shapes]

        def make() -> dict[str, np.ndarray]:
            clouds = [read_shape(path, category) for path, category in shapes]
            return {
                "points": np.concatenate([points for points, _ in clouds]),
                "labels": np.concatenate([labels for _, labels in clouds]),
                "counts": np.array([len(labels) for _, labels in clouds]),
                "category": np.array(categories, np.uint8),
            }

        key = fingerprint(paths, _AGAIN, 1, categories)
        return kept(folder / f"tbn_bench_{name}.npz", key, make)


def _drawn_once(shapes: Shapes) -> Split:
    """All shapes, their points drawn by a fixed seed."""
    generator = torch.Generator().manual_seed(0)
    everything = torch.arange(len(shapes))
    return shapes.draw(everything, generator)
