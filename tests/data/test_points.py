"""Guards sets, networks and scores of points with labels: real file layouts in tiny, sizes of the
paper, metrics by a pencil.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import fx, nn

from tbn_bench import catalog
from tbn_bench.config import make
from tbn_bench.convert.binarize import binarize_
from tbn_bench.convert.cost import cost
from tbn_bench.data import _parsed, _s3dis_rooms, modelnet40, primitives, s3dis, shapenet_part
from tbn_bench.experiment import train
from tbn_bench.experiment.weights import trained
from tbn_bench.scores import IGNORED
from tbn_bench.tasks.part_segmentation import PartScore, PartSegmentation
from tbn_bench.tasks.point_classification import departure_from_orthogonality
from tbn_bench.tasks.semantic_segmentation import ClassScore, SemanticSegmentation

SEGMENTERS = [
    ("pointnet_part_seg", (19, 24), 50),
    ("pointnet_sem_seg", (9, 24), 13),
    ("pointnet_part_seg", (5, 24), 4),
]


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    """A data folder of our own."""
    monkeypatch.setenv("TBN_BENCH_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def one_line(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert "\n" not in text.strip(), text
    return text


# -- models


def network(name: str, shape: tuple[int, int], classes: int) -> nn.Module:
    torch.manual_seed(0)
    return catalog.build("models", name, num_classes=classes, in_shape=shape)


@pytest.mark.parametrize(
    ("name", "channels", "classes", "weights", "mbit"),
    [
        (
            "pointnet_part_seg",
            19,
            50,
            8_303_488,
            {(2, 64_000): 4.197, (8, 64_000): 1.118, (4, 138_000): 2.636},
        ),
        (
            "pointnet_sem_seg",
            9,
            13,
            3_507_200,
            {(2, 64_000): 1.787, (8, 64_000): 0.497, (4, 138_000): 1.517},
        ),
    ],
)
def test_sizes_of_the_paper(name, channels, classes, weights, mbit):
    """Weights of the two networks, and the tile bits that the authors' rules give them (paper.md
    1.4).
    """
    for (p, least), expected in mbit.items():
        model = network(name, (channels, 32), classes)
        total = cost(
            model, binarize_(model, f"tbn(p={p}, min_layer_size={least})"), (channels, 32)
        ).summary()
        assert total["weights"] == weights
        assert round(total["tile_bits"] / 1e6, 3) == expected


@pytest.mark.parametrize(("name", "shape", "classes"), SEGMENTERS)
def test_points_keep_their_logits_in_any_order(name, shape, classes):
    """The logits move with the points; doubled points change no other's.

    Any number of points will do.
    """
    model, x, order = (
        network(name, shape, classes).eval(),
        torch.randn(2, *shape),
        torch.randperm(24),
    )
    out = model(x)
    assert out.shape == (2, classes, 24)
    torch.testing.assert_close(model(x[:, :, order]), out[:, :, order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        model(torch.cat([x, x[:, :, :5]], 2))[:, :, :24], out, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(("name", "shape", "classes"), SEGMENTERS)
def test_segmenters_are_traced(name, shape, classes):
    """torch.fx sees one graph, good for other sizes, and it computes the same."""
    model = network(name, shape, classes).eval()
    graph = fx.symbolic_trace(model)
    for points in (24, 7):
        x = torch.randn(3, shape[0], points)
        assert torch.equal(graph(x), model(x))


@pytest.mark.parametrize(("name", "shape", "classes"), SEGMENTERS)
def test_the_transform_is_given_with_the_logits(name, shape, classes):
    """Square, of 128 or 64 features.

    Absent where it was left out, and the logits are those of forward.
    """
    x = torch.randn(2, *shape)
    logits, matrix = (model := network(name, shape, classes).eval()).logits_and_transform(x)
    assert torch.equal(logits, model(x))
    assert matrix.shape == ((2, 128, 128) if "part" in name else (2, 64, 64))
    assert (
        network(f"{name}(feature_transform=False)", shape, classes).logits_and_transform(x)[1]
        is None
    )


def test_the_category_reaches_every_point():
    """Another category in the one-hot channels gives other logits for the same points."""
    model = network("pointnet_part_seg", (5, 24), 4).eval()
    x = torch.randn(1, 3, 24)
    hot = [torch.eye(2)[c].reshape(1, 2, 1).expand(-1, -1, 24) for c in (0, 1)]
    a, b = (model(torch.cat([x, h], 1)) for h in hot)
    assert bool(((a - b).abs().amax(1) > 1e-4).all())


@pytest.mark.parametrize("name", ["pointnet_part_seg", "pointnet_sem_seg"])
@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 64)])
def test_segmenters_refuse_what_is_no_cloud(name, shape):
    with pytest.raises(ValueError, match="takes clouds of shape") as error:
        network(name, shape, 4)
    assert str(shape) in one_line(error)


def test_part_segmentation_needs_a_category():
    with pytest.raises(ValueError, match="at least 4 channels"):
        network("pointnet_part_seg", (3, 64), 4)


# -- primitives


def test_parts_of_primitives_lie_where_they_should():
    """In a prism the lids are at the two ends of z and nothing else is.

    In a pyramid the base is at one end, the mantle above.
    """
    x, y = primitives.clouds(20, 400, 0.0, torch.Generator().manual_seed(0), "part")
    for cloud, labels in zip(x, y, strict=True):
        z, parts = cloud[2], primitives.PARTS[int(cloud[3, 0])]
        assert set(labels.tolist()) == set(parts)
        if len(parts) == 2:
            second = labels == parts[1]
            ends = (z - z.min()).abs() < 1e-6
            ends |= ((z - z.max()).abs() < 1e-6) & (
                parts[0] < 10
            )  # 10: the first label of a pyramid
            assert torch.equal(ends, second)


def test_walls_are_upright():
    """Without stretching: the wall of a cylinder has radius 1, its lids |z| = 1, the base of a cone
    z = -1.
    """
    u = torch.rand(1000, 3)
    second = primitives.second_part(u)[:, 0]
    cylinder, cone = primitives.SURFACES["cylinder"](u), primitives.SURFACES["cone"](u)
    assert bool((cylinder[second, 2].abs() == 1).all())
    assert (cylinder[~second, :2].norm(dim=1) - 1).abs().max() < 1e-5
    assert bool((cone[second, 2] == -1).all())
    assert (cone[~second, :2].norm(dim=1) - (1 - cone[~second, 2]) / 2).abs().max() < 1e-5


def test_primitives_are_the_same_clouds_with_either_labels():
    """Coordinates bit by bit; x carries the class, prepared as one of ten channels; 16 parts.

    Augmentation leaves categories alone.
    """
    plain, parted = (
        catalog.build("data", f"primitives(n=40, points=16{more})")
        for more in ("", ", labels='part'")
    )
    plain.setup(), parted.setup()
    (x, y), (px, py) = plain.splits["train"], parted.splits["train"]
    assert torch.equal(px[:, :3], x)
    assert torch.equal(px[:, 3, 0].long(), y)
    assert (parted.in_shape, parted.num_classes, py.shape) == ((13, 16), 16, (32, 16))
    assert [label for labels in parted.parts for label in labels] == list(range(16))
    seen, moved = parted.prepare(px), parted.prepare(px, training=True)
    assert torch.equal(seen[:, :3], x)
    assert torch.equal(seen[:, 3:].argmax(1), px[:, 3].long())
    assert torch.equal(moved[:, 3:], seen[:, 3:])
    assert not torch.equal(moved[:, :3], x)
    assert not hasattr(plain, "parts")


@pytest.mark.parametrize("options", ["labels='parts'", "labels='part', train_points=4"])
def test_primitives_refuse_options_that_do_not_go_together(options):
    with pytest.raises(ValueError, match="labels"):
        catalog.build("data", f"primitives(points=8, {options})")


# -- ModelNet40 as text


@pytest.fixture
def resampled(root, monkeypatch):
    """80 + 40 clouds of 8 points, two and one of each class.

    The first point of cloud k has x = k.
    """
    folder, names = root / "modelnet40_normal_resampled", [f"c{i:02}_x" for i in range(40)]
    monkeypatch.setattr(modelnet40.ModelNet40, "text_sizes", {"train": 80, "test": 40})
    folder.mkdir()
    (folder / "modelnet40_shape_names.txt").write_text("\n".join(names) + "\n")
    listed = {"train": [(n, k) for k in (1, 2) for n in names], "test": [(n, 3) for n in names]}
    for split, clouds in listed.items():
        (folder / f"modelnet40_{split}.txt").write_text("".join(f"{n}_{k:04}\n" for n, k in clouds))
        for name, k in clouds:
            (folder / name).mkdir(exist_ok=True)
            rows = np.random.default_rng(k).normal(size=(8, 6))
            (folder / name / f"{name}_{k:04}.txt").write_text(
                "".join(",".join(f"{v:.6f}" for v in row) + "\n" for row in rows)
            )
    return folder


def test_modelnet_as_text(resampled):
    """The first lines of each file, centred, in the unit sphere; labels by the list of names.

    The official split.
    """
    data = catalog.build("data", "modelnet40(points=5, val_size=8)")
    data.setup()
    assert [data.size(name) for name in ("train", "val", "test")] == [72, 8, 40]
    x, y = data.splits["test"]
    rows = np.loadtxt(resampled / "c00_x" / "c00_x_0003.txt", delimiter=",")[:5, :3]
    expected = (rows - rows.mean(0)) / np.linalg.norm(rows - rows.mean(0), axis=1).max()
    assert np.allclose(x[0].T.numpy(), expected, atol=1e-6)
    assert y.tolist() == list(range(40))
    assert sorted(torch.cat([data.splits["train"][1], data.splits["val"][1]]).tolist()) == sorted(
        [*range(40)] * 2
    )


def test_hdf5_comes_first_and_layout_asks_for_one(resampled, root):
    """With both folders there the hdf5 one is read, and layout='txt' reads the other."""
    (root / "modelnet40_ply_hdf5_2048").mkdir()
    with pytest.raises(ValueError, match="train_files.txt is missing"):
        catalog.build("data", "modelnet40(points=4)").setup()
    catalog.build("data", "modelnet40(points=4, val_size=8, layout='txt')").setup()
    with pytest.raises(ValueError, match="layout must be one of"):
        catalog.build("data", "modelnet40(layout='h5')")


def test_parsed_clouds_are_kept(resampled, monkeypatch):
    """A second reading parses nothing, a changed file or another number of points all.

    A damaged store is made again.
    """

    def read(points: int = 4) -> torch.Tensor:
        return modelnet40.read_text_split(resampled, "test", 40, points)[0]

    first, kept = read(), resampled / "tbn_bench_test_4.npz"
    with monkeypatch.context() as patch:
        patch.setattr(modelnet40, "read_text_cloud", None)
        assert torch.equal(read(), first)
    content = bytearray(kept.read_bytes())
    content[len(content) // 2] ^= 255
    kept.write_bytes(content)
    assert torch.equal(read(), first)
    path = resampled / "c00_x" / "c00_x_0003.txt"
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    os.utime(path, ns=(0, 0))
    assert not torch.equal(read()[0], first[0])
    assert torch.equal(read()[1:], first[1:])
    assert read(3).shape == (40, 3, 3)
    assert [p.name for p in resampled.glob(".*")] == []


def test_a_folder_that_cannot_be_written_is_read_all_the_same(tmp_path):
    arrays = _parsed.kept(tmp_path / "gone" / "a.npz", "key", lambda: {"x": np.arange(3)})
    assert arrays["x"].tolist() == [0, 1, 2]


CLOUD = "c00_x/c00_x_0003.txt"
TEXT_FAULTS = {
    "five columns": (CLOUD, "1,2,3,4,5\n" * 8, "6 finite numbers"),
    "words": (CLOUD, "<html>404</html>\n" * 8, "6 finite numbers"),
    "nan": (CLOUD, "1,2,nan,4,5,6\n" * 8, "6 finite numbers"),
    "empty": (CLOUD, "", "6 finite numbers"),
    "short": (CLOUD, "1,2,3,4,5,6\n" * 3, "modelnet40\\(points=3\\)"),
    "missing": (CLOUD, None, "is missing"),
    "listing": ("modelnet40_test.txt", "c00_x_0003\n", "must list 40 clouds"),
    "no listing": ("modelnet40_test.txt", None, "missing or unreadable"),
    "strangers": ("modelnet40_test.txt", "what_0003\n" * 40, "must list 40 clouds"),
    "names": ("modelnet40_shape_names.txt", "c00_x\n", "of 1;"),
}


@pytest.mark.parametrize("fault", TEXT_FAULTS)
def test_wrong_text_clouds_are_named(fault, resampled):
    """One line: the file, what it must hold, what to fetch again."""
    name, content, said = TEXT_FAULTS[fault]
    path = resampled / name
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(ValueError, match=said) as error:
        catalog.build("data", "modelnet40(points=4, val_size=8)").setup()
    assert fault == "short" or "fetch modelnet40_normal_resampled.zip again" in one_line(error)
    assert fault == "names" or str(path) in one_line(error)


# -- ShapeNet parts


@pytest.fixture
def shapenet(root, monkeypatch):
    """One shape of every category for training and test, four for validation, of 5 to 20 points.

    The part of a point decides its x.
    """
    folder, number = root / shapenet_part.FOLDER, np.random.default_rng(0)
    monkeypatch.setattr(shapenet_part.ShapeNetPart, "sizes", {"train": 16, "val": 4, "test": 16})
    (folder / "train_test_split").mkdir(parents=True)
    (folder / "synsetoffset2category.txt").write_text(
        "".join(f"{n}\t{i:08}\n" for i, n in enumerate(shapenet_part.PARTS))
    )
    for split, size in (("train", 16), ("val", 4), ("test", 16)):
        listed = [f"shape_data/{i:08}/{split}" for i in range(size)]
        (folder / "train_test_split" / f"shuffled_{split}_file_list.json").write_text(
            json.dumps(listed)
        )
        for i in range(size):
            (folder / f"{i:08}").mkdir(exist_ok=True)
            labels = number.choice(shapenet_part.LABELS[i], size=number.integers(5, 20))
            lines = [f"{label} {j} 0.5 0 0 1 {label}.000000" for j, label in enumerate(labels)]
            (folder / f"{i:08}" / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return folder


def test_shapenet_layout(shapenet):
    """The official split; labels stay beside their points.

    The category becomes one of sixteen channels.
    """
    data = catalog.build("data", "shapenet_part(points=32)")
    data.setup()
    assert [data.size(name) for name in ("train", "val", "test")] == [16, 4, 16]
    assert (data.in_shape, data.num_classes, len(data.parts)) == ((19, 32), 50, 16)
    x, y = data.splits["test"]
    assert (x.shape, y.shape, y.dtype) == ((16, 4, 32), (16, 32), torch.int64)
    assert x[:, 3].long().tolist() == [[i] * 32 for i in range(16)]
    assert data.prepare(x)[:, 3:].argmax(1).tolist() == [[i] * 32 for i in range(16)]
    for cloud, labels, parts in zip(x, y, data.parts, strict=True):
        assert set(labels.tolist()) <= set(parts)
        by_place = {
            round(place, 5): label
            for place, label in zip(cloud[0].tolist(), labels.tolist(), strict=True)
        }
        assert (
            sorted(by_place.values())
            == [by_place[place] for place in sorted(by_place)]
            == sorted(set(labels.tolist()))
        )


def test_shapenet_clouds_lie_in_the_unit_sphere(shapenet):
    """All points of a file together: centred, the farthest at distance 1."""
    points, labels = shapenet_part.read_shape(shapenet / "00000003" / "train.txt", 3)
    assert (points.dtype, labels.dtype, len(points)) == (np.float32, np.uint8, len(labels))
    assert np.abs(points.mean(0)).max() < 1e-6
    assert np.linalg.norm(points, axis=1).max() == pytest.approx(1)


def test_training_draws_points_anew(shapenet):
    """With replacement, from all points of the shape, again for every batch.

    Evaluation stays as it is, and a seed repeats a draw.
    """
    data, again = (
        catalog.build("data", "shapenet_part(points=64, batch_size=16)") for _ in range(2)
    )
    data.setup(), again.setup()
    assert all(
        torch.equal(a, b)
        for s in ("val", "test")
        for a, b in zip(data.splits[s], again.splits[s], strict=True)
    )
    draws = []
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        draws.append(next(iter(data.train_dataloader())))
    assert torch.equal(draws[0][0], draws[2][0])
    assert not torch.equal(draws[0][0], draws[1][0])
    counts = [
        len((shapenet / f"{int(c):08}" / "train.txt").read_text().splitlines())
        for c in draws[0][0][:, 3, 0]
    ]
    seen = [len({tuple(p) for p in cloud[:3].T.tolist()}) for cloud in draws[0][0]]
    assert all(0.8 * n < s <= n for s, n in zip(seen, counts, strict=True))
    assert data.splits["train"][0][:3].shape == (3, 4, 64)
    assert [len(y) for y in data.splits["train"][1].split(10)] == [10, 6]


SHAPE = "00000003/train.txt"
SHAPE_FAULTS = {
    "columns": (SHAPE, "0 0 0 0 0 1\n", "7 finite numbers"),
    "words": (SHAPE, "a b c d e f g\n", "7 finite numbers"),
    "empty": (SHAPE, "", "7 finite numbers"),
    "infinite": (SHAPE, "0 inf 0 0 0 0 8\n", "7 finite numbers"),
    "foreign part": (
        SHAPE,
        "0 0 0 0 0 1 8\n0 0 0 0 0 1 3\n",
        r"must have the parts \(8, 9, 10, 11\) of a Car, got 3, 8",
    ),
    "missing": (SHAPE, None, "is missing"),
    "categories": (
        "synsetoffset2category.txt",
        "Airplane 00000000\n",
        "must list the 16 categories",
    ),
    "no categories": ("synsetoffset2category.txt", None, "missing or unreadable"),
    "listing": (
        "train_test_split/shuffled_train_file_list.json",
        '["shape_data/00000001/train"]',
        "must list 16 shapes, got 1",
    ),
    "no json": (
        "train_test_split/shuffled_train_file_list.json",
        "<html>",
        "must list entries such as",
    ),
    "entries": (
        "train_test_split/shuffled_train_file_list.json",
        "[3]",
        "must list entries such as",
    ),
    "synset": (
        "train_test_split/shuffled_train_file_list.json",
        '["shape_data/777/a"]',
        "must list entries such as",
    ),
}


@pytest.mark.parametrize("fault", SHAPE_FAULTS)
def test_wrong_shapenet_files_are_named(fault, shapenet):
    """One line: the file, what it must hold, what it holds, what to fetch again."""
    name, content, said = SHAPE_FAULTS[fault]
    path = shapenet / name
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(ValueError, match=said) as error:
        catalog.build("data", "shapenet_part(points=8)").setup()
    assert str(path) in one_line(error)
    assert "again" in one_line(error)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("shapenet_part", shapenet_part.FOLDER),
        ("s3dis", s3dis.FOLDER),
        ("modelnet40(layout='txt')", modelnet40.TEXT),
    ],
)
def test_missing_sets_say_what_to_fetch_and_where_to_put_it(name, wanted, root):
    """Nothing there: the folder that is wanted, the place for it, an address and the variable, in
    one line.
    """
    with pytest.raises(ValueError, match=wanted) as error:
        catalog.build("data", name).setup()
    said = one_line(error)
    assert str(root) in said
    assert "http" in said
    assert "TBN_BENCH_DATA" in said


# -- S3DIS


def room_rows(n: int, size: tuple[float, float, float], seed: int) -> np.ndarray:
    """(n, 7): evenly spread points; the label is the whole metre of x, red the whole metre of y."""
    random = np.random.default_rng(seed)
    xyz = random.random((n, 3)) * size
    return np.column_stack(
        [xyz, np.floor(xyz[:, 1]), np.full(n, 255), np.zeros(n), np.floor(xyz[:, 0])]
    )


@pytest.fixture
def rooms(root, monkeypatch):
    """Areas 1 and 5 of three rooms and one, 2.6 m x 1.8 m x 3 m and of 6,000 points.

    1,200 of them in a square metre.
    """
    monkeypatch.setattr(s3dis.S3DIS, "rooms", {1: 3, 5: 1})
    folder = root / "stanford_indoor3d"
    folder.mkdir()
    for i, name in enumerate(
        ("Area_1_office_1", "Area_1_office_2", "Area_1_hallway_1", "Area_5_office_1")
    ):
        np.save(folder / f"{name}.npy", room_rows(6000, (2.6, 1.8, 3.0), i))
    return folder


def areas(**options) -> s3dis.S3DIS:
    data = s3dis.S3DIS(**{"points": 512, "val_rooms": 1, "batch_size": 4} | options)
    data.setup()
    return data


def test_s3dis_evaluation_sees_every_point_once(rooms):
    """Of the test room all 6,000 points are labelled once, in columns of at most 1 m x 1 m.

    The rest of the samples is ignored.
    """
    data = areas()
    batches = list(data.test_dataloader())
    x, y = torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])
    assert x.shape[1:] == (9, 512)
    assert len(x) == data.size("test")
    counted = y != IGNORED
    top = data.splits["test"][0].samples.rooms[0].top
    places = (x[:, 6:].transpose(1, 2)[counted].numpy() * top).round(4)
    original = np.load(rooms / "Area_5_office_1.npy")
    expected = (original[:, :3] - original[:, :3].min(0)).astype(np.float32).round(4)
    assert np.allclose(sorted(map(tuple, places)), sorted(map(tuple, expected)), atol=2e-4)
    assert x[:, :2].abs().max() <= 0.5
    assert all(
        torch.equal(a, b)
        for a, b in zip((x, y), (data.splits["test"][i][:] for i in (0, 1)), strict=True)
    )


def test_s3dis_channels(rooms):
    """xyz around the centre of the column, colours in 0 to 1, and the place in the room, each
    beside its own label.
    """
    data = areas()
    x, y = (half[:] for half in data.splits["test"])
    top = torch.from_numpy(data.splits["test"][0].samples.rooms[0].top).reshape(1, 3, 1)
    place = x[:, 6:] * top
    centre = place[:, :2] - x[:, :2]
    assert (centre - centre[:, :, :1]).abs().max() < 1e-5
    assert torch.allclose(place[:, 2], x[:, 2], atol=1e-5)
    assert torch.equal(x[:, 4], torch.ones_like(x[:, 4]))
    near = (
        place[:, 0] - place[:, 0].round()
    ).abs() < 0.01  # rooms begin at their first point, a millimetre from 0
    assert bool(((place[:, 0].floor() == y) | near | (y == IGNORED)).all())


def test_s3dis_training_columns(rooms):
    """Columns of 1 m x 1 m with more than 1,024 points, drawn anew; as many as the points fill.

    Never from held-out or test rooms.
    """
    data = areas()
    assert data.size("train") == 2 * round(6000 / 512) == 24
    assert areas(batch_size=23).size("train") == 25  # no batch of one
    torch.manual_seed(0)
    first, second = (torch.cat([x for x, _ in data.train_dataloader()]) for _ in range(2))
    assert first.shape == (24, 9, 512)
    assert not torch.equal(first, second)
    assert first[:, :2].abs().max() <= 0.5 + 1e-6
    known = [
        {tuple(p) for p in (room.xyz / room.top).tolist()}
        for room in data.splits["train"][0].samples.rooms
    ]
    assert all(
        any({tuple(p) for p in x[6:].T.tolist()} <= room for room in known) for x in first[:4]
    )
    column = s3dis.column(
        data.splits["train"][0].samples.rooms[0], np.array([1.3, 0.9], np.float32)
    )
    room = data.splits["train"][0].samples.rooms[0].xyz
    assert set(column) == set(
        np.flatnonzero((np.abs(room[:, 0] - 1.3) <= 0.5) & (np.abs(room[:, 1] - 0.9) <= 0.5))
    )


def test_s3dis_rooms_are_held_out_by_their_own_seed(rooms):
    """Whole rooms: two train, one validates, by split_seed alone; test_area names the others."""
    sizes = [
        [len(areas(split_seed=seed).splits[s][0].samples.rooms) for s in ("train", "val", "test")]
        for seed in (0, 1)
    ]
    assert sizes == [[2, 1, 1]] * 2
    held = {
        s: areas(split_seed=s, seed=9).splits["val"][0].samples.rooms[0].xyz[0].tolist()
        for s in range(6)
    }
    assert held[0] == areas(split_seed=0).splits["val"][0].samples.rooms[0].xyz[0].tolist()
    assert len({tuple(v) for v in held.values()}) > 1
    with pytest.raises(ValueError, match="val_rooms must lie between 1 and 2, got 3"):
        areas(val_rooms=3)
    with pytest.raises(ValueError, match="test_area must be one of 1, 5, got 7"):
        areas(test_area=7)


def test_s3dis_class_weights_by_hand():
    """8 points of class 0 and one of class 1: 1 and 8^(1/3) = 2.

    A class without a point as if it had one.
    """
    room = _s3dis_rooms.Room(
        np.zeros((9, 3), np.float32),
        np.zeros((9, 3), np.uint8),
        np.array([0] * 8 + [1], np.uint8),
        Path("a"),
    )
    assert s3dis.class_weights([room]).tolist() == pytest.approx([1.0] + [2.0] * 12)


def test_blocks_are_turned_about_the_vertical(rooms):
    """Heights, colours and places stay, distances from the axis too.

    Every block has an angle of its own; evaluation is left alone.
    """
    data = areas()
    x = data.splits["test"][0][:6]
    assert data.prepare(x) is x
    turned = data.prepare(x, training=True)
    assert torch.equal(turned[:, 2:], x[:, 2:])
    assert torch.allclose(turned[:, :2].norm(dim=1), x[:, :2].norm(dim=1), atol=1e-5)
    angle = torch.atan2(turned[:, 1], turned[:, 0]) - torch.atan2(x[:, 1], x[:, 0])
    assert torch.allclose(angle.cos(), angle[:, :1].cos().expand_as(angle), atol=1e-2)
    assert len({round(a, 3) for a in angle[:, 0].cos().tolist()}) == 6
    assert areas(augment=False).prepare(x, training=True) is x


def test_s3dis_from_annotations(rooms, root):
    """A room missing from the prepared ones is made from its objects: labels by file name, stairs
    are clutter, a stray byte no matter.
    """
    (rooms / "Area_5_office_1.npy").unlink()
    folder = root / _s3dis_rooms.RAW / "Area_5" / "office_1" / "Annotations"
    folder.mkdir(parents=True)
    (folder / "chair_1.txt").write_bytes(b"1.0 2.0 3.0 10 20 30\n2.0 2.0 3.0 185\x10187 182\n")
    (folder / "stairs_1.txt").write_text("-1.0 0.5 0.25 255 0 0\n")
    areas()
    made = np.load(rooms / "Area_5_office_1.npy")
    assert made.tolist() == [
        [1, 2, 3, 10, 20, 30, 8],
        [2, 2, 3, 185, 187, 182, 8],
        [-1, 0.5, 0.25, 255, 0, 0, 12],
    ]
    room = _s3dis_rooms.read_room(rooms / "Area_5_office_1.npy")
    assert (room.xyz.tolist(), room.label.tolist()) == (
        [[0, 0, 0], [2, 1.5, 2.75], [3, 1.5, 2.75]],
        [12, 8, 8],
    )


GOOD_ROW = np.array([[1.0, 2.0, 3.0, 0.0, 128.0, 255.0, 12.0]])
BAD_ROOMS = {
    "columns": GOOD_ROW[:, :6],
    "empty": GOOD_ROW[:0],
    "label": GOOD_ROW - [0, 0, 0, 0, 0, 0, -1],
    "half label": GOOD_ROW - [0, 0, 0, 0, 0, 0, 0.5],
    "colour": GOOD_ROW - [0, 0, 0, 0, 0, -1, 0],
    "colours in 0 to 1": GOOD_ROW / [1, 1, 1, 255, 255, 255, 1],
    "nan": GOOD_ROW * [np.nan, 1, 1, 1, 1, 1, 1],
    "words": np.array([["a"] * 7]),
}


@pytest.mark.parametrize("fault", BAD_ROOMS)
def test_wrong_rooms_are_named(fault, tmp_path):
    """One line: the file, what it must hold, what to do."""
    np.save(tmp_path / "Area_1_a.npy", BAD_ROOMS[fault])
    with pytest.raises(ValueError, match="must hold .* prepare it again") as error:
        _s3dis_rooms.read_room(tmp_path / "Area_1_a.npy")
    assert str(tmp_path / "Area_1_a.npy") in one_line(error)


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x93NUMPY\x01\x00"])
def test_damaged_rooms_are_named(content, tmp_path):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(ValueError, match="must be a .npy file") as error:
        _s3dis_rooms.read_room(tmp_path / "a.npy")
    assert str(tmp_path / "a.npy") in one_line(error)


def test_missing_rooms_and_empty_columns_are_named(rooms):
    """A room too few in an area; and a room so thin that no column of it holds 1,025 points."""
    np.save(rooms / "Area_1_office_1.npy", room_rows(1000, (2.6, 1.8, 3.0), 9))
    data = areas(split_seed=next(s for s in range(9) if 1000 in _sizes(areas(split_seed=s))))
    with pytest.raises(
        ValueError, match=r"Area_1_office_1.npy: none of 100 random columns of its 1,000 points"
    ):
        list(data.train_dataloader())
    (rooms / "Area_1_office_1.npy").unlink()
    with pytest.raises(ValueError, match=r"must have 3 rooms Area_1_\*.npy, got 2") as error:
        areas()
    one_line(error)


def _sizes(data: s3dis.S3DIS) -> list[int]:
    return [len(room.label) for room in data.splits["train"][0].samples.rooms]


# -- tasks


def outputs(labels: list[list[int]], classes: int) -> torch.Tensor:
    """Logits whose largest is the label: (B, classes, P)."""
    return nn.functional.one_hot(torch.tensor(labels), classes).transpose(1, 2).float()


def test_part_scores_by_hand():
    """Category 0 has parts 0 and 1, category 1 part 2, category 2 parts 3 and 4.

    Shape 1: labels 0011, predicted 0111: overlaps 1/2 and 2/3, 3/4 right. Shape 2: only part 0, all
    right: 1 and 1, for part 1 is neither
    there nor taken for. Shape 3 of category 1: whatever the outputs, part 2 is all that is
    possible. No shape of category 2.
    """
    parts, y = ((0, 1), (2,), (3, 4)), torch.tensor([[0, 0, 1, 1], [0, 0, 0, 0], [2, 2, 2, 2]])
    out = outputs([[0, 1, 1, 1], [0, 0, 0, 0], [0, 3, 1, 2]], 5)
    scores = [
        PartScore(parts, overlap=False),
        PartScore(parts),
        PartScore(parts, per_category=True),
    ]
    for score in scores:
        score.update(out[:2], y[:2]), score.update(out[2:], y[2:])
    shape = 7 / 12
    expected = [(0.75 + 1 + 1) / 3, (shape + 1 + 1) / 3, ((shape + 1) / 2 + 1) / 2]
    assert [score.compute().item() for score in scores] == pytest.approx(expected)


def test_predictions_are_parts_of_the_shape():
    """An output that is larger for another category's part is not looked at."""
    score = PartScore(((0, 1), (2, 3)))
    logits = torch.tensor([[0.1, 0.2, 9.0, 9.0]]).reshape(1, 4, 1).expand(1, 4, 6)
    score.update(logits, torch.ones(1, 6, dtype=torch.int64))
    assert score.compute() == 1


