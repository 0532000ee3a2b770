"""Guards the command: its records, what it says, and what it refuses."""

import json
import shutil

import numpy as np
import pytest

from tbn_bench import cli
from tbn_bench.config import make
from tbn_bench.experiment import train
from tbn_bench.records import robustness
from tbn_bench.records.store import RunStore
from tbn_bench.robustness import measure
from tbn_bench.robustness.measure import Options
from tbn_bench.runs import verify

SMALL = {"data": "digits", "model": "mlp(hidden=[30])", "epochs": 1}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two runs of one sweep, binary and full precision."""
    root = tmp_path_factory.mktemp("made") / "results"
    options = train.RunOptions(root, "tiny", wandb="off", threads=1)
    for binarizer in ("tbn(p=4, min_layer_size=0)", "full_precision"):
        train.run(make(SMALL | {"binarizer": binarizer}), options)
    return root


@pytest.fixture
def store(made, tmp_path):
    shutil.copytree(made, tmp_path / "results")
    return RunStore(tmp_path / "results")


def run_of(store, binarizer):
    (found,) = (run for run in store.runs() if run.config["binarizer"].startswith(binarizer))
    return found


def rows_of(record):
    return {(row["fault"], row["rate"], row["code"]): row for row in record.rows}


def test_the_command_writes_a_record_and_keeps_it(store, capsys):
    """Its line of JSON names the file; a second call measures nothing."""
    argv = ["robustness", "tiny", "--results", str(store.root), "--draws", "2", "--rates", "0.1"]
    assert cli.main([*argv, "--code", "hamming"]) == 0
    done = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert len(done["written"]) == 2
    assert done["failed"] == []
    assert cli.main(argv) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["kept"] == done["written"]
    assert len(robustness.records(store.root)) == 2


def test_a_rate_near_zero_changes_nothing(store):
    """Each row then has the accuracy of the run, in an interval without width."""
    run = run_of(store, "tbn")
    found = measure.measure(run, Options(draws=3, rates=(1e-9,), kinds=("bits", "scales")))
    for row in found.rows:
        assert row["unchanged"] == 3
        assert row["low"] == row["top1"] == row["high"] == found.info["top1"]
    assert found.info["top1"] == pytest.approx(run.summary["test/top1"], abs=1e-6)


def test_half_of_all_bits_wrong_is_chance(store):
    """And the draws see every test sample, so that the drop is that of the whole test set."""
    found = measure.measure(run_of(store, "tbn"), Options(draws=4, rates=(0.5,), kinds=("bits",)))
    (row,) = found.rows
    assert row["samples"] == 100
    assert row["top1"] < 0.35
    assert row["wrong_signs"] == pytest.approx(0.5, abs=0.05)
    assert row["low"] < row["top1"] < row["high"]


def test_draws_are_the_same_whatever_else_is_measured(store):
    run = run_of(store, "tbn")
    alone = measure.measure(run, Options(draws=2, rates=(0.1,), kinds=("bits",)))
    beside = measure.measure(run, Options(draws=2, rates=(0.01, 0.1), kinds=("scales", "bits")))
    key = ("bits", 0.1, None)
    assert rows_of(alone)[key] == rows_of(beside)[key]


def test_a_code_costs_bits_and_keeps_the_accuracy(store):
    """At a rate of 0.003, hardly a block of 11 + 4 bits has two errors."""
    options = Options(draws=4, rates=(0.003,), kinds=("bits",), block=11)
    found = measure.measure(run_of(store, "tbn"), options)
    plain, coded = found.rows
    assert coded["code"] == "hamming"
    assert coded["wrong_signs"] < plain["wrong_signs"] / 4
    added = found.info["check_bits"] / found.info["weights"]
    assert coded["bits_per_weight"] == pytest.approx(plain["bits_per_weight"] + added)


def test_full_precision_has_faults_in_its_floats(store):
    """32 bits of each weight, from the checkpoint; there are no scales and no image of 8 bits."""
    found = measure.measure(run_of(store, "full"), Options(draws=2, rates=(0.01,)))
    assert {row["fault"] for row in found.rows} == {"bits", "weights"}
    assert found.info["fault_bits"] == 32 * (64 * 30 + 30 * 10)


def test_outputs_that_are_not_finite_are_wrong(store):
    run = run_of(store, "full")
    bench = measure._Bench(run, Options())
    name = bench.stored.floats[0]
    content = bench.stored.content
    content.tensors[name] = np.full_like(content.tensors[name], np.nan)
    assert not bench.right(content, bench.x, bench.y).any()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--rates", "0.1,2"], r"probabilities between 0 and 1, got [2.0]"),
        (["--rates", "many"], "numbers separated by commas, got 'many'"),
        (["--faults", "bits,fire"], "are bits, weights, scales, corruptions, got fire"),
        (["--code", "hamming", "--faults", "scales"], "add bits to --faults"),
        (["--seed", "-1"], "--seed must be at least 0, got -1"),
    ],
)
def test_flags_that_mean_nothing_are_refused(store, capsys, flags, said):
    assert cli.main(["robustness", "tiny", "--results", str(store.root), *flags]) == 1
    assert said in capsys.readouterr().err


def test_a_run_without_a_network_is_refused(store, capsys):
    """The message says how to get one."""
    run = run_of(store, "tbn")
    (run.path / "network.safetensors").unlink()
    assert cli.main(["robustness", run.run_id, "--results", str(store.root)]) == 1
    assert "network.safetensors is missing; train it again" in capsys.readouterr().err


def test_a_damaged_record_is_named(store):
    """By reports, and by runs verify."""
    path = robustness.path_of(store.root, "tiny", "abc")
    path.parent.mkdir(parents=True)
    path.write_text('{"schema_version": 1, "sweep": "tiny", "run_id": "abc", "rows": []}')
    problems = []
    assert robustness.records(store.root, problems) == []
    assert "abc.json: rows: List should have at least 1 item" in problems[0]
    (fault,) = (fault for fault in verify._measurements(store) if fault.kind == "robustness")
    assert "measure it again" in str(fault)
