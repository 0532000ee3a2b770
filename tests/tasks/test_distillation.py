"""The loss with a teacher, and runs that start from the weights of another: by hand, and from
command to record.
"""

import math

import pytest
import torch
from torch import nn

from tbn_bench import catalog
from tbn_bench.config import make
from tbn_bench.convert.binarize import binarize_
from tbn_bench.experiment import train
from tbn_bench.experiment.build import build
from tbn_bench.experiment.weights import start_from, trained
from tbn_bench.records.store import RunStore
from tbn_bench.records.summary import TIMES
from tbn_bench.tasks.image_classification import ImageClassification
from tbn_bench.tasks.point_classification import PointClassification, departure_from_orthogonality

NETWORK = "resnet_cifar(depth=8, width=4, activation='rprelu', shortcuts='conv')"
TINY = {
    "data": "synthetic",
    "model": NETWORK,
    "epochs": 1,
    "batch_size": 16,
    "lr": 0.05,
    "keep": ["conv1", "fc"],
}


def linear(classes=3):
    return nn.Sequential(nn.Flatten(), nn.Linear(4, classes))


def cross_entropy(teacher, student):
    """-sum_c softmax(teacher)_c log softmax(student)_c, mean over samples, of plain numbers."""
    total = 0.0
    for t, s in zip(teacher, student, strict=True):
        p = [math.exp(v) / sum(map(math.exp, t)) for v in t]
        total -= sum(a * (v - math.log(sum(map(math.exp, s)))) for a, v in zip(p, s, strict=True))
    return total / len(teacher)


def test_the_teachers_probabilities_are_the_labels():
    """The cross-entropy by hand.

    Its gradient at the logits is (softmax(student) - softmax(teacher)) / batch; y is not looked at.
    """
    task, teacher = (
        ImageClassification(linear().double(), make({"label_smoothing": 0.1}), 3),
        linear().double(),
    )
    task.learn_from(teacher)
    x = torch.randn(5, 1, 2, 2, dtype=torch.float64)
    loss = task.training_loss(x, torch.randint(0, 3, (5,)))
    with torch.no_grad():
        student, labels = task.model(x), teacher(x)
    assert float(loss.detach()) == pytest.approx(
        cross_entropy(labels.tolist(), student.tolist()), rel=1e-12
    )
    assert torch.equal(loss, task.training_loss(x, torch.zeros(5, dtype=torch.int64)))
    loss.backward()
    expected = (student.softmax(1) - labels.softmax(1)).T @ x.flatten(1) / 5
    torch.testing.assert_close(task.model[1].weight.grad, expected, rtol=1e-12, atol=1e-14)


def test_without_a_teacher_the_labels_are_the_labels():
    task, x, y = (
        ImageClassification(linear(), make({"label_smoothing": 0.1}), 3),
        torch.randn(5, 1, 2, 2),
        torch.tensor([0, 1, 2, 2, 1]),
    )
    expected = nn.functional.cross_entropy(task.model(x), y, label_smoothing=0.1)
    assert torch.equal(task.training_loss(x, y), expected)
    task.learn_from(linear())
    assert not torch.equal(task.training_loss(x, y), expected)
    task.learn_from(None)
    assert torch.equal(task.training_loss(x, y), expected)


def test_point_clouds_are_distilled_too():
    """The transform's regulariser is added to the cross-entropy with the teacher's probabilities."""
    student, teacher = (
        catalog.build("models", "pointnet_cls(dropout=0.0)", num_classes=3, in_shape=(3, 16))
        for _ in range(2)
    )
    task = PointClassification(student, make({}), 3, reg=0.5)
    task.learn_from(teacher)
    x = torch.randn(4, 3, 16)
    logits, matrix = student.logits_and_transform(x)
    with torch.no_grad():
        expected = cross_entropy(teacher(x).tolist(), logits.tolist()) + 0.5 * float(
            departure_from_orthogonality(matrix)
        )
    assert float(
        task.training_loss(x, torch.zeros(4, dtype=torch.int64)).detach()
    ) == pytest.approx(expected, rel=1e-5)


def test_the_teacher_is_no_part_of_the_task():
    """Neither in its state nor among its parameters.

    Always in evaluation mode, without gradients, and never changed.
    """

    def teaching():
        return nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))

    task, teacher = ImageClassification(teaching(), make({}), 3), teaching()
    names, before = set(task.state_dict()), {k: v.clone() for k, v in teacher.state_dict().items()}
    task.learn_from(teacher)
    optimizer, x = torch.optim.SGD(task.parameters(), lr=0.1), torch.randn(8, 1, 2, 2)
    for _ in range(3):
        optimizer.zero_grad()
        task.train().training_loss(x, torch.zeros(8, dtype=torch.int64)).backward()
        optimizer.step()
    assert set(task.state_dict()) == names
    assert sum(1 for _ in task.parameters()) == 4
    assert not teacher.training
    assert not any(p.requires_grad or p.grad is not None for p in teacher.parameters())
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())