def test_class_scores_by_hand():
    """Points 0 0 1 2 . taken for 0 1 1 1 0 of five classes, the last ignored: 2 of 4 right; shares
    1/2, 1, 0; overlaps 1/2, 1/3, 0.

    Then one more, a 0 taken for 3: shares 1/3, 1, 0 of the classes there are, and class 3 has an
    overlap of 0; class 4 is nowhere.
    """
    kinds = ("accuracy", "class_accuracy", "miou")
    scores = [ClassScore(5, kind) for kind in kinds]
    out, y = outputs([[0, 1, 1, 1, 0]], 5), torch.tensor([[0, 0, 1, 2, -100]])
    for score in scores:
        score.update(out, y)
    assert [s.compute().item() for s in scores] == pytest.approx(
        [1 / 2, (1 / 2 + 1 + 0) / 3, (1 / 2 + 1 / 3 + 0) / 3]
    )
    for score in scores:
        score.update(outputs([[3]], 5), torch.tensor([[0]]))
    assert [s.compute().item() for s in scores] == pytest.approx(
        [2 / 5, (1 / 3 + 1 + 0) / 3, (1 / 3 + 1 / 3 + 0 + 0) / 4]
    )


def test_points_without_a_label_count_in_no_score_of_parts():
    """Two shapes of the hand-made ones with ignored points added, first and last, and a shape of
    ignored points alone: the scores are those of the shapes without them."""
    parts = ((0, 1), (2,), (3, 4))
    y = torch.tensor([[-100, 0, 0, 1, 1], [2, 2, 2, 2, -100], [-100] * 5])
    out = outputs([[4, 0, 1, 1, 1], [0, 3, 1, 2, 0], [0, 1, 2, 3, 4]], 5)
    scores = [
        PartScore(parts, overlap=False),
        PartScore(parts),
        PartScore(parts, per_category=True),
    ]
    for score in scores:
        score.update(out, y)
        score.update(out[2:], y[2:])
    expected = [(3 / 4 + 1) / 2, (7 / 12 + 1) / 2, (7 / 12 + 1) / 2]
    assert [score.compute().item() for score in scores] == pytest.approx(expected)


