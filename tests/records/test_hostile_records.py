"""Guards readers of records: a bad one is named and costs its own row, in every command that reads all."""

import json
import os
import zlib
from pathlib import Path

import generated_runs
import pytest

from tbn_bench import cli
from tbn_bench.config import make
from tbn_bench.records.files import RecordError
from tbn_bench.records.store import LatencyRecord, McuRecord, RunStore
from tbn_bench.reporting import build, figures, tables, write
from tbn_bench.reporting.load import load
from tbn_bench.runs import index
from tbn_bench.runs.lock import taken

ROOT = Path(__file__).parents[2]
GOOD = [make({"epochs": 3, "binarizer": spec}) for spec in ("bwn", "tbn(p=4)")]
BAD = make({"epochs": 3, "seed": 7})
TIMED = {"binarizer": "bwn", "implementation": "cpu", "run_id": None, "weight_bytes": 10, "unavailable": None,
         "time_ms_p20": 1.0, "time_ms_p50": 2.0, "time_ms_p80": 3.0, "n": 31, "ratio": 1.5, "ratio_p20": 1.4, "ratio_p80": 1.6}  # fmt: skip
CASE = {
    "data": None,
    "model": "linear",
    "sweep": None,
    "batch": 1,
    "threads": 1,
    "clock": "wall",
    "baseline": "dense",
}
NESTED = b"[" * 100_000 + b"]" * 100_000
FILES = ("run.json", "summary.json", "metrics.jsonl")


@pytest.fixture
def store(tmp_path):
    """Two good runs and one to be spoilt, in one sweep."""
    found = RunStore(tmp_path / "results")
    for config in (*GOOD, BAD):
        generated_runs.write(found.root, config, "s")
    return found


def changed(file, **values):
    """Plants values into the record in `file`; a dotted name is of an inner object."""

    def plant(folder):
        record = json.loads((folder / file).read_text())
        for name, value in values.items():
            *above, last = name.split(".")
            inner = record
            for key in above:
                inner = inner[key]
            inner[last] = value
        (folder / file).write_text(json.dumps(record))

    return plant


def row(content):
    """Plants a second line into the metrics."""

    def plant(folder):
        path = folder / "metrics.jsonl"
        first, _, *rest = path.read_text().splitlines()
        path.write_text("\n".join([first, content, *rest]) + "\n")

    return plant


def in_text(file, old, new):
    def plant(folder):
        text = (folder / file).read_text()
        assert old in text
        (folder / file).write_text(text.replace(old, new, 1))

    return plant


def content(file, data):
    return lambda folder: (folder / file).write_bytes(data)


def pipe(file):
    def plant(folder):
        (folder / file).unlink()
        os.mkfifo(folder / file)

    return plant


def link(file, target):
    def plant(folder):
        (folder / file).unlink()
        (folder / file).symlink_to(target)

    return plant


SUMMARY = {
    "score NaN": changed("summary.json", **{"test/top1": "NaN"}),
    "score text": changed("summary.json", **{"test/top1": "good"}),
    "score true": changed("summary.json", **{"test/top1": True}),
    "score null list": changed("summary.json", **{"test/top1": [None]}),
    "score of 7": changed("summary.json", **{"test/top1": 7}),
    "score of 1e400": in_text("summary.json", '"test/top1": 0.', '"test/top1": 1e400, "x": 0.'),
    "bare NaN": in_text("summary.json", '"test/loss": 0.5', '"test/loss": NaN'),
    "loss text": changed("summary.json", **{"test/loss": "low"}),
    "unknown score": changed("summary.json", score="f1"),
    "bits below 0": changed("summary.json", stored_bits=-1),
    "huge integer": in_text("summary.json", '"weights": 740', '"weights": 740, "x": ' + "9" * 400),
    "plan of numbers": changed("summary.json", plan=[1]),
    "plan text": changed("summary.json", plan="x"),
    "plan of a nameless bit": changed("summary.json", plan=[{}]),
    "lone surrogate": in_text("summary.json", '"W1A32"', '"\\ud800"'),
}
HEADER = {
    "config list": changed("run.json", config=[1]),
    "config null": changed("run.json", config=None),
    "config of objects": changed("run.json", **{"config.keep": {"a": 1}}),
    "nested call": changed("run.json", **{"config.binarizer": "-" * 50_000 + "x"}),
    "provenance null": changed("run.json", provenance=None),
    "provenance text": changed("run.json", provenance="x"),
    "hardware text": changed("run.json", **{"provenance.hardware": "a fast one"}),
    "versions list": changed("run.json", **{"provenance.versions": [1]}),
    "unknown status": changed("run.json", status="done"),
    "error object": changed("run.json", error={"a": 1}),
    "no object": content("run.json", b"[1]"),
}
ROWS = {
    "row no object": row("3"),
    "row text": row('"epoch"'),
    "row of a text loss": row('{"epoch": 1, "train/loss": "low"}'),
    "row of a text epoch": row('{"epoch": "one"}'),
    "row of a list": row('{"epoch": 1, "val/top1": [0.5]}'),
    "row of 7": row('{"epoch": 1, "val/top1": 7}'),
}
ANY_FILE = {
    f"{name} {file}": plant(file)
    for file in FILES
    for name, plant in {
        "nested": lambda file: content(file, NESTED + b"\n"),
        "no text": lambda file: content(file, b"\xff\xfe\n"),
        "pipe": pipe,
        "device": lambda file: link(file, "/dev/zero"),
        "loop": lambda file: link(file, file),
    }.items()
}
HOSTILE = SUMMARY | HEADER | ROWS | ANY_FILE


