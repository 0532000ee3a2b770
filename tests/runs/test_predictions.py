"""The predicted classes of a run: kept by training, read back, compared by sample."""

import numpy as np
import pytest
from generated_runs import finished_run

from tbn_bench import cli
from tbn_bench.records import predictions
from tbn_bench.records.files import RecordError
from tbn_bench.records.predictions import Predictions
from tbn_bench.records.store import RunStore
from tbn_bench.runs import predictions as command

LABELS = np.array([0, 0, 1, 1, 2, 2])


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path)


def keep(store, predicted, **values) -> str:
    run_id = finished_run(store, held_out=0.5, top1=0.5, **values)
    predictions.write(store.find(run_id).path, Predictions(LABELS, np.array(predicted)))
    return run_id


def test_a_confusion_matrix_by_hand(store):
    found = command.run(store, keep(store, [0, 1, 1, 1, 0, 2]))
    assert found["confusion"] == [[1, 1, 0], [0, 2, 0], [1, 0, 1]]
    assert found["correct"] == 4


def test_two_runs_differ_on_named_samples(store, capsys):
    a = keep(store, [0, 0, 1, 1, 0, 0], seed=0)
    b = keep(store, [1, 0, 1, 1, 2, 2], seed=1)
    found = command.run(store, a, b)
    assert (found["only_first"], found["only_second"]) == ([0], [4, 5])
    assert found["both_right"] == 3
    assert found["p"] == 1.0  # one against two of three samples
    assert f"only {b} right: 2, samples 4, 5" in capsys.readouterr().out


def test_runs_of_other_samples_are_not_compared(store):
    a = keep(store, LABELS, seed=0)
    b = finished_run(store, held_out=0.5, top1=0.5, seed=1)
    predictions.write(store.find(b).path, Predictions(LABELS[::-1], LABELS[::-1]))
    with pytest.raises(RecordError, match="tested on other samples"):
        command.run(store, a, b)


def test_a_run_without_predictions_says_why(store):
    run_id = finished_run(store, held_out=0.5, top1=0.5)
    with pytest.raises(RecordError, match="trained by an earlier version"):
        command.run(store, run_id)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not an archive"])
def test_a_damaged_file_is_named(store, content):
    path = store.find(keep(store, LABELS)).path
    (path / predictions.NAME).write_bytes(content)
    with pytest.raises(RecordError, match="is damaged"):
        predictions.read(path)


def test_a_training_keeps_them_and_they_give_its_score(tmp_path):
    flags = [
        "--data",
        "digits",
        "--model",
        "mlp(hidden=[8])",
        "--binarizer",
        "bwn",
        "--epochs",
        "1",
        "--quiet",
    ]
    assert cli.main(["train", *flags, "--results", str(tmp_path)]) == 0
    store = RunStore(tmp_path)
    (record,) = store.runs()
    found = predictions.read(record.path)
    assert found.correct.mean() == pytest.approx(record.summary["test/top1"], abs=1e-6)
    assert (record.path / predictions.NAME).stat().st_size < 2_000
