"""Guards certificates: what certify writes, verify finds true; every change is named."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tbn_bench import cli
from tbn_bench.config import make
from tbn_bench.data import _base, digits
from tbn_bench.experiment import certified, certify, claims, train, verify
from tbn_bench.native import NativeUnavailable
from tbn_bench.records import certificate
from tbn_bench.records.certificate import CertificateError
from tbn_bench.records.files import RecordError, read_json, write_atomic
from tbn_bench.records.run import NETWORK
from tbn_bench.records.store import RunStore

ROOT = Path(__file__).parents[2]
TINY = {
    "data": "digits",
    "model": "mlp(hidden=[30])",
    "binarizer": "tbn(p=4, min_layer_size=0)",
    "epochs": 1,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run, its certificate, and its bundle."""
    root = tmp_path_factory.mktemp("made") / "results"
    options = train.RunOptions(root, "tiny", wandb="off", threads=1)
    record = train.run(make(TINY), options)
    for bundle in (False, True):
        certify.certify(RunStore(root), record, certify.Options(bundle=bundle))
    return root


@pytest.fixture
def results(made, tmp_path):
    """A copy that a test may damage."""
    shutil.copytree(made, tmp_path / "results")
    return tmp_path / "results"


def file_of(results, ending="json"):
    (path,) = results.glob(f"certificates/tiny/*.{ending}")
    return path


def run_of(results):
    (record,) = RunStore(results).runs_of("tiny")
    return record


def verdict(path, **options):
    return certified.check(path, certified.Options(**options))


def wrong(path, **options):
    """Part -> what is said of it."""
    found = verdict(path, **options)
    return {line.part: line.said for line in found.lines if line.agrees is False}


def rewritten(path, **changes):
    """Changes fields of a certificate, under a right hash of its own."""
    old = certificate.read(path)
    path.write_bytes(old.model_copy(update=changes).text())


def test_what_certify_writes_is_verified(made):
    """As JSON beside its parts, and as an archive that needs nothing else."""
    for ending in ("json", "zip"):
        found = verdict(file_of(made, ending))
        assert (found.verdict, found.wrong) == (certified.VERIFIED, [])
        parts = [line.part for line in found.lines]
        assert parts == ["parts", "record", "sizes", "data", "native", "numpy"]


def test_the_same_run_gives_the_same_bytes(made, tmp_path):
    for ending in ("json", "zip"):
        options = certify.Options(out=tmp_path, bundle=ending == "zip")
        path, _ = certify.certify(RunStore(made), run_of(made), options)
        assert path.read_bytes() == file_of(made, ending).read_bytes()


def test_the_certificate_says_what_the_run_is(made):
    held = certificate.read(file_of(made))
    record = run_of(made)
    summary = record.summary
    assert held.claims.config == record.config
    for name in ("weights", "stored_bits", "stored_bytes", "bits_per_weight", "file_bytes"):
        assert getattr(held.claims, name) == summary[name]
    assert held.claims.command == record.provenance["command"]
    right = held.predictions.classes() == np.load(record.path / "predictions.npz")["labels"]
    assert right.mean() == pytest.approx(held.claims.recorded)


@pytest.mark.parametrize("name", [*certify.FILES, certificate.SAMPLES])
def test_a_changed_part_is_named_with_both_hashes(results, name):
    held = certificate.read(file_of(results))
    part = held.parts[name]
    path = results / part.path
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    got = certificate.digest(content)
    found = wrong(file_of(results))
    assert list(found) == [name]
    assert part.sha256 in found[name]
    assert got in found[name]


def test_a_missing_part_is_named(results):
    (run_of(results).path / NETWORK).unlink()
    (said,) = wrong(file_of(results)).values()
    assert said.startswith("missing: expected runs/tiny/")


def test_every_changed_byte_of_an_archive_is_noticed(made, tmp_path):
    """A prime step visits every kind of byte: headers, names, parts, directory."""
    content = file_of(made, "zip").read_bytes()
    path = tmp_path / "changed.zip"
    for place in range(0, len(content), 101):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        try:
            with certificate.opened(path) as held:
                assert held.faults(), place
        except CertificateError:
            pass


def test_a_changed_certificate_is_noticed(results):
    path = file_of(results)
    path.write_text(path.read_text().replace('"tiny"', '"tidy"', 1))
    assert "was changed: certificate.json has sha256" in wrong(path)["certificate.json"]


@pytest.mark.parametrize("content", [b"", b"{}", b"PK", b"\x00" * 99, b'{"sha256": "%s"}'])
def test_another_file_is_no_certificate(tmp_path, content):
    path = tmp_path / "other.json"
    path.write_bytes(content)
    assert "not a certificate" in wrong(path)["certificate.json"]
    assert verdict(path).verdict == certified.INVALID