@pytest.mark.parametrize("name", HOSTILE)
def test_a_bad_record_is_named_and_costs_its_own_row(store, name):
    """What a report reads: the two good runs, and one problem that names the folder of the bad."""
    folder = store.path("s", BAD.run_id)
    HOSTILE[name](folder)
    found = load(store.root)
    kept = set(found.runs["run_id"])
    assert kept == {config.run_id for config in GOOD}
    assert [str(folder) in problem for problem in found.problems] == [True]


@pytest.mark.parametrize("name", HOSTILE)
def test_runs_lists_the_others_beside_a_bad_record(store, name, capsys):
    """`runs` names what it cannot read, and ends with status 0. Rows and the config's meaning it does
    not look at."""
    HOSTILE[name](store.path("s", BAD.run_id))
    for _ in range(2):  # by the records, then by the index
        assert cli.main(["runs", "--results", str(store.root), "--columns", "run_id"]) == 0
        out, err = capsys.readouterr()
        for config in GOOD:
            assert config.run_id in out
        seen = name in ROWS or "metrics" in name or name in ("unknown score", "nested call")
        assert (BAD.run_id in out) == seen
        assert (BAD.run_id in err) != seen


@pytest.mark.parametrize("where", ["runs", "runs/s", "latency", "mcu"])
def test_a_loop_of_links_is_no_end_and_no_error(store, where):
    """As a folder of runs, of sweeps or of measurements: named where a record should lie."""
    (store.root / where).mkdir(exist_ok=True)
    (store.root / where / "loop").symlink_to("loop")
    (store.root / where / "up").symlink_to(store.root, target_is_directory=True)
    problems = []
    assert len([*store.runs(problems), *store.latencies(problems), *store.mcus(problems)]) == 3
    assert any("loop" in problem for problem in problems)


def test_a_folder_whose_name_is_no_text_is_named(store):
    """Its bytes could be neither printed nor written into a page."""
    os.mkdir(os.fsencode(store.root) + b"/runs/\xff")
    os.mkdir(os.fsencode(store.root) + b"/runs/s/\xfe")
    problems = []
    assert len(list(store.runs(problems))) == 3
    assert len(problems) == 2
    assert "\\udcff" in problems[0]
    "".join(problems).encode()


LATENCY = {
    "rows text": {"rows": "x"},
    "row text": {"rows": ["x"]},
    "no binarizer": {"rows": [{"implementation": "cpu"}]},
    "binarizer": {"rows": [TIMED | {"binarizer": "tbn(p=4"}]},
    "binarizer number": {"rows": [TIMED | {"binarizer": 4}]},
    "time text": {"rows": [TIMED | {"time_ms_p50": "fast"}]},
    "time NaN": {"rows": [TIMED | {"time_ms_p50": "NaN"}]},
    "time of 0": {"rows": [TIMED | {"time_ms_p50": 0}]},
    "case list": {"case": [1]},
    "case_info list": {"case_info": [1]},
    "threads": {"case_info": CASE | {"threads": 0}},
    "ceilings": {"case_info": CASE | {"ceilings": {"read_gb_s": {"much": 1.0}}}},
    "provenance": {"provenance": None},
    "unknown": {"extra": 1},
    "version": {"schema_version": 2},
}