@pytest.mark.parametrize(
    "kind", ["part_segmentation(parts=[[0, 1], [2]])", "semantic_segmentation"]
)
def test_a_batch_without_labels_has_no_loss_and_no_gradient(kind):
    """Nothing to learn from is a loss of 0, not of NaN, and its weight in the epoch's mean is 0."""
    model = nn.Conv1d(2, 3, 1)
    task = catalog.build("tasks", kind, model=model, config=CONFIG, num_classes=3)
    x, y = torch.randn(4, 2, 5), torch.full((4, 5), -100)
    loss = task.training_loss(x, y)
    loss.backward()
    assert loss.item() == task.evaluation_loss(model(x), y).item() == 0
    assert task.counted(y) == 0
    assert not model.weight.grad.any()


def test_an_epochs_loss_is_the_mean_over_points_with_a_label(monkeypatch):
    """Two batches, of 1 and 7 labelled points, and one of none."""
    labels = torch.full((6, 4), -100)
    labels[0, 0] = 1
    labels[2:4] = torch.tensor([[0, 1, 2, 0], [1, 2, 0, -100]])
    model, x = nn.Conv1d(2, 3, 1), torch.randn(6, 2, 4)
    task = SemanticSegmentation(model, CONFIG, 3)
    logged = []
    monkeypatch.setattr(task, "log", lambda name, value, **k: logged.append((name, value, k)))
    for rows in range(0, 6, 2):
        task.test_step((x[rows : rows + 2], labels[rows : rows + 2]), 0)
    losses = [value.item() for name, value, _ in logged if name == "test/loss"]
    weights = [options["batch_size"] for name, _, options in logged if name == "test/loss"]
    assert weights == [1, 7, 0]
    mean = sum(loss * weight for loss, weight in zip(losses, weights, strict=True)) / 8
    assert mean == pytest.approx(nn.functional.cross_entropy(model(x), labels).item())


