"""The CIFAR-10 arena: its network, its data options, its evaluation, its sweeps."""

from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from tbn_bench import catalog, convert
from tbn_bench.compiler.executor import Executor
from tbn_bench.config import make
from tbn_bench.data.cifar10 import CIFAR10
from tbn_bench.experiment import build, scoring, train
from tbn_bench.models.airbench import whitening_filters
from tbn_bench.tasks._batch_norm import reestimate_
from tbn_bench.tasks.image_classification import augmented_logits

ROOT = Path(__file__).parents[2]
SMALL = {
    "data": "smoke(of='cifar10', n=24)",
    "model": "airbench(widths=[8, 8, 8])",
    "binarizer": "tbn(p=2, min_layer_size=0)",
    "keep": ("whiten", "head"),
    "epochs": 2,
    "batch_size": 8,
    "optimizer": "muon",
    "lr": 0.1,
    "schedule": "linear",
    "schedule_every": "step",
    "batch_norm": "reestimated",
    "select": "last",
    "tta": True,
}


# The network


def test_whitening_makes_patches_uncorrelated():
    """The covariance of the first 12 outputs over the patches that the filters were made from is
    the identity.
    """
    images = torch.randn(50, 3, 1, 1) + 0.3 * torch.randn(50, 3, 12, 12)
    filters = whitening_filters(images)
    assert filters.shape == (24, 3, 2, 2)
    torch.testing.assert_close(filters[12:], -filters[:12])
    outputs = nn.functional.conv2d(images, filters[:12]).permute(1, 0, 2, 3).flatten(1)
    covariance = outputs @ outputs.T / outputs.shape[1]
    torch.testing.assert_close(covariance, torch.eye(12), atol=0.02, rtol=0)


def test_airbench_has_the_published_size():
    """118.1 M multiply-adds and 1.97 M weights (airbench94_muon)."""
    config = make({"data": "cifar10", "model": "airbench"})
    total = build.sketch(config).cost.summary()
    assert total["macs"] == 118_147_360
    assert total["weights"] == 1_970_464
    assert total["macs"] * 2 * 3 * 50_000 * 8 / 1e15 == pytest.approx(0.28, abs=0.005)


def test_airbench_trains_the_whitening_bias_for_three_epochs():
    model = catalog.build("models", "airbench(widths=[8, 8, 8])")
    trained = []
    for epoch in range(5):
        model.begin_epoch(epoch, 5)
        trained.append(model.whiten.bias.requires_grad)
    assert trained == [True, True, True, False, False]
    assert not model.whiten.weight.requires_grad


@pytest.mark.parametrize(
    ("call", "shape", "words"),
    [
        (
            "airbench",
            (1, 28, 28),
            r"layer whiten takes .* 3 channels .* got samples of shape \(1, 28, 28\)",
        ),
        ("airbench(widths=[64, 256])", (3, 32, 32), "widths must be three channel counts"),
        ("airbench(widths=[64, 256, 0])", (3, 32, 32), "widths must be three channel counts"),
    ],
)
def test_airbench_refuses(call, shape, words):
    with pytest.raises(ValueError, match=words):
        catalog.build("models", call, in_shape=shape)


def test_widths_that_p_does_not_divide_name_the_layer():
    with pytest.raises(ValueError, match=r"p must divide .* \(layer groups\.0\.0\.weight"):
        build.build(
            make(
                SMALL
                | {
                    "model": "airbench(widths=[9, 9, 9])",
                    "binarizer": "tbn(p=16, min_layer_size=0)",
                }
            )
        )


@pytest.mark.parametrize(
    "binarizer", ["bwn", "tbn(p=2, min_layer_size=0)", "low_rank(rank=2, min_layer_size=0)"]
)
def test_airbench_runs_natively(binarizer):
    """Packed, by the executor, as in torch."""
    torch.manual_seed(0)
    model = build.build(make(SMALL | {"binarizer": binarizer})).model
    nn.init.normal_(model.whiten.weight)
    model(torch.randn(16, 3, 32, 32))
    convert.pack_(model.eval())
    x = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        expected = model(x)
    torch.testing.assert_close(Executor(model, x[:1])(x), expected, atol=1e-5, rtol=1e-4)


# The data


class Images(CIFAR10):
    """Twelve images whose pixels say where they are."""

    def read(self):
        x = torch.arange(12 * 3 * 32 * 32).reshape(12, 3, 32, 32).remainder(251).to(torch.uint8)
        y = torch.arange(12) % 10
        return (x, y), (x[:4], y[:4]), (x[:4], y[:4])


