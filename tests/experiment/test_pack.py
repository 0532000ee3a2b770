"""tbn-bench pack: a run's network as a small file, what is measured of it, and certificates of small files."""

import json
from pathlib import Path

import pytest

from tbn_bench import cli
from tbn_bench.config import make
from tbn_bench.experiment import certified, certify, small_files, train, verify
from tbn_bench.format import packed_file
from tbn_bench.records.run import NETWORK
from tbn_bench.records.store import RunStore

ROOT = Path(__file__).parents[2]
TINY = {
    "data": "digits",
    "model": "micro_cnn(channels=[8, 16])",
    "binarizer": "tbn(p=4, min_layer_size=0)",
    "epochs": 2,
    "batch_size": 64,
    "keep": ["8"],
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    root = tmp_path_factory.mktemp("made") / "results"
    train.run(make(TINY), train.RunOptions(root, "tiny", wandb="off", threads=1))
    return root


def run_of(results):
    (record,) = RunStore(results).runs_of("tiny")
    return record


def outcome(capsys, *argv):
    """(exit status, last line of stdout as JSON or {}, stderr)."""
    status = cli.main(list(map(str, argv)))
    out, err = capsys.readouterr()
    last = out.strip().splitlines()[-1] if out.strip() else "{}"
    return status, json.loads(last) if last.startswith("{") else {}, err


def test_a_small_file_is_measured(results, tmp_path, capsys):
    """All options: fewer bytes, the score of the file, and its parts by hand."""
    out = tmp_path / "small.safetensors"
    argv = ["pack", "tiny/", "--all", "--results", results, "--out", out, "--numpy", 5]
    status, line, err = outcome(capsys, *argv)
    assert status == 0, err
    assert line["file_bytes"] == out.stat().st_size < line["before"]["file_bytes"]
    assert line["before"]["score"] == pytest.approx(run_of(results).summary["test/top1"])
    assert line["score"] == pytest.approx(line["before"]["score"], abs=0.02)
    assert 0 < line["largest_difference"] < 0.03
    assert line["numpy_samples"] == 5
    # head 10 x 64 in int8 with its scales, norms of 8 + 16 channels, bits and scales of two layers
    tiles = {"0": 7, "3": 36}
    scales = {"0": 4, "3": 4}
    expected = 640 + 20 + 2 * 2 * 24 + sum(tiles.values()) + 2 * sum(scales.values())
    assert line["payload_bytes"] == expected


def test_each_option_is_recorded(results, capsys):
    status, line, err = outcome(capsys, "pack", "tiny/", "--each", "--results", results)
    assert status == 0, err
    assert [one["name"] for one in line["files"]] == [choice.name for choice in small_files.EACH]
    first, *others = (one["payload_bytes"] for one in line["files"])
    assert all(size <= first for size in others)
    assert (results / "small_files" / "tiny" / f"{line['run_id']}.json").exists()


def test_an_option_that_a_network_does_not_allow_is_said(results, capsys):
    """A value that float16 cannot hold: --each measures the others, a single file is an error."""
    record = run_of(results)
    path = record.path / NETWORK
    before = path.read_bytes()
    content = packed_file.read(path)
    content.tensors["1.weight"][0] = 1e6
    packed_file.write(path, content)
    try:
        found = small_files.measure(record, small_files.EACH, 5)
        refused = [one.name for one in found if one.refused]
        assert refused == ["side float16", "all, float16"]
        assert "which float16 cannot hold" in small_files.table(found)
        argv = ["pack", "tiny/", "--side", "float16", "--results", results]
        status, _, err = outcome(capsys, *argv, "--out", results / "net")
        assert status == 1
        assert "1.weight has a value of 1e+06, which float16 cannot hold" in err
    finally:
        path.write_bytes(before)


def test_a_small_file_in_the_record_is_verified_and_certified(results, tmp_path):
    """It replaces the packed network; verify and certify read it, and the claims have its bytes."""
    record = run_of(results)
    path = record.path / NETWORK
    before = path.read_bytes()
    choice = small_files.Choice("small", small_files.Small(kept="int8"), fold_norm=True)
    small_files.pack(record, choice, path, 5)
    try:
        assert verify.check(record).verdict == verify.VERIFIED
        file, _ = certify.certify(
            RunStore(results), record, certify.Options(out=tmp_path, bundle=True)
        )
        assert certified.check(file, certified.Options()).verdict == "verified"
        held = packed_file.read(path)
        assert held.payload_bytes < held.plain_bytes == record.summary["stored_bytes"]
        with pytest.raises(ValueError, match="it is a small file already"):
            small_files.pack(record, choice, tmp_path / "again", 5)
    finally:
        path.write_bytes(before)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "nothing to store smaller; give --fold-norm, --side"),
        (["--each", "--all"], "--each measures every option and writes no file"),
    ],
)
def test_options_that_say_nothing_are_refused(results, argv, said, capsys):
    status, _, err = outcome(capsys, "pack", "tiny/", "--results", results, *argv)
    assert status == 1
    assert said in err


def _cell(file):
    return "—" if file["refused"] else f"{file['file_bytes']:,}, {100 * file['score']:.2f}"


@pytest.mark.parametrize("sweep", ["cifar10_fast", "mnist_cnn"])
def test_the_page_has_the_numbers_of_the_records(sweep):
    """Every committed measurement of seed 0 is a row of docs/small_files.md."""
    page = (ROOT / "docs" / "small_files.md").read_text(encoding="utf-8")
    store = RunStore(ROOT / "results")
    measured = sorted((ROOT / "results" / "small_files" / sweep).glob("*.json"))
    seen = 0
    for path in measured:
        record = json.loads(path.read_text())
        if store.read(sweep, record["run_id"]).config["seed"] == 0:
            cells = [_cell(file | {"refused": file.get("refused", "")}) for file in record["files"]]
            assert f"| {' | '.join(cells)} |" in page
            seen += 1
    assert seen >= 4
