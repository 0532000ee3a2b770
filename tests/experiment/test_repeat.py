"""Guards runs repeat: equal numbers clear a stale run, and a different one is named."""

import json

import pytest

from tbn_bench import fingerprint
from tbn_bench.config import make
from tbn_bench.experiment import repeat, train
from tbn_bench.records import repeated
from tbn_bench.records.store import RunStore


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """Two epochs on synthetic data, by code whose equations had another hash."""
    root = tmp_path_factory.mktemp("results")
    config = make({"data": "synthetic", "binarizer": "bwn", "epochs": 2})
    made = train.run(config, train.RunOptions(root, wandb="off", threads=1))
    header = json.loads((made.path / "run.json").read_text())
    header["provenance"]["fingerprint"]["equations"] = "000000000000"
    (made.path / "run.json").write_text(json.dumps(header))
    return RunStore(root).find(made.run_id)


def changed(record):
    return fingerprint.changed(record.fingerprint, make(record.config))


def test_equal_numbers_clear_a_stale_run(record, capsys):
    (record.path / repeated.NAME).unlink(missing_ok=True)
    assert changed(record) == ["equations"]
    found = repeat.run(RunStore(record.path.parent.parent.parent), record.run_id, epochs=2)
    assert found["numbers"] >= 6
    assert "are equal to the last digit" in capsys.readouterr().out
    assert changed(record) == []


def test_a_damaged_file_clears_nothing(record):
    (record.path / repeated.NAME).write_text('{"fingerprint": 3}')
    assert changed(record) == ["equations"]


def test_a_different_number_is_named(record, monkeypatch):
    """Nothing is written then, and the record stays as it was."""
    (record.path / repeated.NAME).unlink(missing_ok=True)
    rows = record.rows()
    rows[0]["train/loss"] += 1e-9
    monkeypatch.setattr(type(record), "rows", lambda self: rows)
    with pytest.raises(ValueError, match="train/loss of epoch 1 is"):
        repeat.run(RunStore(record.path.parent.parent.parent), record.run_id)
    assert not (record.path / repeated.NAME).exists()


def test_a_number_that_is_no_longer_logged_is_named(record, monkeypatch):
    rows = [row | {"val/lost": 1.0} for row in record.rows()]
    monkeypatch.setattr(type(record), "rows", lambda self: rows)
    with pytest.raises(ValueError, match="val/lost is in the record and is no longer logged"):
        repeat.run(RunStore(record.path.parent.parent.parent), record.run_id)


def test_epochs_that_the_record_does_not_have(record):
    with pytest.raises(ValueError, match="between 1 and 2"):
        repeat.run(RunStore(record.path.parent.parent.parent), record.run_id, epochs=3)
