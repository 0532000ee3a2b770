"""Objects given in Python make a run like any other; what does not fit is refused before a record exists."""

import io
import subprocess
import sys
from contextlib import redirect_stderr

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    TensorDataset,
    WeightedRandomSampler,
)

import tbn_bench as tb
from tbn_bench import catalog, cli
from tbn_bench.catalog import given
from tbn_bench.config import make
from tbn_bench.experiment import export, identity
from tbn_bench.experiment.given import holding
from tbn_bench.experiment.weights import trained
from tbn_bench.records.store import RunStore
from tbn_bench.reporting import names
from tbn_bench.reporting.load import load


class Net(nn.Module):
    def __init__(self, num_classes=2, width=8):
        super().__init__()
        self.scale = 1.0
        self.conv = nn.Conv2d(1, width, 3)
        self.head = nn.Linear(width * 36, num_classes)

    def forward(self, x):
        return self.head(self.scale * self.conv(x).relu().flatten(1))


class Wide(Net):
    def forward(self, x):
        return super().forward(2 * x)


def images(n, first=0):
    generator = torch.Generator().manual_seed(first)
    x = torch.randn(n, 1, 8, 8, generator=generator)
    y = torch.arange(n) % 2
    x[y == 1] += 0.5
    return TensorDataset(x, y)


TRAIN = images(100)
TEST = images(40, first=1)


class Images(Dataset):
    """Lazy, with a random transform. fails_at: the number of reads after which it raises."""

    fails_at = None
    reads = 0

    def __init__(self, of=TRAIN):
        self.of = of

    def __len__(self):
        return len(self.of)

    def __getitem__(self, i):
        Images.reads += 1
        if Images.fails_at is not None and Images.reads > Images.fails_at:
            raise RuntimeError("power cut")
        x, y = self.of[i]
        return x + 0.1 * torch.randn(1), int(y)


class Module(pl.LightningDataModule):
    """Its hook doubles what its loaders give. val: with its own held-out samples."""

    def __init__(self, val=None):
        super().__init__()
        self.val = val

    def train_dataloader(self):
        return DataLoader(TRAIN, 20, shuffle=True)

    def val_dataloader(self):
        return [] if self.val is None else DataLoader(self.val, 20)

    def test_dataloader(self):
        return DataLoader(TEST, 20)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        x, y = batch
        return 2 * x, y


@pytest.fixture
def settings(tmp_path):
    return {
        "model": nn.Sequential(nn.Flatten(), nn.Linear(64, 2)),
        "data": (TRAIN, TEST),
        "binarizer": "tbn(p=2, min_layer_size=0)",
        "epochs": 1,
        "lr": 0.05,
        "batch_size": 20,
        "wandb": "off",
        "results": tmp_path,
    }


def test_a_run_of_objects_is_recorded_like_any_other(settings, tmp_path):
    """Record, summary, packed network, list, report row; a tenth is held out; the command is Python."""
    run = tb.train(**settings)
    summary = run.summary
    assert (summary["train_samples"], summary["test_samples"]) == (90, 40)
    assert make(run.config).run_id == run.run_id
    assert run.provenance["command"].startswith("tb.train(data=<torch.utils.data.dataset.Tensor")
    (row,) = load(tmp_path).runs.to_dict("records")
    assert row["command"].endswith("sweep='single')")
    assert names.network(row["model"]) == "Sequential (given)"
    network = tb.load(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), run.path / "network.safetensors"
    )
    x, y = TEST.tensors
    assert (network(x).argmax(1) == y).float().mean().item() == pytest.approx(summary["test/top1"])


def test_the_given_network_stays_as_it_is(settings):
    before = {name: value.clone() for name, value in settings["model"].state_dict().items()}
    tb.train(**settings)
    after = settings["model"].state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_split_of_few_samples_is_named(settings, capsys):
    """Accuracy on 8 samples of 2 classes moves in steps of 12.5 points; 10 held-out ones are enough."""
    tb.train(**settings | {"data": (TRAIN, images(8, first=1))})
    said = capsys.readouterr().out
    assert "warning: the test set, which is the score, has 8 samples for 2 classes" in said
    assert "one sample is 12.5 points" in said
    assert "val set" not in said


def test_a_function_makes_a_row_of_seeds(settings):
    """It is called after the seed is set; a network brings its weights, which are part of its run."""
    settings |= {"model": Net}
    first, second = (tb.train(**settings, seed=seed) for seed in (0, 1))
    assert make(first.config).group_id == make(second.config).group_id
    assert first.summary["test/loss"] != second.summary["test/loss"]
    of_network = tb.train(**settings | {"model": Net()})
    assert "weights=" in of_network.config["model"]


def test_a_finished_run_is_returned(settings):
    first = tb.train(**settings)
    said = io.StringIO()
    with redirect_stderr(said):
        again = tb.train(**settings)
    assert again.run_id == first.run_id
    assert "resume=False trains it again" in said.getvalue()