def network(spec, model=NETWORK):
    net = catalog.build("models", model, num_classes=4, in_shape=(3, 8, 8))
    binarize_(net, spec, ["conv1", "fc"])
    return net


def plain(net):
    """The state of a network, latent weights by the name that they have in full precision."""
    return {
        k.replace("parametrizations.", "").replace(".original", ""): v.clone()
        for k, v in net.state_dict().items()
    }


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("reactnet(step=1)", "reactnet"),
        ("full_precision", "bireal"),
        ("reactnet", "full_precision"),
        ("bwn", "snn(tau=3)"),
        ("irnet", "irnet(activations=True)"),
    ],
)
def test_start_from_takes_what_both_have(first, then):
    """Latent weights for latent ones whatever binarizes either, learned shifts, normalisation with
    its statistics; the rest stays.
    """
    source, net = network(first), network(then)
    source(torch.randn(8, 3, 8, 8))
    for name, parameter in source.named_parameters():
        parameter.data += 0.5 * ("shift" in name)
    theirs, own = plain(source), plain(net)
    start_from(net, source)
    now = plain(net)
    assert all(torch.equal(v, theirs.get(k, own[k])) for k, v in now.items())
    taken = {"bn1.running_mean", "act1.slope.weight", "blocks.2.conv2.weight"}
    assert taken <= set(theirs) & set(own)
    assert ("blocks.0.conv1.input_binarizer.shift" in set(theirs) & set(own)) == (
        then == "reactnet"
    )
    assert not any(
        torch.equal(own[k], now[k])
        for k in ("bn1.running_mean", "blocks.2.conv2.weight", "fc.weight")
    )


@pytest.mark.parametrize(
    ("model", "missing"),
    [
        (NETWORK.replace("width=4", "width=8"), "blocks.0.conv1.weight"),
        (NETWORK.replace("depth=8", "depth=14"), "blocks.1.conv1.weight"),
        (NETWORK.replace("'rprelu'", "'prelu'"), "act1.weight"),
        ("mlp(hidden=[8])", "1.weight"),
    ],
)
def test_start_from_another_network_is_refused(model, missing):
    """The error names the weights that have no counterpart, and nothing is copied."""
    net = catalog.build("models", model, num_classes=4, in_shape=(3, 8, 8))
    binarize_(net, "bwn", [] if "mlp" in model else ["conv1", "fc"])
    before = plain(net)
    with pytest.raises(ValueError, match="use the same --model") as caught:
        start_from(net, network("full_precision"))
    assert missing in str(caught.value)
    assert all(torch.equal(v, before[k]) for k, v in plain(net).items())
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """(options, the first step's record, the teacher's record)."""
    options = train.RunOptions(tmp_path_factory.mktemp("results"), wandb="off", threads=1)
    specs = (
        {"binarizer": "reactnet(step=1)", "epochs": 2},
        {"binarizer": "full_precision", "seed": 1},
    )
    return (options, *(train.run(make(TINY | spec), options) for spec in specs))


def name_of(record):
    return f"{record.sweep}/{record.run_id}"