CONFIG = make({"task": "semantic_segmentation"})


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.5, 4.0]])
def test_the_loss_weighs_classes_and_the_transform(weights):
    """Training: weighted cross-entropy over points that count, and reg times the departure from
    orthogonality; evaluation without it.
    """
    model, x, y = (
        network("pointnet_sem_seg", (6, 16), 4),
        torch.randn(3, 6, 16),
        torch.randint(0, 4, (3, 16)),
    )
    y[0, :5] = -100
    weights = None if weights is None else torch.tensor(weights)
    task = SemanticSegmentation(model, CONFIG, 4, weights, reg=0.5)
    logits, matrix = model.logits_and_transform(x)
    w = torch.ones(4) if weights is None else weights
    counted, target = logits.log_softmax(1).transpose(1, 2)[y >= 0], y[y >= 0]
    plain = -(counted[torch.arange(len(target)), target] * w[target]).sum() / w[target].sum()
    loss = task.training_loss(x, y)
    loss.backward()
    assert loss.item() == pytest.approx(
        (plain + 0.5 * departure_from_orthogonality(matrix)).item(), rel=1e-5
    )
    assert task.evaluation_loss(logits, y).item() == pytest.approx(plain.item(), rel=1e-5)
    assert all(p.grad is not None for p in model.parameters())
    assert not any("class_weights" in name for name in task.state_dict())


