"""Guards what a task adds to a model: its loss, and its metrics by definition."""

import copy
import math

import pytest
import torch
from torch import fx, nn

from tbn_bench import catalog
from tbn_bench.config import RunConfig, make
from tbn_bench.experiment import train
from tbn_bench.experiment.weights import trained
from tbn_bench.records.summary import row_fields, summary_fields
from tbn_bench.scores import SCORES, TASKS
from tbn_bench.tasks.next_token import NextToken
from tbn_bench.tasks.point_classification import PointClassification, departure_from_orthogonality
from tbn_bench.tasks.semantic_segmentation import SemanticSegmentation

CONFIG = make({"task": "point_classification"})


def test_departure_from_orthogonality_by_hand():
    """Zero for a rotation; 2I in two dimensions has A A^T - I = 3I, of norm 3 sqrt(2).

    The mean over clouds.
    """
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]])
    assert departure_from_orthogonality(turn.unsqueeze(0)).item() == pytest.approx(0, abs=1e-6)
    both = torch.stack([turn, 2 * torch.eye(2)])
    assert departure_from_orthogonality(both).item() == pytest.approx(3 * 2**0.5 / 2)


@pytest.mark.parametrize("reg", [0.0, 0.001, 1.0])
def test_the_loss_is_cross_entropy_and_the_weighted_regulariser(reg):
    """By the model's own logits and transform, with a gradient for every parameter."""
    model = catalog.build("models", "pointnet_cls(dropout=0.0)", num_classes=4, in_shape=(3, 16))
    task = catalog.build(
        "tasks", f"point_classification(reg={reg})", model=model, config=CONFIG, num_classes=4
    )
    x, y = torch.randn(6, 3, 16), torch.randint(0, 4, (6,))
    loss = task.training_loss(x, y)
    loss.backward()
    logits, matrix = model.logits_and_transform(x)
    expected = nn.functional.cross_entropy(logits, y) + reg * departure_from_orthogonality(matrix)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    "model", ["mlp(hidden=[8])", "pointnet_cls(dropout=0.0, feature_transform=False)"]
)
def test_a_model_without_a_transform_is_trained_by_cross_entropy(model):
    network = catalog.build("models", model, num_classes=4, in_shape=(3, 16))
    x, y = torch.randn(6, 3, 16), torch.randint(0, 4, (6,))
    loss = PointClassification(network, CONFIG, 4, reg=9.0).training_loss(x, y)
    assert torch.equal(loss, nn.functional.cross_entropy(network(x), y))


def test_class_accuracy_is_the_mean_over_classes():
    """Three of three of class 0 and none of one of class 1: 0.75 of the clouds, 0.5 of the classes."""
    metrics = PointClassification(nn.Identity(), CONFIG, 2).scores()
    logits, y = torch.tensor([[1.0, 0.0]] * 4), torch.tensor([0, 0, 0, 1])
    assert {name: metric(logits, y).item() for name, metric in metrics.items()} == {
        "top1": 0.75,
        "top5": 1.0,
        "class_accuracy": 0.5,
    }


def test_a_class_that_no_cloud_has_is_not_scored():
    """Four clouds of classes 0 and 1, one of the first taken for class 2: 1/2 of class 0 and all of
    class 1, mean 0.75.
    """
    metric = PointClassification(nn.Identity(), CONFIG, 3).scores()["class_accuracy"]
    logits = nn.functional.one_hot(torch.tensor([0, 2, 1, 1]), 3).float()
    assert metric(logits, torch.tensor([0, 0, 1, 1])).item() == 0.75


def test_a_negative_regulariser_is_refused():
    with pytest.raises(ValueError, match="reg must be at least 0, got -1"):
        PointClassification(nn.Identity(), CONFIG, 2, reg=-1)


def test_pointnet_is_safe_after_a_training_step():
    """The transform of the last batch stays nowhere in the model: it can be copied, saved and
    traced.
    """
    model = catalog.build("models", "pointnet_cls", num_classes=4, in_shape=(3, 16))
    names = set(model.state_dict())
    PointClassification(model, CONFIG, 4).training_loss(
        torch.randn(6, 3, 16), torch.randint(0, 4, (6,))
    ).backward()
    twin, x = copy.deepcopy(model).eval(), torch.randn(2, 3, 16)
    assert set(twin.state_dict()) == names
    assert torch.equal(fx.symbolic_trace(model.eval())(x), twin(x))