@pytest.mark.parametrize("val", [None, images(30, first=2)], ids=["held out", "its own"])
def test_a_lightning_data_module(settings, val):
    """Its hooks see every batch. Without validation samples, some of train are held out."""
    run = tb.train(**settings | {"data": Module(val)})
    assert run.summary["train_samples"] == (90 if val is None else 100)
    plain = tb.train(**settings)
    assert run.summary["test/loss"] != plain.summary["test/loss"]


def test_loaders_give_their_batch_size_and_collate_function(settings):
    def doubled(samples):
        x = torch.stack([x for x, _ in samples])
        y = torch.stack([y for _, y in samples])
        return 2 * x, y

    del settings["batch_size"]
    loaders = (DataLoader(TRAIN, 25, collate_fn=doubled), DataLoader(TEST, 25))
    run = tb.train(**settings | {"data": loaders})
    assert run.config["batch_size"] == 25
    with holding(**settings | {"data": loaders}):
        data = catalog.build("data", run.config["data"])
        data.setup()
        x = data.first("test", 2)
    assert torch.equal(x, 2 * TEST.tensors[0][:2])


def test_a_resumed_run_gives_the_numbers_of_an_uninterrupted_one(settings, monkeypatch):
    """Random transforms included: the order and every draw are those of (seed, epoch)."""
    settings |= {"data": (Images(), Images(TEST)), "epochs": 3}
    whole = tb.train(**settings, sweep="whole")
    monkeypatch.setattr(Images, "reads", 0)
    monkeypatch.setattr(Images, "fails_at", 540)
    with pytest.raises(RuntimeError, match="power cut"):
        tb.train(**settings)
    monkeypatch.setattr(Images, "fails_at", None)
    resumed = tb.train(**settings)
    assert [row["epoch"] for row in resumed.rows()] == [0, 1, 2]
    assert resumed.summary["test/loss"] == whole.summary["test/loss"]


def test_workers_draw_by_seed_and_epoch():
    """A loader that starts at epoch 1 draws what one that came through epoch 0 draws."""
    loader = DataLoader(Images(), 50, num_workers=1)
    with holding(data=(loader, DataLoader(TEST, 50)), model="mlp") as _:
        (key,) = given._HELD
        through, starts = (given._HELD[key](batch_size=50, seed=3) for _ in range(2))
    found = []
    for data, epochs in ((through, (0, 1)), (starts, (1,))):
        data.setup()
        loader = data.train_dataloader()
        for epoch in epochs:
            loader.batch_sampler.set_epoch(epoch)
            x, _ = next(iter(loader))
        found.append(x)
    assert torch.equal(*found)


def test_what_a_run_id_depends_on():
    """Options, code, shapes and weights of the network; content and sizes of the data."""
    torch.manual_seed(0)
    net = Net()
    own = identity.of_model(net)
    wide, scaled = Wide(), Net()
    for other in (wide, scaled):
        other.load_state_dict(net.state_dict())
    scaled.scale = 2.0
    assert identity.of_model(wide)["architecture"] != own["architecture"]
    assert identity.of_model(scaled)["architecture"] != own["architecture"]
    assert identity.of_model(scaled)["weights"] == own["weights"]
    assert identity.of_model(Net())["weights"] != own["weights"]
    assert identity.of_model(Net())["architecture"] == own["architecture"]


def test_the_identity_of_data(settings):
    def call(**changes):
        with holding(**settings | changes):
            return [key for key in given._HELD if key[0] == "data"]

    x, y = TRAIN.tensors
    other = TensorDataset(x.clone(), y.clone())
    assert call() == call(data=(other, TEST))
    other.tensors[0][50] += 1
    assert call() != call(data=(other, TEST))
    assert call(val_size=20) != call()
    assert call(data=(Images(), Images(TEST))) == call(data=(Images(), Images(TEST)))


def test_samples_that_differ_when_read_twice_are_named_in_the_record(settings):
    class Counting(Images):
        def __getitem__(self, i):
            x, y = super().__getitem__(i)
            return x + Images.reads, y

    run = tb.train(**settings | {"data": (Counting(), TEST)})
    assert "samples='differ when read twice'" in run.config["data"]


def with_labels(labels):
    return TensorDataset(TRAIN.tensors[0], labels)


class Endless(IterableDataset):
    def __iter__(self):
        yield from TRAIN


class Leaking(Module):
    def test_dataloader(self):
        return DataLoader(self.val, 20)