def test_a_segmenter_without_a_transform_is_trained_by_cross_entropy():
    model, x, y = nn.Conv1d(4, 3, 1), torch.randn(2, 4, 6), torch.randint(0, 3, (2, 6))
    task = PartSegmentation(model, CONFIG, 3, ((0, 1), (2,)))
    assert torch.equal(task.training_loss(x, y), nn.functional.cross_entropy(model(x), y))


def test_a_model_of_whole_clouds_is_refused():
    """One line says what was expected and which models give it."""
    model = catalog.build("models", "pointnet_cls", num_classes=3, in_shape=(3, 6))
    with pytest.raises(
        ValueError, match=r"\(2, 3, 6\), got \(2, 3\); use --model pointnet_part_seg"
    ) as error:
        PartSegmentation(model, CONFIG, 3, ((0, 1), (2,))).training_loss(
            torch.randn(2, 3, 6), torch.zeros(2, 6, dtype=torch.int64)
        )
    one_line(error)


def test_tasks_refuse_what_does_not_fit():
    """A negative regulariser, weights of another number of classes, and parts that leave a label
    out or share one.
    """
    model = nn.Conv1d(4, 3, 1)
    with pytest.raises(ValueError, match="reg must be at least 0, got -1"):
        SemanticSegmentation(model, CONFIG, 3, reg=-1)
    with pytest.raises(ValueError, match=r"class_weights must have shape \(3,\)"):
        SemanticSegmentation(model, CONFIG, 3, torch.ones(4))
    for parts in (((0,), (2,)), ((0, 1), (1, 2))):
        with pytest.raises(ValueError, match="each label of 0 to 2"):
            PartSegmentation(model, CONFIG, 3, parts)