def images(**options) -> Images:
    data = Images(batch_size=12, **options)
    data.setup()
    return data


def test_alternating_flips_mirror_one_half_and_then_the_other():
    data = images(crop_padding=0, flip="alternating")
    x, positions = data.splits["train"][0], torch.arange(12)
    plain = data.prepare(x)
    mirrored = [
        (data.prepare_at(x, positions, epoch) != plain).flatten(1).any(1) for epoch in range(3)
    ]
    assert 0 < int(mirrored[0].sum()) < 12
    assert torch.equal(mirrored[0], ~mirrored[1])
    assert torch.equal(mirrored[0], mirrored[2])


def test_augmentation_is_a_function_of_seed_epoch_and_position():
    """In any order and any batch an image comes out the same.

    In another epoch or by another seed it does not.
    """
    data = images(crop_border="reflect", flip="alternating")
    x = data.splits["train"][0]
    whole = data.prepare_at(x, torch.arange(12), 3)
    some = torch.tensor([7, 2])
    assert torch.equal(data.prepare_at(x[some], some, 3), whole[some])
    assert not torch.equal(data.prepare_at(x, torch.arange(12), 5), whole)
    assert not torch.equal(
        images(crop_border="reflect", flip="alternating", seed=1).prepare_at(
            x, torch.arange(12), 3
        ),
        whole,
    )


@pytest.mark.parametrize(
    ("border", "expected"), [("mean", "zero"), ("black", "black"), ("reflect", "inside")]
)
def test_what_lies_around_a_crop(border, expected):
    """The first row of an image that is moved down by two: the mean colour, black, or the row on
    the other side of the edge.
    """
    data = images(crop_padding=2, crop_border=border, flip=False)
    x = data.prepare(data.splits["train"][0][:1])
    moved = data._crop(x, torch.tensor([0, 2]).reshape(2, 1, 1, 1))
    black = (-torch.tensor(data.mean) / torch.tensor(data.std)).reshape(3, 1)
    wanted = {"zero": torch.zeros(3, 32), "black": black.expand(3, 32), "inside": x[0, :, 2]}[
        expected
    ]
    torch.testing.assert_close(moved[0, :, 0], wanted)
    torch.testing.assert_close(moved[0, :, 2:], x[0, :, :-2])


def test_the_first_options_keep_their_random_stream():
    """Old run ids keep their meaning: crops of the mean colour and random flips draw from torch's
    generator as before.
    """
    data = images()
    assert not data.by_position
    torch.manual_seed(0)
    drawn = data.prepare(data.splits["train"][0], training=True)
    torch.manual_seed(0)
    rows, columns = torch.randint(0, 9, (2, 12, 1, 1)).reshape(2, 12).tolist()
    mirrored = (torch.rand(12) < 0.5).tolist()
    padded = nn.functional.pad(data.prepare(data.splits["train"][0]), (4, 4, 4, 4))
    for i, image in enumerate(padded):
        crop = image[:, rows[i] : rows[i] + 32, columns[i] : columns[i] + 32]
        assert torch.equal(drawn[i], crop.flip(2) if mirrored[i] else crop)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"crop_border": "zeros"},
            "crop_border must be one of 'mean', 'black', 'reflect', got 'zeros'",
        ),
        ({"flip": "sometimes"}, "flip must be True, False or 'alternating', got 'sometimes'"),
        ({"crop_padding": 32}, "a whole number from 0 to 31, got 32"),
    ],
)
def test_impossible_options_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        CIFAR10(**options)


# Evaluation


def test_reestimated_statistics_are_the_plain_mean_over_the_batches():
    """By hand; momentum and the modes of all modules stay, dropout is off."""
    net = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(3, momentum=0.4))
    net.train()
    batches = [torch.randn(8, 3) + k for k in range(4)]
    reestimate_(net, batches)
    torch.testing.assert_close(
        net[1].running_mean, torch.stack([b.mean(0) for b in batches]).mean(0)
    )
    torch.testing.assert_close(net[1].running_var, torch.stack([b.var(0) for b in batches]).mean(0))
    assert net[1].momentum == 0.4
    assert net.training
    assert net[0].training


def test_reestimation_needs_a_batch():
    with pytest.raises(ValueError, match="needs training samples"):
        reestimate_(nn.Sequential(nn.BatchNorm1d(3)), [])


