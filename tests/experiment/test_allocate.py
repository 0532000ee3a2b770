"""Guards allocate: what it measures, what it chooses, and the files that train and sweeps take."""

import json

import pytest
import torch
import yaml

from tbn_bench import catalog, cli, tiling
from tbn_bench.config import make
from tbn_bench.experiment import allocate, build, sensitivity, train
from tbn_bench.experiment.sensitivity import Bench, Options
from tbn_bench.records.store import RunStore

SMALL = {"data": "digits", "model": "mlp(hidden=[64, 32])", "epochs": 2, "keep": "5"}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A run of bwn and one in full precision, with their checkpoints."""
    root = tmp_path_factory.mktemp("made") / "results"
    options = train.RunOptions(root, "tiny", wandb="off", threads=1)
    for binarizer in ("bwn", "full_precision"):
        train.run(make(SMALL | {"binarizer": binarizer}), options)
    return RunStore(root)


def run_of(store, binarizer="bwn"):
    (found,) = (run for run in store.runs() if run.config["binarizer"] == binarizer)
    return found


def called(store, capsys, out, *flags, binarizer="bwn"):
    name = f"tiny/{run_of(store, binarizer).run_id}"
    argv = ["allocate", name, "--results", str(store.root), "--out", str(out), *flags]
    status = cli.main(argv)
    said = capsys.readouterr()
    return status, said.out, said.err


def test_a_tiled_layer_is_tbns(store):
    """The same weight as a parametrization of tbn computes from this latent weight."""
    bench = Bench(run_of(store), Options(copies="hadamard"))
    for name, latent in bench.latents.items():
        copies = Options(copies="hadamard").copies_of(tuple(latent.shape), 4)
        alphas = tiling.alphas(latent, 4, "tile")
        expected = tiling.tiled_weight(latent, alphas, 4, "tile", copies)
        assert torch.equal(bench.tiled(name, 4), expected)


@pytest.mark.parametrize("binarizer", ["bwn", "full_precision"])
def test_a_layer_alone_is_tiled_and_restored(store, binarizer):
    """The loss of a wrong layer is larger; afterwards it is what it was."""
    bench = Bench(run_of(store, binarizer), Options())
    before = bench.loss()
    first = next(iter(bench.latents))
    assert bench.loss_with({first: 32}) > before
    assert bench.loss() == before
    assert list(bench.latents) == ["1.weight", "3.weight"]


def test_the_command_writes_what_train_and_sweeps_take(store, capsys, tmp_path):
    """A preset with a list of p within the budget, and losses for tbn_budget, which agrees."""
    status, out, _ = called(store, capsys, tmp_path, "--bits", "0.5", "--gradient", "tile")
    assert status == 0
    done = json.loads(out.splitlines()[-1])
    (choice,) = done["allocations"]
    assert choice["bits_per_weight"] <= 0.5
    preset = yaml.safe_load((tmp_path / f"{run_of(store).run_id}-0.5.yaml").read_text())
    assert preset["binarizer"] == choice["binarizer"]
    assert catalog.parse(choice["binarizer"])[1]["gradient"] == "tile"
    planned = build.sketch(make(preset)).plan
    by_file = f"tbn_budget(bits=0.5, path={done['losses']!r})"
    assert [row.p for row in planned.rows if row.binarized] == choice["per_layer"]
    same = build.sketch(make(preset | {"binarizer": by_file})).plan
    assert [row.p for row in same.rows if row.binarized] == choice["per_layer"]


def test_the_losses_add_up_as_they_say(store, capsys, tmp_path):
    """Predicted: the loss without tiles, and the growth of each layer's at its p."""
    _, out, _ = called(store, capsys, tmp_path, "--bits", "0.3")
    done = json.loads(out.splitlines()[-1])
    found = json.loads((tmp_path / f"{run_of(store).run_id}.json").read_text())
    (choice,) = done["allocations"]
    predicted = found["loss"]
    for row, p in zip(found["layers"], choice["per_layer"], strict=True):
        predicted += max(0, row["loss"][str(p)] - found["loss"])
    assert choice["predicted_loss"] == pytest.approx(predicted)
    bench = Bench(run_of(store), Options())
    names = [row["name"] for row in found["layers"]]
    together = bench.loss_with(dict(zip(names, choice["per_layer"], strict=True)))
    assert choice["measured_loss"] == pytest.approx(together)
    assert "p = 4 in all layers" in out


def test_a_file_of_losses_is_used_again(store, capsys, tmp_path, monkeypatch):
    """Unless it was measured with other settings."""
    called(store, capsys, tmp_path, "--bits", "0.5")
    monkeypatch.setattr(sensitivity, "measure", None)
    assert called(store, capsys, tmp_path, "--bits", "0.3")[0] == 0
    status, _, err = called(store, capsys, tmp_path, "--bits", "0.3", "--alpha", "layer")
    assert status == 1
    assert "measured with other settings; use --again" in err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--bits", "0.001"], r"bits=0.001 cannot be met"),
        (["--bits", "-1"], "--bits must be above 0, got -1"),
        (["--bits", "0.3", "--p", "0"], "--p takes whole numbers from 1 on, got [0]"),
        (["--bits", "0.3", "--copies", "shifted"], "shifted copies change the shape"),
    ],
)
def test_what_cannot_be_is_named(store, capsys, tmp_path, flags, said):
    status, _, err = called(store, capsys, tmp_path, *flags)
    assert status == 1
    assert said in err


def test_several_runs_are_too_many(store, tmp_path):
    job = allocate.Job((0.3,), tmp_path, Options())
    with pytest.raises(ValueError, match="'tiny' names 2 runs; give one"):
        allocate.run(store, "tiny", job)