@pytest.mark.parametrize("name", LATENCY)
def test_a_bad_timing_is_named_and_costs_its_own_rows(store, name):
    """The file is in the message, also where a binarizer cannot be parsed."""
    path = store.write_latency(LatencyRecord("good", "cpu", [TIMED], CASE, {"command": "c"}))
    bad = path.with_name("bad.json")
    bad.write_text(json.dumps(json.loads(path.read_text()) | {"case": "bad"} | LATENCY[name]))
    found = load(store.root)
    assert list(found.latency["case"]) == ["good"]
    assert [str(bad) in problem for problem in found.problems] == [True]


def test_a_bad_measurement_of_a_microcontroller_is_named(store):
    """A binarizer that is no call, and a number that is text."""
    info = dict.fromkeys(
        ("data", "model", "binarizer", "activations", "target", "core", "sim"), "x"
    )
    store.write_mcu(McuRecord("good", "m4", info))
    store.write_mcu(McuRecord("call", "m4", info | {"binarizer": "tbn(p"}))
    store.write_mcu(McuRecord("text", "m4", info | {"flash_bytes": "many"}))
    problems = []
    assert [record.case for record in store.mcus(problems)] == ["good"]
    assert ["call.json" in problems[0], "text.json" in problems[1]] == [True, True]


def test_every_committed_record_is_read():
    """Records of every version so far stay readable: nothing under results/ is refused, also strictly."""
    store = RunStore(ROOT / "results")
    problems = []
    kinds = {
        "runs/*/*/run.json": store.runs,
        "latency/*/*.json": store.latencies,
        "latency/*/versions/*.json": store.versions,
        "mcu/*/*.json": store.mcus,
    }
    for files, read in kinds.items():
        assert len(list(read(problems))) == len(list(store.root.glob(files)))
    assert problems == []
    assert load(store.root).problems == []


SPARSE = {
    "plan without parts": changed(
        "summary.json", plan=[{"numel": 4, "stored_bits": 4, "binarized": False}]
    ),
    "diverged on the test set": changed("summary.json", **{"test/loss": "NaN"}),
    "no loss": changed("summary.json", **{"test/loss": None}),
    "ended at no time": changed("run.json", ended="one day"),
    "bare provenance": changed("run.json", provenance={"trial": None}),
    "package not installed": changed("run.json", **{"provenance.versions": {"timm": None}}),
}


@pytest.mark.parametrize("name", SPARSE)
def test_a_sparse_record_is_read(store, name):
    """What no reader computes with may be missing or odd; a report has the run, and all its tables and figures."""
    SPARSE[name](store.path("s", GOOD[1].run_id))
    found = load(store.root)
    assert (len(found.runs), found.problems) == (3, [])
    build_all(found)


def build_all(records):
    """Table by name, as Markdown. Figures are framed."""
    made = {name: getattr(module, name)(records) for name, module in build.entries(tables)}
    for _, module in build.entries(figures):
        module.frame(records)
    return {name: write.markdown(table) for name, table in made.items() if table is not None}


MEASURED = (
    "gpu_resting_bytes",
    "memory_peak",
    "time_ms_p20",
    "time_ms_p50",
    "time_ms_p80",
    "n",
    "ratio",
    "weight_bytes",
    "tile_macs",
)

MEMORY = ("memory_peak", "gpu_resting_bytes", "gpu_peak_bytes")