def test_pointnet_does_not_see_the_order_of_points():
    """In eval mode, and with points that are there several times."""
    model = catalog.build("models", "pointnet_cls", num_classes=4, in_shape=(3, 16)).eval()
    x = torch.randn(2, 3, 16)
    shuffled = torch.cat([x[:, :, torch.randperm(16)], x[:, :, :5]], 2)
    torch.testing.assert_close(model(x), model(shuffled), rtol=1e-4, atol=1e-5)


def test_pointnet_wants_points():
    with pytest.raises(ValueError, match="coordinates, points"):
        catalog.build("models", "pointnet_cls", num_classes=4, in_shape=(3, 8, 8))


def test_a_run_records_both_accuracies(tmp_path):
    """Training, the held-out split, the test and its record.

    The checkpoint gives what is recorded.
    """
    config = make({
        "data": "primitives(n=40, points=16)", "model": "pointnet_cls", "binarizer": "tbn(p=4)", "task": "point_classification",
        "epochs": 1, "batch_size": 16, "optimizer": "adam", "lr": 0.001, "schedule": "step",
    })  # fmt: skip
    record = train.run(config, train.RunOptions(tmp_path, wandb="off", threads=1))
    run = trained(record)
    data = run.data
    model = run.model
    data.setup()
    x, y = data.splits["test"]
    with torch.no_grad():
        right = model(data.prepare(x)).argmax(1) == y
    per_class = torch.stack([right[y == c].float().mean() for c in range(10)])
    assert record.summary["test/top1"] == pytest.approx(right.float().mean().item(), abs=1e-6)
    assert record.summary["test/class_accuracy"] == pytest.approx(per_class.mean().item(), abs=1e-6)
    assert {"val/top1", "val/top5", "val/class_accuracy", "train/loss", "tile/flip_rate"} <= set(
        record.rows()[0]
    )
    numbers = {
        k for k, v in record.summary.items() if isinstance(v, int | float) and k != "schema_version"
    }
    assert numbers <= set(summary_fields(config.task))
    assert set(record.rows()[0]) <= set(row_fields(config.task))


@pytest.mark.parametrize("name", catalog.names("tasks"))
def test_the_scores_of_a_task_are_those_that_scores_lists(name):
    """Sweep files are checked by scores.TASKS, without torch: same names, and the first one chooses
    the epoch.
    """
    given = {"num_classes": 3, "parts": [[0, 1], [2]], "class_weights": None}
    task = catalog.build("tasks", name, model=nn.Identity(), config=RunConfig(), **given)
    assert set(TASKS[name]) == set(task.scores())
    assert TASKS[name][0] == task.score
    assert set(TASKS[name]) <= set(SCORES)


def test_class_accuracy_leaves_out_classes_without_a_sample():
    """Truth 1 1 1 1, predicted 1 1 1 0: three of four of class 1. Class 0 has no sample, so its
    false prediction counts in class 1 alone, in either task that has this score."""
    logits, y = torch.eye(3)[[1, 1, 1, 0]], torch.tensor([1, 1, 1, 1])
    clouds = PointClassification(nn.Identity(), CONFIG, 3).scores()["class_accuracy"]
    points = SemanticSegmentation(nn.Identity(), CONFIG, 3).scores()["class_accuracy"]
    clouds.update(logits, y)
    points.update(logits.T.unsqueeze(0), y.unsqueeze(0))
    assert clouds.compute().item() == 0.75
    assert points.compute().item() == 0.75


def test_bits_per_byte_by_hand():
    """Two counted tokens of probability 1/2 and 1/4: 3 bits over 1 + 2 bytes, 1.5 ln 2 nats each.

    A label of -100 counts nowhere.
    """
    logits = torch.tensor([[[0.5, 0.25, 0.25], [0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]]).log()
    y = torch.tensor([[0, 1, -100]])
    task = NextToken(nn.Identity(), CONFIG, 3, torch.tensor([1, 2, 1]))
    scores = task.scores()
    for metric in scores.values():
        metric.update(logits, y)
    assert scores["bits_per_byte"].compute().item() == pytest.approx(1.0)
    assert scores["nats_per_token"].compute().item() == pytest.approx(1.5 * math.log(2))
    assert task.evaluation_loss(logits, y).item() == pytest.approx(1.5 * math.log(2))
    assert task.counted(y) == 2


def test_next_token_wants_logits_for_every_token():
    task = NextToken(nn.Linear(5, 3), CONFIG, 3)
    with pytest.raises(ValueError, match=r"\(2, 5, 3\), got \(2, 3\); use --model gpt"):
        task.training_loss(torch.randn(2, 5), torch.zeros(2, 5, dtype=torch.int64))