REFUSED = {
    "three parts": ({"data": (TRAIN, TEST, TEST)}, "expected data=.*got 3 parts"),
    "no data": ({"data": 3}, "expected data=.*got int"),
    "half loaders": ({"data": (DataLoader(TRAIN), TEST)}, "got DataLoader and TensorDataset"),
    "labels": ({"data": (with_labels(TRAIN.tensors[1] + 1), TEST)}, "of train must be from 0 to 1, got 1 to 2"),
    "float labels": ({"data": (with_labels(torch.rand(100)), TEST)}, "one whole number for each sample, got torch.float32"),
    "one class": ({"data": (with_labels(torch.zeros(100).long()),) * 1 + (TensorDataset(*[t[::2] for t in TEST.tensors]),), "model": "mlp"},
                  "classes"),
    "no labels": ({"data": (TensorDataset(TRAIN.tensors[0]), TEST)}, "inputs, labels.*got 1 part"),
    "bytes": ({"data": (TensorDataset(TRAIN.tensors[0].byte(), TRAIN.tensors[1]), TEST)}, "floating-point tensors, got torch.uint8"),
    "shape": ({"model": nn.Sequential(nn.Linear(7, 2))}, r"Sequential cannot take a batch of the data, shape \(2, 1, 8, 8\)"),
    "output": ({"model": nn.Conv2d(1, 2, 3)}, r"must return \(B, classes\)"),
    "no layer": ({"model": nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64)), "num_classes": 64}, "no Linear, Conv1d, Conv2d"),
    "no model": ({"model": 3}, "expected a torch.nn.Module.*got int"),
    "no network": ({"model": dict}, "must return a torch.nn.Module, got dict"),
    "arguments": ({"model": lambda depth: depth}, "cannot make a network"),
    "classes": ({"num_classes": 5}, "num_classes=5, and the model has 2 outputs"),
    "too many": ({"model": lambda: Net(9)}, "Net has 9 outputs.*data have 2 classes"),
    "one set": ({"data": (TRAIN, TRAIN)}, "train and test are one data set"),
    "leak": ({"data": Leaking(TEST)}, "val_dataloader and test are one data set"),
    "endless": ({"data": (Endless(), TEST)}, "Endless has no length"),
    "empty": ({"data": (TensorDataset(torch.zeros(0, 1), torch.zeros(0)), TEST)}, "is empty"),
    "sampler": ({"data": (DataLoader(TRAIN, sampler=WeightedRandomSampler([1.0] * 100, 5)), DataLoader(TEST))}, "has a WeightedRandomSampler"),
    "no batches": ({"data": (DataLoader(TRAIN, batch_size=None), DataLoader(TEST))}, "batch_size=None"),
    "held out": ({"val_size": 100}, "val_size must lie between 0"),
    "devices": ({"devices": 2}, "train in one process"),
    "setting": ({"learning_rate": 1}, "did you mean 'lr'"),
    "both": ({"config": make({})}, "give a Config, or"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_input_that_does_not_fit_is_refused_before_training(case, settings, tmp_path):
    changes, said = REFUSED[case]
    with pytest.raises(ValueError, match=said):
        tb.train(**settings | changes)
    assert not (tmp_path / "runs").exists()


def test_labels_alone_tell_the_classes_of_a_named_model(settings):
    run = tb.train(**settings | {"model": "mlp(hidden=[8])"})
    assert run.summary["plan"][-1]["shape"] == [2, 8]


@pytest.mark.parametrize(
    "command", ["export {id}", "latency --suite single", "sweep --fill single"]
)
def test_a_command_that_needs_the_object_says_so(settings, tmp_path, command, capsys):
    runs = [tb.train(**settings | {"model": Net}, seed=0)]
    if "fill" in command:
        tb.train(**settings | {"model": nn.Sequential(nn.Flatten(), nn.Linear(64, 2))}, seed=1)
    words = command.format(id=runs[0].run_id).split()
    assert cli.main([*words, "--results", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "was given in Python as an object" in error
    assert "make it a plugin" in error


def test_within_holding_a_record_can_be_rebuilt(settings, tmp_path, monkeypatch):
    """An export goes by the record, and gives the run's own score."""
    monkeypatch.chdir(tmp_path)
    run = tb.train(**settings)
    with holding(**settings):
        assert trained(run).plan.rows
        result = export.export(run, "safetensors", tmp_path / "net.safetensors")
    assert result["test/top1"] == run.summary["test/top1"]
    with pytest.raises(ValueError, match="given in Python"):
        trained(run)


def test_show_names_the_python_that_makes_the_run_again(settings, tmp_path, capsys):
    run = tb.train(**settings)
    assert cli.main(["runs", "show", run.run_id, "--results", str(tmp_path)]) == 0
    assert "again   tb.train(data=<torch.utils.data" in capsys.readouterr().out
    assert RunStore(tmp_path).find(run.run_id).config == run.config


def test_another_task(settings):
    """Forecasting: y is a window of numbers, and no classes are counted."""
    x = torch.randn(60, 12, 3)
    sets = (TensorDataset(x[:40], x[:40, -1:]), TensorDataset(x[40:], x[40:, -1:]))
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    run = tb.train(**settings | {"model": network, "data": sets, "task": "forecasting"})
    assert run.summary["score"] == "mse"


def test_the_example_of_train_runs(tmp_path):
    code = (
        "import doctest, tbn_bench.experiment.given as m; found = doctest.testmod(m); "
        "assert found.attempted and not found.failed"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
