"""Guards runs verify --scores: a packed network gives the recorded score, or its run is named."""

import json
import shutil

import numpy as np
import pytest

from tbn_bench import cli, convert
from tbn_bench.config import make
from tbn_bench.experiment import numpy_forward, train, verify, weights
from tbn_bench.format import packed_file
from tbn_bench.native import NativeUnavailable
from tbn_bench.records.files import read_json, write_atomic
from tbn_bench.records.run import NETWORK
from tbn_bench.records.store import RunStore
from tbn_bench.scores import SCORES

DIGITS = {"data": "digits", "model": "resnet_cifar(depth=8)", "epochs": 1}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two trained runs with their packed networks, and one without."""
    root = tmp_path_factory.mktemp("results")
    for binarizer in ("tbn(p=4, min_layer_size=0)", "bwn"):
        record = train.run(
            make({**DIGITS, "binarizer": binarizer}),
            train.RunOptions(root, "pair", wandb="off", threads=1),
        )
        model = weights.trained(record).model
        convert.pack_(model)
        convert.save(model, record.path / NETWORK, record.config, record.provenance.get("commit"))
    train.run(
        make({"data": "synthetic", "epochs": 1}),
        train.RunOptions(root, "bare", wandb="off", threads=1),
    )
    for left in RunStore(root).root.glob(f"runs/bare/*/{NETWORK}"):
        left.unlink()
    return root


@pytest.fixture
def results(trained, tmp_path):
    """A copy that a test may damage."""
    shutil.copytree(trained, tmp_path / "results")
    return tmp_path / "results"


@pytest.fixture
def call(results, capsys):
    def call(*argv):
        capsys.readouterr()
        code = cli.main(["runs", f"--results={results}", "verify", "--scores", *argv])
        out, err = capsys.readouterr()
        lines = out.splitlines()
        return code, lines, json.loads(lines[-1]) if code == 0 or not err else {}, err

    return call


def record_of(results, binarizer="tbn"):
    pair = RunStore(results).runs_of("pair")
    return next(record for record in pair if record.config["binarizer"].startswith(binarizer))


def test_both_ways_give_the_recorded_score(call, results):
    """One line per run, with the score three times and the file's size.

    Without a file it is no pass.
    """
    code, lines, last, _ = call()
    assert code == 0
    counts = {key: last[key] for key in ("runs", "verified", "not_checked", "no_network", "failed")}
    assert counts == {"runs": 3, "verified": 2, "not_checked": 0, "no_network": 1, "failed": 0}
    record = record_of(results)
    shown = SCORES["top1"].text(record.summary["test/top1"])
    (line,) = (line for line in lines if record.run_id in line)
    size = (record.path / NETWORK).stat().st_size
    said = f"recorded {shown}, native {shown}, numpy {shown}; {size:,} bytes; verified"
    assert line.endswith(said)
    assert sum("no packed network" in line for line in lines[:3]) == 1


def test_runs_are_chosen_by_sweep_and_id(call, results):
    """SWEEP, SWEEP/RUN, the beginning of RUN; a name that no run has is refused."""
    record = record_of(results)
    names = ("pair", f"pair/{record.run_id}", record.run_id[:6], "bare")
    assert [call(name)[2]["runs"] for name in names] == [2, 1, 1, 1]
    code, _, _, err = call("pear")
    assert (code, "did you mean 'pair'" in err) == (1, True)


def test_a_flipped_bit_is_damage(call, results):
    """The hash says so, and the run is named."""
    record = record_of(results)
    content = bytearray((record.path / NETWORK).read_bytes())
    content[-1] ^= 1
    (record.path / NETWORK).write_bytes(content)
    code, lines, last, _ = call()
    assert (code, last["verified"], last["failed_runs"]) == (1, 1, [f"pair/{record.run_id}"])
    assert any("DIFFERS" in line and "the hash of its content is wrong" in line for line in lines)


def test_flipped_bits_under_a_right_hash_change_the_score(call, results):
    """Both ways run the file, so both see other weights than the record's."""
    record = record_of(results)
    content = packed_file.read(record.path / NETWORK)
    for name in [weight.tile for weight in content.weights.values()][:4]:
        content.tensors[name] = content.tensors[name] ^ np.uint8(0b0110)
    packed_file.write(record.path / NETWORK, content)
    code, lines, last, _ = call("pair")
    assert (code, last["failed_runs"]) == (1, [f"pair/{record.run_id}"])
    assert any("not the recorded score by native and numpy" in line for line in lines)


def test_an_edited_score_is_found(call, results):
    """By two samples: one is the tolerance."""
    record = record_of(results, "bwn")
    summary = read_json(record.path / "summary.json")
    summary["test/top1"] += 2 / summary["test_samples"]
    write_atomic(record.path / "summary.json", summary)
    code, _, last, _ = call("pair")
    assert (code, last["failed_runs"]) == (1, [f"pair/{record.run_id}"])


def test_the_file_of_another_run_is_found(call, results):
    """Also where its network would fit."""
    ours, theirs = record_of(results), record_of(results, "bwn")
    shutil.copy(theirs.path / NETWORK, ours.path / NETWORK)
    assert any(f"holds the network of run {theirs.run_id}" in line for line in call("pair")[1])


def test_a_way_that_cannot_check_is_no_pass(call, monkeypatch):
    """An operation without a rule, and a machine without the native library, are said."""
    monkeypatch.delitem(numpy_forward.FUNCTIONS, "pad")
    code, lines, last, _ = call("pair")
    assert (code, last["verified"], last["not_checked"]) == (0, 0, 2)
    assert sum("cannot check by numpy: no rule for the function pad" in line for line in lines) == 2

    def missing(*args, **options):
        raise NativeUnavailable("no library here")

    monkeypatch.setattr(verify, "Executor", missing)
    said = "cannot check by native: no library here; cannot check by numpy"
    assert sum(said in line for line in call("pair")[1]) == 2


def test_the_records_alone_are_verified_without_torch(results, capsys):
    """runs verify counts the packed networks and leaves them alone.

    --set-aside is not for scores.
    """
    assert cli.main(["runs", f"--results={results}", "verify"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["networks"] == 2
    assert cli.main(["runs", f"--results={results}", "verify", "--scores", "--set-aside"]) == 1
    assert "--set-aside goes by the records alone" in capsys.readouterr().err
