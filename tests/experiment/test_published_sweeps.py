"""Sweeps at smoke scale: the networks, binarizers and tasks of the published tables, on samples in
the form of their data.
"""

from pathlib import Path

import pytest
import torch

from tbn_bench import catalog, cli
from tbn_bench.experiment import build, train
from tbn_bench.records.store import RunStore
from tbn_bench.sweep.checked import check
from tbn_bench.sweep.spec import load, load_all
from tbn_bench.sweep.spec import smoke as smoked

SWEEPS = sorted((Path(__file__).parents[2] / "sweeps").glob("*.yaml"))
PUBLISHED = (
    "cifar10_resnet18 cifar10_resnet50 cifar10_vgg_small imagenet_resnet34 cifar10_vit cifar10_swin cifar10_mlp_mixer cifar10_conv_mixer "
    "imagenet_swin modelnet40 shapenet_part s3dis forecasting mnist_mcu ablation_alpha ablation_min_layer_size ablation_global_tiling "
    "tile_size"
)


def test_every_published_table_has_its_sweep():
    assert set(PUBLISHED.split()) <= {path.stem for path in SWEEPS}


@pytest.mark.parametrize("name", PUBLISHED.split())
def test_published_sweeps_have_seeds_and_the_reference(name):
    """Three seeds (one on ImageNet), and full precision beside the methods, but in ablations of
    tiling.
    """
    configs = load(SWEEPS[0].parent / f"{name}.yaml").configs
    assert {c.seed for c in configs} == ({0} if name.startswith("imagenet") else {0, 1, 2})
    assert any(c.binarizer == "full_precision" for c in configs) == (
        not name.startswith(("ablation", "tile"))
    )


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_sweep_builds_at_smoke_scale(path):
    """Every distinct network of every file, without a data file.

    One epoch, one seed, a name of its own.
    """
    small = smoked(load(path))
    check(small.configs)
    assert small.name.endswith("-smoke")
    assert {(c.seed, c.epochs) for c in small.configs} == {(0, 1)}
    assert {(c.model, c.binarizer) for c in small.configs} == {
        (c.model, c.binarizer) for c in load(path).configs
    }


def test_files_of_one_table_are_one_sweep():
    for names in (
        ["forecasting", "forecasting_weather", "forecasting_ett"],
        ["ablation_alpha", "ablation_alpha_mlp_mixer"],
    ):
        joined = load_all([SWEEPS[0].parent / f"{name}.yaml" for name in names])
        assert joined.name == names[0]


@pytest.mark.parametrize(
    "of",
    [
        "cifar10",
        "imagenet",
        "modelnet40",
        "shapenet_part",
        "s3dis",
        "primitives(labels='part')",
        "etth1(features='MS')",
        "char_text(context=16)",
    ],
)
def test_samples_have_the_form_of_the_set(of):
    """Shapes and labels are what the set's first task takes, for each part of the split."""
    data = catalog.build("data", f"smoke(of={of!r}, n=8)")
    data.setup()
    assert [data.size(split) for split in ("train", "val", "test")] == [8, 4, 4]
    x, y = next(iter(data.train_dataloader()))
    assert x.shape[1:] == data.in_shape
    if data.tasks[0] == "forecasting":
        assert y.shape[1:] == (data.horizon, data.targets)
        return
    labelled = {"image_classification": (), "point_classification": (), "next_token": data.in_shape}
    assert y.shape[1:] == labelled.get(data.tasks[0], data.in_shape[1:])
    assert 0 <= int(y.min()) <= int(y.max()) < data.num_classes
    if hasattr(data, "parts"):
        category = x[:, -len(data.parts) :, 0].argmax(1)
        assert all(
            set(row.tolist()) <= set(data.parts[c])
            for row, c in zip(y, category.tolist(), strict=True)
        )


def test_it_passes_on_all_that_a_set_offers():
    """A new thing that models or tasks ask of data reaches them at smoke scale too."""
    for call in ("digits", "primitives", "etth1"):
        of = catalog.build("data", call)
        small = catalog.build("data", f"smoke(of='{call}')")
        assert build.offered(small) == build.offered(of) != {}
        assert small.tasks == of.tasks


def test_smoke_runs_from_the_command_line(tmp_path, capsys):
    """In seconds, under the sweep's name with -smoke, the data saying what they are."""
    assert (
        cli.main(
            [
                "sweep",
                str(SWEEPS[0].parent / "mnist_mcu.yaml"),
                "--scale=smoke",
                f"--results={tmp_path}",
            ]
        )
        == 0
    )
    runs = list(RunStore(tmp_path).runs())
    assert len(runs) == 5
    assert {(r.sweep, r.status) for r in runs} == {("mnist_mcu-smoke", "finished")}
    assert {r.config["data"] for r in runs} == {"smoke(of='mnist(normalise=False)')"}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_network_trains_at_smoke_scale(path, tmp_path):
    """Each method of each file through training, selection and test."""
    torch.set_num_threads(2)
    for config in smoked(load(path)).configs:
        record = train.run(config, train.RunOptions(tmp_path, wandb="off"))
        assert record.status == "finished"
