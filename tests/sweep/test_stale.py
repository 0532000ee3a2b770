"""Stale results: a sweep names finished runs whose code has changed, and follows --stale."""

import json

import pytest
import yaml

from tbn_bench import cli, fingerprint
from tbn_bench.experiment import train
from tbn_bench.records.store import RunStore
from tbn_bench.sweep import spec

FAST = {"data": "synthetic", "model": "mlp(hidden=[8])", "epochs": 1, "batch_size": 16, "lr": 0.05}


@pytest.fixture
def sweep(tmp_path, capfd):
    """call(*flags) -> (status, result, stderr) of a sweep of two runs that are finished."""
    parameters = {name: {"value": value} for name, value in FAST.items()}
    parameters["binarizer"] = {"values": ["sign", "bwn"]}
    file = tmp_path / "two.yaml"
    file.write_text(yaml.safe_dump({"name": "two", "method": "grid", "parameters": parameters}))

    def call(*flags):
        status = cli.main(["sweep", str(file), f"--results={tmp_path / 'results'}", *flags])
        said = capfd.readouterr()
        last = said.out.splitlines()[-1] if said.out else "{}"
        return status, json.loads(last) if last.startswith("{") else {}, said.err

    options = train.RunOptions(tmp_path / "results", sweep="two", wandb="off")
    for config in spec.load(file).configs:
        train.run(config, options)
    capfd.readouterr()
    call.store = RunStore(tmp_path / "results")
    return call


def change(store, binarizer):
    """Makes the record of one run say that its binarizer's code was another."""
    for record in store.runs():
        if record.config["binarizer"] == binarizer:
            path = record.path / "run.json"
            header = json.loads(path.read_text())
            header["provenance"]["fingerprint"]["binarizer"] = "0" * 12
            path.write_text(json.dumps(header))
            return record.run_id


def test_a_stale_run_is_kept_run_again_or_refused(sweep):
    """Each policy on the same two finished runs, one of them stale."""
    status, result, said = sweep()
    assert (status, result["skipped"], result["stale"], "stale" in said) == (0, 2, [], False)
    stale = change(sweep.store, "bwn")
    status, result, said = sweep()
    assert (status, result["skipped"], result["stale"]) == (0, 2, [stale])
    assert f"binarizer ({stale})" in said
    status, _, said = sweep("--stale=error")
    assert (status, stale in said, "--stale rerun" in said) == (1, True, True)
    status, result, _ = sweep("--stale=rerun", "--dry-run")
    assert (result["to_run"], result["stale"]) == (0, [stale])
    status, result, said = sweep("--stale=rerun")
    assert (result["skipped"], result["finished"], result["stale"]) == (1, 1, [])
    assert (sweep.store.root / "set_aside" / "two" / f"{stale}.1" / "summary.json").exists()
    assert sweep()[1]["stale"] == []


def test_a_record_without_a_fingerprint_is_never_stale(sweep):
    """Records of older versions stay as they are, without a word."""
    for record in sweep.store.runs():
        path = record.path / "run.json"
        header = json.loads(path.read_text())
        assert set(header["provenance"].pop("fingerprint")) == {*fingerprint.SHELF_OF, "equations"}
        path.write_text(json.dumps(header))
    _, result, said = sweep("--stale=error")
    assert (result["skipped"], result["stale"], "stale" in said) == (2, [], False)