def test_augmented_logits_weigh_six_views():
    """By hand, with a network that returns the first pixel: half the image with its mirror, half
    two shifts with theirs.
    """
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    first = augmented_logits(lambda images: images[:, :, 0, 0], x)
    plain = (0 + 3) / 2
    up_left = (5 + 6) / 2  # reflected: the pixel at (1, 1), and its mirror image's
    down_right = (5 + 6) / 2
    assert float(first) == 0.5 * plain + 0.25 * up_left + 0.25 * down_right


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    return train.run(
        make(SMALL), train.RunOptions(tmp_path_factory.mktemp("arena"), wandb="off", threads=1)
    )


def test_a_run_records_both_scores_and_what_it_cost(record):
    summary = record.summary
    assert {"test/top1", "test/top1_tta", "train_pflop", "cpu_seconds", "images_per_second"} <= set(
        summary
    )
    assert summary["best_epoch"] == 1
    assert summary["cpu_seconds"] > 0


def test_training_pflop_by_hand(record):
    """24 samples, 2 epochs, two operations per multiply-add.

    The elementwise rule has its weight gradient at full cost.
    """
    total = build.build(make(SMALL)).cost
    distinct = sum(layer.distinct_macs for layer in total.layers)
    full = sum(layer.macs for layer in total.layers)
    assert record.summary["train_pflop"] == pytest.approx(24 * 2 * 2 * (2 * distinct + full) / 1e15)


def test_the_last_epoch_is_tested_and_kept(record):
    """select=last: best.ckpt holds the weights of the last epoch."""
    chosen, last = (
        torch.load(record.path / "checkpoints" / name, weights_only=True)["state_dict"]
        for name in ("best.ckpt", "last.ckpt")
    )
    latent = "model.groups.0.0.parametrizations.weight.original"
    assert torch.equal(chosen[latent], last[latent])


def test_the_packed_network_lies_beside_the_record_and_gives_its_score(record):
    path = record.path / "network.safetensors"
    assert record.summary["file_bytes"] == path.stat().st_size
    built = build.build(make({**record.config, "binarizer": "full_precision"}))
    data = built.data
    model = built.model
    data.setup()
    convert.load_(model, path)
    found = scoring.outputs(model, data)
    score = scoring.score_on_test(record, data, model, found)
    assert score.found == pytest.approx(score.recorded, abs=1e-6)


def test_full_precision_keeps_no_packed_network(tmp_path):
    config = make(SMALL | {"binarizer": "full_precision", "epochs": 1})
    record = train.run(config, train.RunOptions(tmp_path, wandb="off", threads=1))
    assert not (record.path / "network.safetensors").exists()


@pytest.mark.parametrize("field", ["mixup", "cutmix", "tta"])
def test_image_options_are_refused_elsewhere(field):
    with pytest.raises(ValueError, match=f"{field}: for the classification of images alone"):
        build.data_of(
            make(
                {
                    "data": "primitives",
                    "task": "point_classification",
                    field: True if field == "tta" else 0.5,
                }
            )
        )


def test_mixing_gives_labels_that_sum_to_one(tmp_path):
    """An odd batch too: timm mixes pairs, the last image stays."""
    config = make(SMALL | {"mixup": 0.5, "cutmix": 1.0, "label_smoothing": 0.1})
    built = build.build(config)
    data = built.data
    model = built.model
    task = build.build_task(config, data, model)
    x, labels = task.mixed(torch.randn(5, 3, 32, 32), torch.arange(5))
    assert x.shape == (5, 3, 32, 32)
    torch.testing.assert_close(labels.sum(1), torch.ones(5))
    assert int(labels[4].argmax()) == 4
    assert torch.isfinite(task.training_loss(torch.randn(5, 3, 32, 32), torch.arange(5)))


# The sweeps


def test_narrow_networks_cost_what_tiles_cost():
    """Binary bits, stored bytes, distinct multiply-adds of p = 4, 8, 16: each control within 2 % of
    what it stands beside.
    """
    file = yaml.safe_load((ROOT / "sweeps" / "cifar10_fast_narrow.yaml").read_text())
    models = file["parameters"]["model"]["values"]

    def cost(model: str, binarizer: str) -> dict[str, float]:
        config = make(
            {"data": "cifar10", "model": model, "binarizer": binarizer, "keep": ("whiten", "head")}
        )
        return build.sketch(config).cost.summary()

    fields = ["tile_bits", "stored_bytes", "distinct_macs"]
    wanted = [(p, field) for p in (4, 8, 16) for field in fields]
    assert len(models) == len(wanted)
    for (p, field), model in zip(wanted, models, strict=True):
        tiled = cost("airbench", f"tbn(p={p}, gradient='tile')")[field]
        narrow = cost(model, "bwn(grad='clip_ste')")[field]
        assert narrow == pytest.approx(tiled, rel=0.02), (p, field, model)