def test_false_claims_under_right_hashes_are_found(results):
    """Whoever rewrites the hash of a certificate is refuted by the packed file."""
    path = file_of(results)
    claimed = certificate.read(path).claims
    for field, value in {"recorded": 0.99, "stored_bits": 100, "commit": "0" * 40}.items():
        rewritten(path, claims=claimed.model_copy(update={field: value}))
        said = wrong(path)["record and sizes"]
        assert f"{field}: certified {value!r}, got" in said


def test_predicted_classes_may_differ_by_one_in_a_thousand(results):
    """One of 397 may be a near tie that rounding decides; two are an error."""
    path = file_of(results)
    classes = certificate.read(path).predictions.classes()
    for others, is_wrong in ((1, False), (2, True)):
        changed = classes.copy()
        changed[:others] = (changed[:others] + 1) % 10
        rewritten(path, predictions=certificate.predicted(changed))
        assert ("native" in wrong(path)) == is_wrong


def test_other_data_is_noticed(results, monkeypatch):
    """One test image differs: it is counted, and accepted only where that is asked for."""
    read = digits.Digits.read

    def other(self):
        train_split, (x, y) = read(self)
        x = x.clone()
        x[5] = 1 - x[5]
        return train_split, (x, y)

    monkeypatch.setattr(digits.Digits, "read", other)
    said = wrong(file_of(results))
    assert list(said) == ["data"]
    assert said["data"].startswith("1 of 397 test samples are others than the certified ones")
    assert wrong(file_of(results), other_samples=1) == {}


def test_without_the_data_hashes_and_sizes_are_verified(results, monkeypatch):
    """It is said, and it is no pass."""

    def missing(self):
        raise ValueError("digits not found under data")

    monkeypatch.setattr(_base.TensorDataModule, "setup", missing)
    found = verdict(file_of(results))
    assert found.verdict == certified.UNCHECKED
    for need_data, failed in ((False, 0), (True, 1)):
        options = certified.Options(need_data=need_data)
        assert certified.run([file_of(results)], options)["failed"] == failed
    assert "not on this machine, nothing is inferred: digits not found" in str(found)


def test_numpy_alone_is_enough_if_it_computes_all(results, monkeypatch):
    """On a machine without the native library; some samples are not enough."""

    def unavailable(*args, **options):
        raise NativeUnavailable("no library here")

    monkeypatch.setattr(verify, "Executor", unavailable)
    assert verdict(file_of(results)).verdict == certified.VERIFIED
    assert verdict(file_of(results), numpy=10).verdict == certified.UNCHECKED


def test_runs_that_cannot_be_certified(results):
    """An edited score, and a run without a packed network or without a result."""
    record = run_of(results)
    store = RunStore(results)
    again = certify.Options(again=True)
    summary = read_json(record.path / "summary.json")
    write_atomic(record.path / "summary.json", summary | {"test/top1": 0.99})
    with pytest.raises(RecordError, match="does not give the recorded score"):
        certify.certify(store, run_of(results), again)
    (record.path / NETWORK).unlink()
    with pytest.raises(RecordError, match=r"no network\.safetensors"):
        certify.run(store, ["tiny"], again)
    (record.path / "summary.json").unlink()
    header = read_json(record.path / "run.json")
    write_atomic(record.path / "run.json", header | {"status": "interrupted"})
    with pytest.raises(ValueError, match="is not finished"):
        certify.run(store, [record.run_id], again)


def test_the_command_line(results, capsys):
    """verify takes a folder; its exit status is 1 where anything differs."""
    folder = str(results / "certificates")
    assert cli.main(["verify", folder, "--numpy", "20"]) == 0
    (run_of(results).path / "metrics.jsonl").write_text("")
    assert cli.main(["verify", folder]) == 1
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["wrong"] == {str(file_of(results)): ["metrics.jsonl"]}
    assert cli.main(["certify", "tiny", f"--results={results}"]) == 0
    assert "kept" in capsys.readouterr().out


def test_samples_are_told_apart():
    """By input and by label; a sample that one side lacks is another."""
    one, two = (bytes([n] * certificate.SAMPLE_BYTES) for n in (1, 2))
    assert claims.same_samples(one + two, one + one).tolist() == [True, False]
    assert claims.same_samples(one, one + two).tolist() == [True, False]


def committed():
    return certificate.found_in(ROOT / "results" / "certificates")


def test_committed_certificates_have_their_parts():
    """Hashes alone: `make arena-check` infers."""
    assert committed()
    for path in committed():
        with certificate.opened(path) as held:
            assert held.faults() == {}, path


def test_a_path_without_certificates_is_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no"):
        certified.run([tmp_path / "none.json"], certified.Options())
    with pytest.raises(ValueError, match="no certificates below"):
        certified.run([tmp_path], certified.Options())


def test_a_committed_certificate_is_verified_by_inference():
    """Of digits, which come with scikit-learn."""
    path = next(path for path in committed() if path.parent.name == "digits_certified")
    assert verdict(path, numpy=100).verdict == certified.VERIFIED