def test_part_segmentation_from_data_to_record(tmp_path):
    """Primitives without a download: scores are recorded, and the checkpoint gives what is
    recorded.
    """
    config = make(
        {
            "data": "primitives(n=40, points=16, labels='part')",
            "model": "pointnet_part_seg(feature_transform=False)",
            "binarizer": "tbn(p=4)",
            "task": "part_segmentation",
            "epochs": 1,
            "batch_size": 16,
            "optimizer": "adam",
            "lr": 0.001,
        }
    )
    record = train.run(config, train.RunOptions(tmp_path, wandb="off", threads=1))
    run = trained(record)
    data = run.data
    model = run.model
    data.setup()
    x, y = data.splits["test"]
    score = PartScore(data.parts)
    with torch.no_grad():
        score.update(model(data.prepare(x)), y)
    assert record.summary["test/instance_miou"] == pytest.approx(score.compute().item(), abs=1e-6)
    assert {"val/accuracy", "val/class_miou", "train/loss"} <= set(record.rows()[0])
    assert record.summary["score"] == "instance_miou"


def test_semantic_segmentation_from_data_to_record(tmp_path, rooms):
    """Rooms in the real layout: every sample of the test area is evaluated, and classes are
    weighted.
    """
    config = make(
        {
            "data": "s3dis(points=512, val_rooms=1)",
            "model": "pointnet_sem_seg(feature_transform=False)",
            "binarizer": "bwn",
            "task": "semantic_segmentation",
            "epochs": 1,
            "batch_size": 8,
            "optimizer": "adam",
            "lr": 0.001,
        }
    )
    record = train.run(config, train.RunOptions(tmp_path, wandb="off", threads=1))
    assert record.summary["test_samples"] == areas().size("test")
    assert {"test/miou", "test/accuracy", "test/class_accuracy"} <= set(record.summary)
    assert record.summary["score"] == "miou"