def test_the_recipe_of_two_steps_and_a_teacher(results, monkeypatch):
    """reactnet starts from step 1's best weights and learns from the teacher.

    Both files stay as they are, neither is in the checkpoint.
    """
    options, first, teacher = results
    files = [r.path / "checkpoints" / "best.ckpt" for r in (first, teacher)]
    before, started = [f.read_bytes() for f in files], []
    original = ImageClassification.on_train_epoch_start
    monkeypatch.setattr(
        ImageClassification,
        "on_train_epoch_start",
        lambda t: (started.append((plain(t.model), t.teachers)), original(t)),
    )
    config = make(
        TINY
        | {"binarizer": "reactnet", "init": name_of(first), "teacher": name_of(teacher), "lr": 1e-9}
    )
    record = train.run(config, options)
    source = plain(trained(first).model)
    assert all(torch.allclose(v, source[k], rtol=0, atol=1e-6) for k, v in started[0][0].items())
    assert [type(t).__name__ for t in started[0][1]] == ["ResNet"]
    assert [f.read_bytes() for f in files] == before
    state = torch.load(record.path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert set(state) == {f"model.{k}" for k in trained(record).model.state_dict()}
    assert (record.status, record.summary["track"]) == ("finished", "W1A1")


def test_a_teacher_and_a_start_are_part_of_a_runs_identity(results):
    """Other runs than without them, by their own names."""
    _, first, teacher = results
    plain = make(TINY | {"binarizer": "reactnet"})
    ids = {make(TINY | {"binarizer": "reactnet"} | extra).run_id for extra in
           ({}, {"init": name_of(first)}, {"teacher": name_of(first)}, {"teacher": name_of(teacher)})}  # fmt: skip
    assert len(ids) == 4
    assert f"--init={name_of(first)}" in make(plain.model_dump() | {"init": name_of(first)}).command


class PowerCut(Exception):
    """What ends a run in its second epoch."""


def stopped(config, options):
    """A run that fails in its second epoch, with a best checkpoint of the first."""
    original = ImageClassification.training_step

    def cut(task, *args):
        if task.current_epoch:
            raise PowerCut
        return original(task, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageClassification, "training_step", cut)
        with pytest.raises(PowerCut):
            train.run(config, options)
    return RunStore(options.results).read("single", config.run_id)


def outcome(record):
    """Rows without times, and the last weights."""
    state = torch.load(record.path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return [{k: v for k, v in row.items() if k not in TIMES} for row in record.rows()], state


def test_training_with_a_teacher_resumes_bit_by_bit(results, tmp_path):
    """Stopped after the first of two epochs, the run goes on as one that was not: the start and the
    teacher are found again.
    """
    options, first, teacher = results
    config = make(
        TINY
        | {
            "binarizer": "snn(tau=3, every=2)",
            "init": name_of(first),
            "teacher": name_of(teacher),
            "epochs": 2,
        }
    )
    whole = train.run(config, options)
    rows, state = outcome(whole)
    whole.path.rename(tmp_path / "whole")
    stopped(config, options)
    again, resumed = outcome(train.run(config, options))
    assert again == rows
    assert all(torch.equal(v, state[k]) for k, v in resumed.items())


@pytest.mark.parametrize("flag", ["init", "teacher"])
def test_a_run_that_is_not_there_is_refused(results, flag):
    """One line that names flag and run; nothing is recorded."""
    options, *_ = results
    config = make(TINY | {"binarizer": "bwn", flag: "single/0123456789ab"})
    with pytest.raises(
        ValueError, match=f"--{flag}=single/0123456789ab: .*must be a finished run under --results"
    ) as caught:
        train.run(config, options)
    assert "\n" not in str(caught.value)
    assert not RunStore(options.results).path("single", config.run_id).exists()


def test_an_unfinished_run_is_refused(results):
    """It has a best checkpoint, but its next epoch may bring another."""
    options, *_ = results
    record = stopped(make(TINY | {"binarizer": "bwn", "epochs": 2}), options)
    assert (record.path / "checkpoints" / "best.ckpt").exists()
    for flag in ("init", "teacher"):
        with pytest.raises(
            ValueError,
            match=f"--{flag}={name_of(record)}: its status is failed; it must be a finished run",
        ):
            train.run(make(TINY | {"binarizer": "sign", flag: name_of(record)}), options)


def test_a_start_from_another_model_is_refused_before_anything_is_recorded(results):
    options, first, _ = results
    config = make(
        TINY
        | {
            "binarizer": "bwn",
            "init": name_of(first),
            "model": NETWORK.replace("width=4", "width=8"),
        }
    )
    with pytest.raises(
        ValueError,
        match="--init: .* no weight of the same shape for conv1.weight, .*use the same --model",
    ):
        train.run(config, options)
    assert not RunStore(options.results).path("single", config.run_id).exists()


@pytest.mark.parametrize(
    "value", ["44136fa355b3", "single/xyz", "a/b/44136fa355b3", "single/44136fa355b3x", ""]
)
@pytest.mark.parametrize("flag", ["init", "teacher"])
def test_a_name_that_is_no_run_is_refused(flag, value):
    with pytest.raises(ValueError, match=f"^{flag}: "):
        make({flag: value})


def test_build_is_the_same_with_and_without_them():
    """init and teacher change no shape, plan or cost."""
    configs = [
        make(TINY | {"binarizer": "reactnet"} | extra)
        for extra in ({}, {"init": "a/0123456789ab", "teacher": "a/0123456789ab"})
    ]
    plain, other = (build(config) for config in configs)
    assert str(plain.plan) == str(other.plan)
    assert plain.cost.summary() == other.cost.summary()
