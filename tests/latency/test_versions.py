"""Two versions of the packed executor compared: files, processes, gate, statistics, record."""

import json
import random
import shutil
import statistics
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

from tbn_bench import cli, native
from tbn_bench.config import make
from tbn_bench.latency import against, gate, version_worker, versions
from tbn_bench.records.store import RunStore, VersionsRecord
from tbn_bench.runs import verify


def _git(folder, *args):
    who = ["-c", "user.name=n", "-c", "user.email=e"]
    subprocess.run(["git", *who, *args], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A checkout whose first commit has no native sources, and whose second has them."""
    package = tmp_path / "tbn_bench"
    package.mkdir()
    (package / "__init__.py").write_text("OLD = True\n")
    _git(tmp_path, "init", "--quiet")
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "--quiet", "-m", "python alone")
    (tmp_path / "CMakeLists.txt").write_text("project(tbn_bench LANGUAGES NONE)\n")
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "--quiet", "-m", "native sources")
    monkeypatch.setattr(versions, "PACKAGE", package)
    return tmp_path


def test_a_revision_is_copied_and_the_working_tree_is_not_touched(repository, tmp_path_factory):
    """The old file comes from the commit, the own one from the folder with its changes."""
    (repository / "tbn_bench" / "__init__.py").write_text("OLD = False\n")
    commit = versions.commit_of("HEAD")
    old = versions.check_out(commit, tmp_path_factory.mktemp("old"))
    new = versions.copy_own(tmp_path_factory.mktemp("new"))
    texts = [(v.folder / "tbn_bench" / "__init__.py").read_text() for v in (old, new)]
    assert texts == ["OLD = True\n", "OLD = False\n"]
    assert old.name == commit[:7]


def test_an_unknown_revision_is_named(repository):
    with pytest.raises(versions.VersionError, match="unknown revision 'v9'"):
        versions.commit_of("v9")


def test_an_option_is_no_revision(repository):
    """git would take it for a flag."""
    with pytest.raises(versions.VersionError, match="unknown revision '--all'"):
        versions.commit_of("--all")


def test_a_revision_without_native_sources_names_the_first_with_them(repository):
    first = versions.commit_of("HEAD")[:7]
    with pytest.raises(versions.VersionError, match=rf"no CMakeLists.txt\).* is {first}"):
        versions.commit_of("HEAD~1")


def test_a_folder_without_git_is_no_checkout(tmp_path, monkeypatch):
    """Neither is a package inside the repository of something else."""
    monkeypatch.setattr(versions, "PACKAGE", tmp_path / "site-packages" / "tbn_bench")
    with pytest.raises(versions.VersionError, match="not a git checkout of tbn_bench"):
        versions.commit_of("HEAD")
    versions.PACKAGE.mkdir(parents=True)
    _git(tmp_path, "init", "--quiet")
    with pytest.raises(versions.VersionError, match="not a git checkout of tbn_bench"):
        versions.commit_of("HEAD")


def test_without_cmake_nothing_is_built(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(versions.VersionError, match="cmake is missing"):
        versions.build(versions.Version("abc", tmp_path))


@pytest.mark.skipif(shutil.which("cmake") is None, reason="no CMake here")
def test_without_a_compiler_the_version_is_refused(repository):
    """CMakeLists.txt then installs nothing, and no other library is taken."""
    (repository / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.20)\nproject(tbn_bench LANGUAGES NONE)\n"
    )
    with pytest.raises(versions.VersionError, match="no C\\+\\+17 compiler"):
        versions.build(versions.Version("abc", repository))


@pytest.mark.skipif(shutil.which("cmake") is None, reason="no CMake here")
def test_a_failed_build_says_what_failed(repository):
    (repository / "CMakeLists.txt").write_text('message(FATAL_ERROR "error: no such unit")\n')
    with pytest.raises(versions.VersionError, match="abc cannot be built: .*rror"):
        versions.build(versions.Version("abc", repository))


def test_a_version_that_cannot_be_driven_is_named(tmp_path):
    """Its package is imported, not this one, and what it lacks is named."""
    (tmp_path / "tbn_bench").mkdir()
    (tmp_path / "tbn_bench" / "__init__.py").touch()
    with pytest.raises(
        versions.VersionError, match="cannot drive abc: .* no Executor in tbn_bench"
    ):
        versions.Worker(versions.Version("abc", tmp_path), 1)


def test_a_process_that_ends_says_its_last_words(tmp_path):
    """A package that does not even import, for example."""
    (tmp_path / "torch.py").write_text("raise SystemExit('no torch for you')")
    with pytest.raises(versions.VersionError, match="process of abc ended: no torch for you"):
        versions.Worker(versions.Version("abc", tmp_path), 1)


@pytest.mark.parametrize("name", ["Executor", "pack_"])
def test_a_function_is_found_where_older_versions_had_it(monkeypatch, name):
    new, old = version_worker.PLACES[name]
    stub = types.SimpleNamespace(**{name: "found"})
    monkeypatch.setitem(sys.modules, old, stub)
    assert version_worker.find(name) != "found"
    monkeypatch.setitem(sys.modules, new, None)
    assert version_worker.find(name) == "found"
    monkeypatch.setitem(sys.modules, old, None)
    with pytest.raises(LookupError, match=f"no {name} in {new} or {old}"):
        version_worker.find(name)


def test_the_interval_of_a_median_by_hand():
    """Of 25 values, the 6th from either end: P(at most 5 below) is 0.2 %, at most 6 is 0.7 %."""
    assert against.median_interval([float(i) for i in range(25)]) == (5.0, 19.0)
    assert against.median_interval([1.0] * 7) is None


def test_the_interval_holds_the_median_as_often_as_it_says():
    """Of a skewed distribution, in 99 % of 2,000 samples: at most 40 misses (P < 1e-4)."""
    rng = random.Random(0)
    misses = 0
    for _ in range(2000):
        found = against.median_interval([rng.expovariate(1.0) for _ in range(25)])
        misses += not found[0] <= np.log(2) <= found[1]
    assert misses <= 40


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.9, 0.99, "slower"),
        (1.01, 1.2, "faster"),
        (0.99, 1.01, "no difference shown"),
        (1.0, 1.2, "no difference shown"),
    ],
)
def test_a_verdict_needs_the_whole_interval(low, high, said):
    assert against.verdict(low, high) == said


class FakeWorker:
    """A version that adds `wrong` to each output and takes `time_ms` per call."""

    def __init__(self, name, time_ms, wrong=0.0, unavailable=None, waited_s=0.0):
        self.version = versions.Version(name, None)
        self.time_ms, self.wrong, self.waited_s = time_ms, wrong, waited_s
        self.unavailable = unavailable
        self.asked = []

    def ask(self, do, **request):
        self.asked.append(do)
        if do == "open":
            if self.unavailable:
                return {"unavailable": self.unavailable}
            np.save(request["out"], np.ones((2, 3), np.float32) + np.float32(self.wrong))
            return {"level": "avx2", "torch_nodes": []}
        if do == "time":
            return {"time_ms": self.time_ms, "waited_s": self.waited_s}
        return {}


NETWORK = against.Network("net", "tbn(p=4)", (3,), {})


def _compared(tmp_path, old, new, threads=1):
    pair = against._Pair(old, new, tmp_path, threads, random.Random(0))
    return against.compare(pair, NETWORK, 2)


def test_a_version_of_twice_the_time_is_slower(tmp_path, capsys):
    """Ratio, interval and verdict, in the table too. The older version packs the network."""
    old, new = FakeWorker("abc", 2.0), FakeWorker("this version", 4.0)
    rows = _compared(tmp_path, old, new)
    assert [(row.ratio, row.ratio_high, row.n, row.verdict) for row in rows] == [
        (0.5, 0.5, 25, "slower")
    ] * 2
    assert ["save" in worker.asked for worker in (old, new)] == [True, False]
    assert "0.500 to 0.500  25  slower" in capsys.readouterr().out


def test_versions_that_differ_are_not_timed(tmp_path):
    """Above the tolerance of the suites: 1e-5 of the largest value in float32."""
    old, new = FakeWorker("abc", 2.0), FakeWorker("this version", 2.0, wrong=1e-4)
    with pytest.raises(gate.ParityError, match="this version and abc differ by 1.00e-04"):
        _compared(tmp_path, old, new)
    assert "time" not in old.asked + new.asked


def test_what_one_version_lacks_is_a_row_that_says_so(tmp_path, capsys):
    old = FakeWorker("abc", 2.0, unavailable="no precision a14")
    rows = _compared(tmp_path, old, FakeWorker("this version", 2.0))
    assert {row.unavailable for row in rows} == {"abc: no precision a14"}
    assert [row.verdict for row in rows] == [None, None]
    assert "abc: no precision a14" in capsys.readouterr().out


def test_disturbed_rounds_of_several_threads_do_not_count(tmp_path):
    """One thread has its own clock; several must not wait for a processor."""
    workers = [FakeWorker("abc", 2.0, waited_s=1.0), FakeWorker("this version", 2.0)]
    assert [row.n for row in _compared(tmp_path, *workers, threads=1)] == [25, 25]
    rows = _compared(tmp_path, *workers, threads=2)
    assert {row.unavailable.partition(";")[0] for row in rows} == {
        "too few rounds without other load"
    }


def test_networks_of_configs_come_once_each():
    """The lowest seed of each; what binarizes inputs is known before any version is asked."""
    common = {"data": "digits", "model": "mlp(hidden=[8])"}
    specs = [("bwn", 1), ("bwn", 0), ("xnor", 0)]
    configs = [make(common | {"binarizer": spec, "seed": seed}) for spec, seed in specs]
    bwn, xnor = against.of_configs(configs)
    assert (bwn.request["seed"], bwn.in_shape) == (0, (1, 8, 8))
    assert [n.request["binarizes_inputs"] for n in (bwn, xnor)] == [False, True]
    assert bwn.request["given"]["num_classes"] == 10
    json.dumps(xnor.request)


@pytest.fixture
def own_version(tmp_path):
    """This version with the installed library in its copy: nothing is compiled."""
    folder = tmp_path / "version"
    folder.mkdir()
    version = versions.copy_own(folder)
    try:
        library = native.library_path()
    except native.NativeUnavailable:
        pytest.skip("no native library here")
    shutil.copy(library, folder / "tbn_bench" / "native")
    return version


def test_a_version_compared_with_itself(own_version, tmp_path):
    """Two processes, one packed file: equal outputs, and times of real calls."""
    torch.save(nn.Sequential(nn.Linear(32, 16)), tmp_path / "layer.pt")
    request = against._request("tbn(p=4, min_layer_size=0)", (), 0)
    network = against.Network(
        "layer", "tbn(p=4)", (32,), request | {"layer": str(tmp_path / "layer.pt")}
    )
    with versions.Worker(own_version, 1) as old, versions.Worker(own_version, 1) as new:
        pair = against._Pair(old, new, tmp_path, 1, random.Random(0))
        row = against.compare(pair, network, 2)[0]
    assert (row.unavailable, row.relative_error, row.n) == (None, 0.0, 25)
    assert 0 < row.old_ms < 1e3
    assert row.ratio_low <= row.ratio <= row.ratio_high


def test_a_record_is_kept_beside_those_of_latency_and_verified(tmp_path):
    """Timings do not see it, reports neither; verify names a damaged one."""
    store = RunStore(tmp_path)
    row = {"model": "m", "binarizer": "bwn", "precision": "f32", "batch": 1, "n": 25}
    info = {"suite": "s", "old_commit": "abc", "threads": 1, "batch": 1}
    record = VersionsRecord("s-against-abc-b1-t1", "cpu", [row], info)
    path = store.write_versions(record)
    assert path == tmp_path / "latency" / "cpu" / "versions" / "s-against-abc-b1-t1.json"
    assert ([*store.versions()], [*store.latencies()]) == ([record], [])
    path.write_text(path.read_text().replace('"batch": 1', '"batch": 0', 1))
    (fault,) = verify._measurements(store)
    assert str(path) in str(fault)


def test_an_interruption_keeps_the_rows_of_the_networks_before_it(tmp_path):
    """A record per batch size, written after each network, with what makes it again."""
    old, new = FakeWorker("abc", 2.0), FakeWorker("this version", 2.0)
    pair = against._Pair(old, new, tmp_path, 1, random.Random(0))
    comparison = against._Comparison("linear", "abcdef012", 1, "tbn-bench latency", tmp_path)
    broken = against.Network("net", "bwn", (3,), {"never": object()})
    old.ask = lambda do, _ask=old.ask, **r: json.dumps(r.get("network")) and _ask(do, **r)
    with pytest.raises(TypeError):
        against._all_compared(pair, [NETWORK, broken], [2], comparison)
    (record,) = RunStore(tmp_path).versions()
    assert record.case == "linear-against-abcdef0-b2-t1"
    assert [row["precision"] for row in record.rows] == ["f32", "a14"]
    assert record.provenance["command"].endswith("latency --batch 2 --against abcdef0")


def test_against_refuses_a_gpu_and_an_unknown_suite(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for flags, said in (
        (["--suite", "linear", "--device", "cuda"], "use --device cpu"),
        (["--suite", "nothing"], "there is no sweeps/nothing.yaml"),
    ):
        assert cli.main(["latency", *flags, "--against", "HEAD"]) == 1
        assert said in capsys.readouterr().err


def test_the_summary_counts_verdicts(capsys):
    rows = [
        against.Row("m", "bwn", "f32", 1, ratio=ratio, verdict=said)
        for ratio, said in ((0.5, "slower"), (2.0, "faster"))
    ]
    rows.append(against.Row("m", "bwn", "a14", 1, unavailable="none"))
    found = against._summary(rows)
    counts = (found["slower"], found["faster"], found["no_difference_shown"])
    assert (found["rows"], counts) == (2, (1, 1, 0))
    assert found["ratio"] == pytest.approx(statistics.geometric_mean([0.5, 2.0]))
    assert "2 of 3 rows timed: 1 slower, 1 faster" in capsys.readouterr().out