def test_a_resumed_run_sees_the_same_draws(tmp_path, shapenet, monkeypatch):
    """Stopped in the second epoch and resumed: points drawn, and so losses and scores, of a run in
    one go.
    """
    config = make(
        {
            "data": "shapenet_part(points=16)",
            "model": "pointnet_part_seg(feature_transform=False)",
            "binarizer": "full_precision",
            "task": "part_segmentation",
            "batch_size": 8,
            "optimizer": "adam",
            "lr": 0.001,
            "schedule": "constant",
            "epochs": 2,
        }
    )
    step, (straight, other) = (
        PartSegmentation.training_step,
        (train.RunOptions(tmp_path / d, wandb="off", threads=1) for d in "ab"),
    )

    def stop(task, batch, number):
        if task.global_step == 3:
            raise KeyboardInterrupt
        return step(task, batch, number)

    with monkeypatch.context() as patch:
        patch.setattr(PartSegmentation, "training_step", stop)
        with pytest.raises(KeyboardInterrupt):
            train.run(config, other)
    runs = [train.run(config, options) for options in (straight, other)]
    assert len({tuple(row["train/loss"] for row in run.rows()) for run in runs}) == 1
    assert len({(run.summary["test/loss"], run.summary["test/instance_miou"]) for run in runs}) == 1