@pytest.mark.parametrize("name", [*MEASURED, "batch", "threads", "model", "clock"])
def test_a_sparse_timing_is_read(store, name):
    """One number of all methods is not known: a dash stands for it, and a ceiling is not drawn.

    Beside it a whole record is shown, and neither says its command where the other does.
    """
    ceilings = {"lookup_gmacs": 100.0, "read_gb_s": {"8 MB": 50.0}}
    info = CASE | {"data": "digits", "cache": "hot", "ceilings": ceilings}
    specs = ("full_precision", "bwn", "tbn(p=4)", "tbn(p=8)")
    own = (
        TIMED
        | {"implementation": "native", "tolerance": 1e-5, "tile_macs": 1000}
        | dict.fromkeys(MEMORY, 1000)
    )
    ids = {config.binarizer: config.run_id for config in (*GOOD, BAD)}
    rows = [own | {"binarizer": spec, "run_id": ids.get(spec)} for spec in specs]
    sparse = [{key: value for key, value in row.items() if key != name} for row in rows]
    bare = {key: value for key, value in info.items() if key != name}
    store.write_latency(LatencyRecord("sparse", "cpu", sparse, bare))
    alone = build_all(load(store.root))
    assert ("kernels" in alone) == (name not in ("threads", "time_ms_p50"))
    store.write_latency(LatencyRecord("whole", "cpu", rows, info, {"command": "tbn-bench latency"}))
    found = load(store.root)
    assert (len(found.latency), found.problems) == (8, [])
    assert "kernels" in build_all(found)


def test_special_numbers_of_a_diverged_run_are_numbers(store):
    """ "NaN" and "Infinity" of a row are what the writer means by them, and no text in a column."""
    path = store.path("s", BAD.run_id)
    row('{"epoch": 1, "train/loss": "NaN", "val/loss": "Infinity"}')(path)
    curves = load(store.root).curves
    own = curves[curves["run_id"] == BAD.run_id]
    assert own["train/loss"].dtype == float
    assert own["train/loss"].isna().tolist() == [False, True, False]
    assert own["val/loss"].tolist()[1] == float("inf")


def test_a_run_that_says_finished_without_a_summary_is_unreadable(store):
    (store.path("s", BAD.run_id) / "summary.json").unlink()
    with pytest.raises(RecordError, match="it says finished, and there is no summary.json"):
        store.read("s", BAD.run_id)


@pytest.mark.parametrize(
    ("target", "status"),
    [(None, "dead"), ("/dev/zero", "dead"), ("owner.lock", "running")],
    ids=["pipe", "device", "loop"],
)
def test_a_lock_that_is_no_file_keeps_nobody_waiting(store, target, status):
    """Who asks for a run gets an answer at once; "running" where it cannot be told."""
    folder = store.path("s", BAD.run_id)
    change = pipe if target is None else lambda file: link(file, target)
    (folder / "owner.lock").write_text("")
    change("owner.lock")(folder)
    changed("run.json", status="running")(folder)
    (folder / "summary.json").unlink()
    (row,) = [row for row in index.rows(store) if row["run_id"] == BAD.run_id]
    assert row["status"] == status
    with taken(folder):
        pass


def test_a_ledger_that_is_a_pipe_is_named(store):
    (store.root / "published").mkdir()
    os.mkfifo(store.root / "published" / "p.csv")
    found = load(store.root)
    assert [("p.csv" in problem, "it is no file" in problem) for problem in found.problems] == [
        (True, True)
    ]


def test_a_crafted_index_is_not_believed(store):
    """A row of another run under this run's name: `runs prune` would delete what it names."""
    index.rows(store)
    path = store.root / index.NAME
    cache = json.loads(path.read_text())
    cache["runs"] = cache["runs"].replace(f'"run_id":"{BAD.run_id}"', '"run_id":"../../x"')
    cache["crc32"] = zlib.crc32(cache["runs"].encode())
    path.write_text(json.dumps(cache))
    assert {row["run_id"] for row in index.rows(store)} == {c.run_id for c in (*GOOD, BAD)}


def test_a_report_of_strange_names_and_options(tmp_path):
    """Mathematics for matplotlib, options that are no numbers: every file of the report is written."""
    root = tmp_path / "results"
    strange = (
        "tbn(p='$x^{$')",
        "tbn(p=[4, 8])",
        "tbn(per_layer={'a': 1})",
        "tbn(p=-4)",
        "bwn(x='$\\\\frac$')",
    )
    for k, spec in enumerate(("full_precision", *strange)):
        generated_runs.write(root, make({"epochs": 3, "binarizer": spec}), r"$\frac{1}{$ $x$")
        generated_runs.write(root, make({"epochs": 3, "binarizer": spec, "seed": k}), "second")
    RunStore(root).write_latency(LatencyRecord("$a$$", "cpu", [TIMED], CASE | {"model": "$m_{$"}))
    done = build.report(root, tmp_path / "out")
    assert (done["unreadable"], done["runs"]) == (0, 12)
    assert list((tmp_path / "out" / "figures" / "accuracy_bits").glob("*.svg"))
