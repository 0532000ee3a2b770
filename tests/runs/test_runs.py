"""Guards `tbn-bench runs`: what is listed, compared and followed is what the records say.

Faults are named; nothing live is deleted.
"""

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import zlib
from contextlib import contextmanager
from pathlib import Path

import generated_runs
import pytest

from tbn_bench import cli, fingerprint
from tbn_bench.config import make
from tbn_bench.records import files
from tbn_bench.records.files import RecordError
from tbn_bench.records.run import RunBusy
from tbn_bench.records.store import RunStore
from tbn_bench.runs import faults, filters, index, lock, prune, seeds, text

ROOT = Path(__file__).parents[2]

# Holds a run, logs an epoch at a word on stdin, finishes at the end of it.
WRITER = """
import sys
sys.path.insert(0, "tests")
import generated_runs
from tbn_bench.config import make
from tbn_bench.records.store import RunStore
config = make({"epochs": 3})
run = RunStore(sys.argv[1]).claim("live", config.run_id, config.model_dump(mode="json"), generated_runs.provenance(config))
print("held", flush=True)
for row, word in zip(generated_runs.rows(config), sys.stdin):
    run.log(row, durable=True)
run.finish(generated_runs.summary(config))
"""


@pytest.fixture
def store(tmp_path):
    """In a folder whose name must survive quoting and globbing."""
    return RunStore(tmp_path / "results of [ä] *")


def finish(store, sweep="s", **values):
    """A finished run, through the store's own writer."""
    config = make({"epochs": 3, **values})
    run = store.claim(
        sweep, config.run_id, config.model_dump(mode="json"), generated_runs.provenance(config)
    )
    for row in generated_runs.rows(config):
        run.log(row)
    run.finish(generated_runs.summary(config))
    return store.path(sweep, config.run_id)


def end(store, status, error="why", sweep="s", **values):
    config = make(values)
    run = store.claim(
        sweep, config.run_id, config.model_dump(mode="json"), generated_runs.provenance(config)
    )
    run.fail(status, error)
    return run.path


@contextmanager
def holding(store, **values):
    """A run that this process holds."""
    config = make(values)
    run = store.claim(
        "s", config.run_id, config.model_dump(mode="json"), generated_runs.provenance(config)
    )
    try:
        yield run
    finally:
        run.release()


def dead(store, **values):
    """A run whose process was killed: it says running, and nobody holds it."""
    with holding(store, **values) as run:
        return run.path


@pytest.fixture
def call(store, capsys):
    """call("show", RUN, ...) -> (exit status, lines of stdout without the last, the last line's
    object, stderr).
    """

    def run(*argv):
        try:
            code = cli.main(["runs", *argv, f"--results={store.root}"])
        except SystemExit as error:
            code = error.code
        out, err = capsys.readouterr()
        *lines, last = out.splitlines() or [""]
        return code, lines, json.loads(last) if last else None, err

    return run


def change(path, **values):
    """Edits a JSON file: other values, or without the key where one is None."""
    content = json.loads(path.read_text()) | values
    path.write_text(
        json.dumps({k: v for k, v in content.items() if v is not None or k not in values}, indent=1)
    )


def keys(rows):
    return [f"{row['sweep']}/{row['run_id']}" for row in rows]


def read_paths(monkeypatch):
    """Run ids that RunStore.read is asked for, from now on."""
    asked, read = [], RunStore.read
    monkeypatch.setattr(
        RunStore,
        "read",
        lambda self, sweep, run_id: asked.append(run_id) or read(self, sweep, run_id),
    )
    return asked


# The index


def test_rows_say_what_the_records_say(store):
    """Config with its defaults, status, score, summary and source of each run.

    Dead where nobody holds a running one.
    """
    path = finish(store, binarizer="tbn(p=4)", seed=2, keep=["a", "b"])
    end(store, "diverged", "nan", seed=1)
    dead(store, seed=5)
    found = {row["run_id"]: row for row in index.rows(store)}
    done = found[path.name]
    assert (done["binarizer"], done["keep"], done["lr"], done["seed"]) == (
        "tbn(p=4)",
        "a,b",
        0.1,
        2,
    )
    assert (done["status"], done["score"], done["value"], done["track"], done["torch"]) == (
        "finished",
        "top1",
        0.88,
        "W1A32",
        "2.15.0",
    )
    assert (
        done["group_id"] == make({"epochs": 3, "binarizer": "tbn(p=4)", "keep": ["a", "b"]}).run_id
    )
    assert "plan" not in done
    assert sorted((row["status"], row.get("error"), row.get("value")) for row in found.values())[
        :2
    ] == [
        ("dead", None, None),
        ("diverged", "nan", None),
    ]


def test_a_second_look_reads_no_record(store, monkeypatch):
    """Rows from the cache are the rows from the records."""
    for seed in range(3):
        finish(store, seed=seed)
    first = index.rows(store)
    asked = read_paths(monkeypatch)
    assert index.rows(store) == first
    assert asked == []


@pytest.mark.parametrize("what", ["status", "summary", "same size", "new", "gone", "sweep gone"])
def test_what_changed_is_read_again_and_nothing_else(store, monkeypatch, what):
    """The cached rows equal those of an empty cache after each kind of change."""
    path, other = finish(store, seed=1), end(store, "failed", seed=2, sweep="t")
    index.rows(store)
    if what == "status":
        change(other / "run.json", status="interrupted")
    elif what == "summary":
        files.write_atomic(other / "summary.json", json.loads((path / "summary.json").read_text()))
    elif what == "same size":
        time_ns = (other / "run.json").stat().st_mtime_ns
        (other / "run.json").write_text((other / "run.json").read_text().replace('"why"', '"who"'))
        os.utime(other / "run.json", ns=(time_ns, time_ns + 1))
    elif what == "new":
        finish(store, seed=3)
    else:
        for file in other.iterdir():
            file.unlink()
        other.rmdir()
        if what == "sweep gone":
            other.parent.rmdir()
    asked = read_paths(monkeypatch)
    cached = index.rows(store)
    assert len(asked) == (0 if "gone" in what else 1)
    (store.root / "index.json").unlink()
    assert cached == index.rows(store)
    assert len(cached) == {"new": 3, "gone": 1, "sweep gone": 1}.get(what, 2)


def _cut(content):
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"", _cut, lambda _: b"[1, 2]", lambda _: b"{}", lambda _: b"\xff\0", lambda c: c.replace(b"finished", b"finishes"),
        lambda c: c.replace(b'"format": "', b'"format": "9'), lambda c: json.dumps(json.loads(c) | {"runs": 3}).encode(),
        lambda c: json.dumps(json.loads(c) | {"crc32": None}).encode(),
    ],
    ids=["empty", "cut", "list", "object", "no text", "flipped", "other version", "no rows", "no sum"],
)  # fmt: skip
def test_a_damaged_cache_is_made_anew(store, damage):
    """Whatever lies there: the rows are those of the records, and the cache is good again."""
    finish(store)
    first, path = index.rows(store), store.root / "index.json"
    good = path.read_bytes()
    path.write_bytes(damage(good))
    assert index.rows(store) == first
    assert path.read_bytes() == good


def test_other_defaults_make_another_cache(store, monkeypatch):
    """Defaults fill the rows: those of another version must not."""
    finish(store)
    index.rows(store)
    monkeypatch.setattr(index, "_FORMAT", "another")
    asked = read_paths(monkeypatch)
    index.rows(store)
    assert len(asked) == 1


def test_without_a_writable_folder_there_is_no_cache(store, monkeypatch):
    """A file or folder in its place, or a full disk, cost nothing but time.

    An empty folder gets no cache.
    """
    assert index.rows(store) == []
    assert not store.root.exists()
    finish(store)
    (store.root / "index.json").mkdir()
    assert len(index.rows(store)) == len(index.rows(store)) == 1
    monkeypatch.setattr(
        files.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    (store.root / "index.json").rmdir()
    assert len(index.rows(store)) == 1
    assert [path.name for path in store.root.iterdir()] == ["runs"]


def test_unreadable_runs_are_named_and_not_cached(store):
    """Each look names them; without a list for them the first one is raised.

    A repaired one is back.
    """
    path = finish(store)
    whole = (path / "run.json").read_text()
    (path / "run.json").write_text(whole[:40])
    for _ in range(2):
        problems = []
        assert index.rows(store, problems) == []
        assert [str(path / "run.json") in problem for problem in problems] == [True]
    with pytest.raises(RecordError, match=r"run\.json"):
        index.rows(store)
    (path / "run.json").write_text(whole)
    assert len(index.rows(store)) == 1


def test_processes_at_once_do_not_break_the_cache(tmp_path):
    """Four readers and writers of one cache while runs come: each sees whole rows, and the last
    cache is right.
    """
    code = (
        "import sys\nfrom tbn_bench.runs import index\nfrom tbn_bench.records.store import RunStore\n"
        "for _ in range(40): assert len(index.rows(RunStore(sys.argv[1]))) >= 20"
    )
    generated_runs.store(tmp_path, 20)
    readers = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT) for _ in range(4)
    ]
    for k in range(40):
        generated_runs.write(tmp_path / "aside", make({"seed": 100 + k}), "sweep9")
        (tmp_path / "runs" / "sweep9").mkdir(exist_ok=True)
        (tmp_path / "aside" / "runs" / "sweep9" / make({"seed": 100 + k}).run_id).rename(
            tmp_path / "runs" / "sweep9" / make({"seed": 100 + k}).run_id
        )
    assert [reader.wait() for reader in readers] == [0] * 4
    cached = index.rows(RunStore(tmp_path))
    (tmp_path / "index.json").unlink()
    assert index.rows(RunStore(tmp_path)) == cached
    assert len(cached) == 60


# Filters, sorting, columns


@pytest.mark.parametrize(
    ("expression", "seeds_found"),
    [
        ("status=finished", {0, 1}), ("status!=finished", {2, 3}), ("status==failed", {2}), ("binarizer~TBN", {0, 2}), ("binarizer!~tbn", {1, 3}),
        ("binarizer=tbn( p=4 )", {0, 2}), ("test/top1>0.89", {0}), ("test/top1 >= 0.89", {0, 1}), ("test/top1<1", {0, 1}), ("seed<=1", {0, 1}),
        ("seed=1.0", {1}), ("sweep=s", {0, 1, 2, 3}), ("error=", {0, 1, 3}), ("error=a=b", {2}), ("dirty=false", {0, 1, 2, 3}), ("lr=1e-1", {0, 1, 2, 3}),
        ("started>2026-11-21", {0, 1, 2, 3}), ("started<2026-11-21", set()), ("value!=0.9", {1, 2, 3}), ("status=dead", {3}), ("seed=x", set()),
    ],
)  # fmt: skip
def test_filters(store, expression, seeds_found):
    """By hand, on four runs; what is unknown is never greater, less or equal."""
    finish(store, binarizer="tbn(p=4)")
    finish(store, seed=1)
    end(store, "failed", "a=b", seed=2, binarizer="tbn(p=4)")
    dead(store, seed=3)
    assert {row["seed"] for row in filters.chosen(index.rows(store), [expression])} == seeds_found


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--filter=statu=x"], "unknown column 'statu', did you mean 'status'?"),
        (["--filter", "test/tpo1>1"], "did you mean 'test/top1'"),
        (["--filter", "status"], "COLUMN=VALUE"),
        (["--filter", "seed>many"], "> needs a number behind it, got 'many'"),
        (["--sort", "sede"], "did you mean 'seed'"),
        (["--columns", "run_id,vale"], "did you mean 'value'"),
        (["--limit", "0"], "--limit must be at least 1, got 0"),
        (["--limit=3", "seeds"], "--limit stands before seeds"),
        (["export", "--out=/dev/null/folder.csv"], "cannot write /dev/null/folder.csv: File exists; give another file with --out"),
        (["prune", "--status=finnished"], "unknown status 'finnished', did you mean 'finished'?"),
        (["show", "zz"], "0 runs match 'zz'"),
        (["tail", "", "--lines=-1"], "--lines must be at least 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_wrong_words_are_answered(call, store, argv, said):
    """One line on stderr with the right word, exit status 1, nothing on stdout."""
    finish(store)
    code, lines, last, err = call(*argv)
    assert (code, lines, last) == (1, [], None)
    assert said in err
    assert len(err.splitlines()) == 1


def test_an_unknown_command_of_runs(call):
    """Exit status 2 as everywhere, with the right one."""
    code, _, _, err = call("shwo")
    assert code == 2
    assert "did you mean 'show'" in err


def test_sorting_puts_the_unknown_last(call, store):
    """Either way round; equal ones stay in the order of their paths.

    --limit says how many are left out.
    """
    for seed in range(3):
        finish(store, seed=seed)
    end(store, "failed", seed=9)
    _, up, last, _ = call("list", "--sort=value", "--columns=value")
    assert [line.strip() for line in up] == ["value", "88.00 %", "89.00 %", "90.00 %", "—"]
    _, down, _, _ = call("--sort=test/top1", "--reverse", "--columns=seed", "--limit=2")
    assert [line.strip() for line in down] == ["seed", "0", "1", "and 2 more (--limit 2)"]
    assert last == {"runs": 4, "unreadable": 0}


def test_bare_runs_is_list(call, store):
    """The same lines; filters of either stand where they belong, several must all hold."""
    for seed in range(3):
        finish(store, seed=seed)
    assert call() == call("list")
    argv = ("--filter=seed>0", "--filter=seed<2")
    assert call(*argv) == call("list", *argv)
    assert call(*argv)[2] == {"runs": 1, "unreadable": 0}
    assert re.search(
        r"^[0-9a-f]{12}  finished +89\.00 %  s  digits  mlp  full_precision  seed 1$",
        call(*argv)[1][0],
    )


def test_given_objects_are_listed_by_their_type(call, store):
    """Their call has hashes that nobody reads."""
    finish(store, data="given(hash='ab12', type='torch.utils.data.TensorDataset')")
    assert "  TensorDataset (given)  " in call()[1][0]


def test_lines_are_cut_to_the_terminal():
    """Widest columns first; every line fits, short cells stay whole."""
    lines = text.align([["a" * 30, "bb", "c" * 50], ["a", "b", "c"]], limit=40)
    assert max(map(len, lines)) <= 40
    assert "  bb  " in lines[0]
    assert lines[0].count("…") == 2
    assert text.align([["1", "x"], ["20", "y"]], right=[0]) == [" 1  x", "20  y"]


def test_the_list_fits_the_terminal(call, store, monkeypatch):
    """No line is longer than the terminal is wide; without a terminal nothing is cut."""
    finish(store, model="mlp(hidden=[30, 20, 10])", sweep="a-sweep-of-a-long-name")
    assert "mlp(hidden=[30, 20, 10])" in call()[1][0]
    monkeypatch.setattr(text, "width", lambda: 80)
    (line,) = call()[1]
    assert len(line) <= 80
    assert line.endswith("seed 0")


def test_a_reader_that_has_seen_enough(tmp_path):
    """`tbn-bench runs | head -1` ends without a traceback or an error."""
    generated_runs.store(tmp_path, 300)
    flags = f"--results '{tmp_path}' --columns {'commit,' * 10}"  # more than a pipe holds
    command = f"{sys.executable} -m tbn_bench.cli runs {flags} | head -1; exit ${{PIPESTATUS[0]}}"
    out = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert (out.returncode, out.stderr, len(out.stdout.splitlines())) == (0, "", 1)


@pytest.mark.parametrize(
    "argv", [["list"], ["verify"], ["seeds"], ["prune"], ["show", "0"], ["tail", "0"]]
)
def test_results_before_or_behind_the_command(store, capsys, argv):
    """--results means the same at both places: the flag of the inner parser does not reset it."""
    finish(store)
    argv = [word if word != "0" else make({"epochs": 3}).run_id for word in argv]
    said = []
    for words in (
        ["runs", f"--results={store.root}", *argv],
        ["runs", *argv, f"--results={store.root}"],
    ):
        assert cli.main(words) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]


# show, compare


def test_show_says_all(call, store):
    """Changed fields before defaults, scores with units, curves at three epochs, cost, source,
    files with their sizes.
    """
    path = finish(store, sweep="ä", binarizer="tbn(p=4)")
    log = store.root / "logs" / "ä" / f"{path.name}.txt"
    log.parent.mkdir(parents=True)
    log.write_text("x" * 2000)
    code, lines, last, _ = call("show", path.name[:6])
    page = "\n".join(lines)
    assert code == 0
    assert page.index("binarizer") < page.index("(default)")
    assert re.search(
        r"again +tbn-bench train '--binarizer=tbn\(p=4\)' --epochs=3 --sweep='ä'", page
    )
    assert re.search(
        r"val/top1 +first 50\.00 % \(epoch 0\)  best 60\.00 % \(epoch 1\)  last 25\.00 % \(epoch 2\)",
        page,
    )
    assert re.search(r"stored_bits +3,808\n", page)
    assert re.search(re.escape(str(log)) + r" +2 kB", page)
    assert (last["status"], last["test/top1"], last["path"]) == ("finished", 0.9, str(path))


def test_show_of_a_run_without_result(call, store):
    """Its error; a dead one says that nobody holds it.

    Damaged rows are named and cost only the curves.
    """
    assert any(
        re.search(r"error +ValueError: why", line)
        for line in call("show", end(store, "failed", "ValueError: why").name)[1]
    )
    path = dead(store, seed=1)
    (path / "metrics.jsonl").write_text("{\n")
    _, lines, last, _ = call("show", path.name)
    assert last["status"] == "dead"
    assert "no process holds it" in lines[1]
    assert any("damaged" in line for line in lines)


def test_a_run_of_two_sweeps_is_named_by_both(call, store):
    """The id alone is refused with both names, SWEEP/ID is enough."""
    path = finish(store, sweep="s")
    finish(store, sweep="t")
    code, _, _, err = call("show", path.name)
    assert code == 1
    assert f"s/{path.name}, t/{path.name}" in err
    assert call("show", f"t/{path.name[:4]}")[2]["sweep"] == "t"


def test_compare_says_only_what_differs(call, store):
    """Config, plan and results, each with both values.

    The default of a field that an older record lacks is no difference.
    """
    a, b = finish(store, seed=1), finish(store, seed=2, lr=0.2)
    summary = json.loads((b / "summary.json").read_text())
    summary["plan"][0]["p"] = 8
    change(b / "summary.json", plan=summary["plan"])
    config = json.loads((b / "run.json").read_text())["config"]
    change(b / "run.json", config={k: v for k, v in config.items() if k != "min_lr"})
    _, lines, last, _ = call("compare", a.name, b.name)
    words = [line.split() for line in lines]
    assert words[1:4] == [["config"], ["seed", "1", "2"], ["lr", "0.1", "0.2"]]
    assert words[4:] == [
        ["plan"],
        ["a.weight", "p", "4", "8"],
        ["results"],
        ["test/top1", "0.89", "0.88", "-0.01"],
    ]
    assert last["differences"] == {"config": 2, "plan": 1, "results": 1}


def test_compare_with_itself(call, store):
    """No difference, said in words."""
    path = finish(store)
    _, lines, last, _ = call("compare", path.name, path.name)
    assert lines == [f"s/{path.name} and s/{path.name}: no difference"]
    assert last["differences"] == {}


# tail


@contextmanager
def live_run(store):
    """(a process that holds a run, log(n): it logs n epochs, the run's id)."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(store.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        assert process.stdout.readline() == "held\n"
        yield process, make({"epochs": 3}).run_id
    finally:
        process.kill()
        process.communicate()


@contextmanager
def follower(store, run_id):
    command = [
        sys.executable,
        "-m",
        "tbn_bench.cli",
        "runs",
        "tail",
        run_id,
        "--follow",
        "--results",
        str(store.root),
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def word(process):
    process.stdin.write("\n")
    process.stdin.flush()


def test_tail_follows_a_live_run_to_its_end(store):
    """Whole lines of the log and epochs come while the run is held.

    The end of the run is the end of the command.
    """
    with live_run(store) as (writer, run_id):
        log = store.root / "logs" / "live" / f"{run_id}.txt"
        log.parent.mkdir(parents=True)
        log.write_text("hello\nhalf a ")
        with follower(store, run_id) as reader:
            assert reader.stdout.readline() == "hello\n"
            log.write_text("hello\nhalf a line\nlast word")
            assert reader.stdout.readline() == "half a line\n"
            word(writer)
            assert reader.stdout.readline().startswith("epoch 0  step 0  lr 0.1  train/loss 1  ")
            word(writer), word(writer)
            out, err = reader.communicate(timeout=250)
    assert (reader.returncode, err) == (0, "")
    assert sorted(re.findall(r"last word|epoch \d", out)) == ["epoch 1", "epoch 2", "last word"]
    assert json.loads(out.splitlines()[-1]) == {
        "sweep": "live",
        "run_id": run_id,
        "status": "finished",
    }


def test_tail_ends_quietly_at_ctrl_c(store):
    """The looking on stops with status 0 and nothing on stderr; the run goes on."""
    with live_run(store) as (writer, run_id), follower(store, run_id) as reader:
        word(writer)
        reader.stdout.readline()
        reader.send_signal(signal.SIGINT)
        out, err = reader.communicate(timeout=250)
        assert (reader.returncode, err) == (0, "")
        assert json.loads(out.splitlines()[-1])["status"] == "running"
        assert writer.poll() is None
        assert lock.held(store.path("live", run_id))


def test_tail_of_a_killed_run_stops(store):
    """A SIGKILL frees the lock: the follower ends, and says dead."""
    with live_run(store) as (writer, run_id), follower(store, run_id) as reader:
        word(writer)
        reader.stdout.readline()
        writer.kill()
        out, _ = reader.communicate(timeout=250)
    assert json.loads(out.splitlines()[-1])["status"] == "dead"


def test_tail_without_follow(call, store):
    """The last lines and epochs of an ended run, also where no log was written."""
    path = finish(store)
    _, lines, last, _ = call("tail", path.name, "--lines=1")
    assert [line.split()[0] for line in lines] == ["epoch", f"s/{path.name}:"]
    assert lines[0].startswith("epoch 2")
    assert last["status"] == "finished"


def test_tail_shows_trained_again_epochs_and_no_others(tmp_path):
    """A resume replaces the file by its kept rows: those are not new, what comes behind them is."""
    from tbn_bench.runs.tail import Lines

    path = tmp_path / "f"
    lines = Lines(path)
    assert lines.new() == []
    path.write_text("0\n1\n2\nhal")
    assert lines.new() == ["0", "1", "2"]
    path.write_text("0\n1\n")
    assert lines.new() == []
    path.write_text("0\n1\n2\n3\n")
    assert lines.new() == ["2", "3"]


# verify


def test_intact_records_have_no_fault(call, store):
    """Finished, failed, diverged with NaN rows, interrupted, and one that is held in the middle of
    a row.
    """
    finish(
        store,
        binarizer="tbn(p=4)",
        model="mlp(hidden=[30, 20])",
        keep=["fc", "a b"],
        precision="bf16",
    )
    end(store, "failed", seed=1), end(store, "interrupted", seed=2)
    path = end(store, "diverged", seed=3)
    (path / "metrics.jsonl").write_text('{"epoch": 0, "train/loss": "NaN"}\n')
    with holding(store, seed=4) as run:
        run.log({"epoch": 0})
        with (run.path / "metrics.jsonl").open("a") as file:
            file.write('{"epoch": 1, "lo')
        (run.path / ".run.json.1.tmp").write_text("being written")
        code, lines, last, _ = call("verify")
        (run.path / ".run.json.1.tmp").unlink()
    assert (code, lines) == (0, ["5 runs, 0 faults"])
    assert last == {"runs": 5, "faults": 0, "failed": 0, "kinds": {}, "set_aside": 0, "networks": 0}


def rows_file(change_rows):
    def plant(path):
        file = path / "metrics.jsonl"
        file.write_text(
            "".join(
                json.dumps(row) + "\n"
                for row in change_rows([json.loads(line) for line in file.read_text().splitlines()])
            )
        )

    return plant


def header(**values):
    return lambda path: change(path / "run.json", **values)


def in_summary(**values):
    return lambda path: change(path / "summary.json", **values)


def config_with(**values):
    return lambda path: change(
        path / "run.json", config=json.loads((path / "run.json").read_text())["config"] | values
    )


def source_with(**values):
    return lambda path: change(
        path / "run.json",
        provenance=json.loads((path / "run.json").read_text())["provenance"] | values,
    )


def plan_with(**values):
    def plant(path):
        plan = json.loads((path / "summary.json").read_text())["plan"]
        plan[0] |= values
        change(path / "summary.json", plan=plan)

    return plant


def pipe(name):
    def plant(path):
        (path / name).unlink()
        os.mkfifo(path / name)

    return plant


def renamed(path):
    path.rename(path.with_name("0" * 12))


FAULTS = {
    "no run.json": (lambda path: (path / "run.json").unlink(), "unreadable", "run.json"),
    "half run.json": (lambda path: (path / "run.json").write_bytes((path / "run.json").read_bytes()[:99]), "unreadable", "run.json"),
    "empty summary": (lambda path: (path / "summary.json").write_text(""), "unreadable", "summary.json"),
    "list": (lambda path: (path / "summary.json").write_text("[1]"), "unreadable", "JSON object"),
    "foreign": (header(schema_version=99), "schema", "schema_version 99"),
    "foreign summary": (in_summary(schema_version=99), "schema", "schema_version 99"),
    "no provenance": (header(provenance=None), "schema", "lacks provenance"),
    "config no object": (header(config=[1]), "schema", "config in run.json must be an object"),
    "no stored_bits": (in_summary(stored_bits=None), "schema", "lacks stored_bits"),
    "plan without numel": (plan_with(numel="x"), "schema", "plan's numel"),
    "no plan": (in_summary(plan=[1]), "schema", "plan's rows"),
    "sweep": (header(sweep="t"), "name", "says sweep 't'"),
    "run id": (header(run_id="abc"), "name", "run.json says run_id 'abc'"),
    "run id of the summary": (in_summary(run_id="abc"), "name", "summary.json says run_id 'abc'"),
    "folder": (renamed, "hash", "its config has the id"),
    "unknown field": (config_with(learning=1), "config", "unknown parameter 'learning'"),
    "edited config": (config_with(lr=0.3), "hash", "its config has the id"),
    "edited command": (source_with(command="tbn-bench train --epochs=3 --lr=0.7"), "command", "the recorded command makes run"),
    "no command": (source_with(command="python x.py"), "command", "expected tbn-bench train"),
    "split flags": (source_with(command="tbn-bench train --epochs 3"), "command", "expected --key=value, got '--epochs'"),
    "damaged row": (lambda path: (path / "metrics.jsonl").write_text('{"epoch": 0}\n{\n{"epoch": 2}\n'), "row", "line 2"),
    "row no object": (lambda path: (path / "metrics.jsonl").write_text("3\n"), "row", "line 1"),
    "torn": (lambda path: (path / "metrics.jsonl").write_bytes((path / "metrics.jsonl").read_bytes() + b'{"ep'), "torn", "4 bytes after the last newline"),
    "gap": (rows_file(lambda rows: [rows[0], rows[2]]), "epochs", "is epoch 2, expected 1 (gap)"),
    "repeat": (rows_file(lambda rows: [rows[0], rows[1], rows[1]]), "epochs", "is epoch 1, expected 2 (repeats)"),
    "too few": (rows_file(lambda rows: rows[:2]), "epochs", "has 2 epochs, the config 3"),
    "no rows": (lambda path: (path / "metrics.jsonl").unlink(), "epochs", "has 0 epochs, the config 3"),
    "nan row": (rows_file(lambda rows: [rows[0] | {"lr": "NaN"}, *rows[1:]]), "finite", "epoch 0: lr"),
    "inf summary": (in_summary(seconds="Infinity"), "finite", "summary.json holds what is not finite: seconds"),
    "bare nan": (in_summary(**{"test/loss": float("nan")}), "finite", "test/loss"),
    "no score": (in_summary(**{"test/top1": None}), "score", "no number for test/top1"),
    "score of the rows": (rows_file(lambda rows: [row | {"val/top5": 1.0} for row in rows]), "score", "no number for test/top5"),
    "unknown score": (in_summary(score="f1"), "score", "'f1'"),
    "rows without score": (rows_file(lambda rows: [{k: v for k, v in r.items() if k != "val/top1"} for r in rows]), "score", "no val/top1 in 3 of 3"),
    "last": (in_summary(**{"val/top1_last": 0.3}), "score", "val/top1_last is 0.3, the last row says 0.25"),
    "best epoch": (in_summary(best_epoch=3), "best_epoch", "best_epoch 3 is none of the 3 epochs"),
    "best is not": (in_summary(best_epoch=0), "best_epoch", "epoch 0 has val/top1 0.5"),
    "stored bits": (in_summary(stored_bits=3809), "bits", "stored_bits is 3809, its parts add up to 3808"),
    "tile bits": (in_summary(tile_bits=161), "bits", "tile_bits is 161"),
    "alpha bits": (in_summary(alpha_bits=127), "bits", "alpha_bits is 127"),
    "bytes": (in_summary(stored_bytes=475), "bits", "stored_bytes is 475"),
    "bits no number": (in_summary(stored_bits="many"), "bits", "stored_bits must be numbers"),
    "plan row": (plan_with(stored_bits=1), "bits", "rows of the plan add up to another number"),
    "per weight": (in_summary(bits_per_weight=1.0), "bits", "bits_per_weight is 1.0"),
    "weights": (in_summary(weights=741), "bits", "weights is 741"),
    "status": (header(status="done"), "status", "'done' is none of"),
    "no summary": (lambda path: (path / "summary.json").unlink(), "status", "finished, and there is no summary.json"),
    "died between": (header(status="running"), "status", "'running' beside a summary.json"),
    "top1 of 7": (in_summary(**{"test/top1": 7}), "value", "summary.json: test/top1: Input should be less than or equal to 1"),
    "top1 below 0": (in_summary(**{"test/top1": -0.1}), "value", "test/top1"),
    "loss text": (in_summary(**{"test/loss": "low"}), "value", "test/loss"),
    "loss list": (in_summary(**{"test/loss": [0.5]}), "value", "test/loss"),
    "loss true": (in_summary(**{"test/loss": True}), "value", "test/loss"),
    "loss text in a row": (rows_file(lambda rows: [rows[0], rows[1] | {"train/loss": "low"}, rows[2]]), "value", "line 2: it must have numbers for train/loss"),
    "loss list in a row": (rows_file(lambda rows: [*rows[:2], rows[2] | {"val/loss": [1]}]), "value", "line 3: val/loss"),
    "top1 of 7 in a row": (rows_file(lambda rows: [row | {"val/top1": 7} for row in rows]), "value", "line 1: val/top1"),
    "started text": (source_with(started="yesterday"), "value", "provenance.started"),
    "started number": (source_with(started=5), "value", "provenance.started"),
    "ended text": (header(ended="soon"), "value", "run.json: ended"),
    "trial text": (source_with(trial="first"), "value", "provenance must have numbers for trial"),
    "trial list": (source_with(trial=[1]), "value", "provenance.trial"),
    "trial half": (source_with(trial=0.5), "value", "provenance.trial"),
    "versions text": (source_with(versions="new"), "value", "provenance.versions"),
    "versions list": (source_with(versions=[1]), "value", "provenance.versions"),
    "version number": (source_with(versions={"torch": 2.1}), "value", "provenance.versions.torch"),
    "version junk": (source_with(versions={"torch": "the newest"}), "value", "a version begins with a digit"),
    "hardware text": (source_with(hardware="a fast one"), "value", "provenance.hardware"),
    "hardware list": (source_with(hardware=[1]), "value", "provenance.hardware"),
    "cpu number": (source_with(hardware={"cpu": 5}), "value", "provenance.hardware.cpu"),
    "cores of 0": (source_with(hardware={"cores": 0}), "value", "provenance.hardware.cores"),
    "unknown track": (source_with(track="W2A2"), "value", "provenance.track: track must be one of"),
    "unknown track of the summary": (in_summary(track="fast"), "value", "summary.json: track"),
    "huge integer": (in_summary(weights=10**400), "value", "summary.json: weights"),
    "nested rows": (lambda path: (path / "metrics.jsonl").write_text("[" * 100_000 + "\n"), "row", "line 1"),
    "pipe of rows": (pipe("metrics.jsonl"), "unreadable", "it is no file"),
    "pipe of a summary": (pipe("summary.json"), "unreadable", "it is no file"),
    "leftover": (lambda path: (path / ".summary.json.123.tmp").write_text("{"), "leftover", ".summary.json.123.tmp"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_and_named(call, store, name):
    """One run of two is at fault: every line has its path and what to do, one has the kind and the
    words; status 1.
    """
    plant, kind, said = FAULTS[name]
    finish(store, seed=1)
    path = finish(store, seed=2)
    assert call("verify")[0] == 0
    plant(path)
    code, lines, last, _ = call("verify")
    assert (code, last["runs"]) == (1, 2)
    assert last["failed"] >= 1
    assert kind in last["kinds"]
    assert all(line.startswith(f"{path.parent}/") and "; " in line for line in lines[:-1])
    assert make({"epochs": 3, "seed": 1}).run_id not in "".join(lines)
    assert any(f": {kind}: " in line and said in line for line in lines)


def test_whole_records_are_not_set_aside(call, store):
    """A config that another version wrote is a fault, and no damage: the run stays where it is."""
    path = finish(store, seed=1)
    change(
        path / "run.json",
        provenance=json.loads((path / "run.json").read_text())["provenance"]
        | {"command": "tbn-bench train --new=1"},
    )
    code, _, last, _ = call("verify", "--set-aside")
    assert (code, last["kinds"], last["set_aside"]) == (1, {"command": 1}, 0)
    assert path.exists()


@pytest.mark.parametrize(
    ("make_run", "kind", "said"),
    [
        (dead, "dead", "run it again"),
        (lambda store: change(end(store, "failed") / "run.json", error=""), "status", "failed without an error"),
        (lambda store: (end(store, "failed") / "metrics.jsonl").write_text('{"epoch": 0, "x": "NaN"}\n'), "finite", "epoch 0: x"),
        (lambda store: (end(store, "failed") / "metrics.jsonl").write_text('{"epoch": 1}\n'), "epochs", "is epoch 1, expected 0"),
    ],
    ids=["dead", "no error", "nan", "gap"],
)  # fmt: skip
def test_faults_of_unfinished_runs(call, store, make_run, kind, said):
    """Each by its kind, with what to do."""
    make_run(store)
    code, lines, last, _ = call("verify")
    assert (code, last["kinds"]) == (1, {kind: 1})
    assert said in lines[0]


def test_a_held_run_is_not_dead(call, store):
    """Held by another process: no fault; killed: dead."""
    with live_run(store) as (writer, _):
        assert call("verify")[0] == 0
        writer.kill()
        writer.wait()
        assert call("verify")[2]["kinds"] == {"dead": 1}


def test_faults_beside_the_runs(call, store):
    """An unreadable timing, and an old leftover of the index.

    A young one may be a write in progress.
    """
    finish(store)
    (store.root / "latency" / "cpu").mkdir(parents=True)
    (store.root / "latency" / "cpu" / "x.json").write_text("{")
    leftover = store.root / ".index.json.1.tmp"
    leftover.write_text("")
    assert call("verify")[2]["kinds"] == {"latency": 1}
    os.utime(leftover, (time.time() - 100, time.time() - 100))
    assert call("verify")[2]["kinds"] == {"latency": 1, "leftover": 1}


def test_verify_of_nothing_is_refused(call, store):
    """A wrong or empty folder must not look intact."""
    code, _, _, err = call("verify")
    assert (code, "no folder" in err) == (1, True)
    store.root.mkdir()
    code, _, _, err = call("verify")
    assert (code, "no runs under" in err) == (1, True)


def test_a_run_that_changes_meanwhile_is_looked_at_again(store, monkeypatch):
    """What was read of a run that ended between two reads is no fault of it."""
    path = finish(store)
    look = faults.look
    looks = []

    def between(where):
        looks.append(where)
        if len(looks) == 1:
            files.write_atomic(path / "run.json", json.loads((path / "run.json").read_text()))
            yield faults.Fault(where, "status", "x", "y")
        else:
            yield from look(where)

    monkeypatch.setattr(faults, "look", between)
    assert faults.faults(path) == []
    assert len(looks) == 2


def test_the_committed_records_are_intact():
    """Every record of this repository.

    A run that someone's kill has just left behind is no fault of theirs.
    """
    store = RunStore(ROOT / "results")
    found = [fault for names in store.folders() for fault in faults.faults(store.path(*names))]
    assert [str(fault) for fault in found if fault.kind not in ("dead", "leftover")] == []


# prune


def with_checkpoints(path, names=("best", "last")):
    (path / "checkpoints").mkdir(exist_ok=True)
    for name in names:
        (path / "checkpoints" / f"{name}.ckpt").write_bytes(b"x" * 1000)
    return path


def checkpoints(path):
    return sorted(file.stem for file in (path / "checkpoints").iterdir())


def test_prune_keeps_the_best_of_finished_runs_and_all_of_others(call, store):
    """And says what it freed.

    The record itself stays as it was, and so does what is no checkpoint.
    """
    done, failed, gone = (
        with_checkpoints(finish(store)),
        with_checkpoints(end(store, "failed", seed=1)),
        with_checkpoints(dead(store, seed=2)),
    )
    (done / "checkpoints" / "note.txt").write_text("")
    before = (done / "run.json").read_bytes()
    code, lines, last, _ = call("prune")
    assert (code, last) == (
        0,
        {"runs": 1, "files": 1, "freed_bytes": 1000, "held": 0, "dry_run": False},
    )
    assert lines == [f"s/{done.name}: last.ckpt, 1 kB", "1 checkpoints of 1 runs, 1 kB freed"]
    assert [checkpoints(path) for path in (done, failed, gone)] == [
        ["best", "note"],
        ["best", "last"],
        ["best", "last"],
    ]
    assert (done / "run.json").read_bytes() == before
    assert call("prune")[2]["files"] == 0


def test_a_cache_of_others_names_no_folder(call, store):
    """An index.json whose rows say another sweep: each row is its folder's, and nothing outside is
    pruned.
    """
    path = with_checkpoints(finish(store))
    other = RunStore(store.root.parent / "other")
    elsewhere = with_checkpoints(finish(other))
    index.rows(store)
    cache = json.loads((store.root / "index.json").read_text())
    text = cache["runs"].replace('"sweep":"s"', f'"sweep":"{elsewhere.parent}"')
    assert text != cache["runs"]
    forged = cache | {"runs": text, "crc32": zlib.crc32(text.encode())}
    (store.root / "index.json").write_text(json.dumps(forged))
    assert [(row["sweep"], row["run_id"]) for row in index.rows(store)] == [("s", path.name)]
    assert call("prune", "--keep=none")[2]["files"] == 2
    assert (checkpoints(path), checkpoints(elsewhere)) == ([], ["best", "last"])


def test_prune_of_other_statuses_is_asked_for(call, store):
    """failed,dead: those and no others; --keep none leaves nothing."""
    done, failed, gone = (
        with_checkpoints(finish(store)),
        with_checkpoints(end(store, "failed", seed=1)),
        with_checkpoints(dead(store, seed=2)),
    )
    assert call("prune", "--status=failed,dead", "--keep=none")[2]["files"] == 4
    assert [checkpoints(path) for path in (done, failed, gone)] == [["best", "last"], [], []]


def test_prune_dry_run_deletes_nothing(call, store):
    """The same words and counts as the real one."""
    path = with_checkpoints(finish(store))
    _, dry, said, _ = call("prune", "--keep=none", "--dry-run")
    assert checkpoints(path) == ["best", "last"]
    _, real, done, _ = call("prune", "--keep=none")
    assert dry[:-1] == real[:-1]
    assert said | {"dry_run": False} == done
    assert "2 kB would be freed" in dry[-1]


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_prune_never_touches_a_held_run(call, store, dry):
    """Also where it is asked for, and where the summary is there already and its process is about
    to end.
    """
    with holding(store) as run:
        with_checkpoints(run.path)
        assert call("prune", "--status=running", "--keep=none", *dry)[2]["held"] == 1
        files.write_atomic(run.path / "summary.json", {"schema_version": 1, "test/top1": 0.5})
        code, lines, last, _ = call("prune", "--keep=none", *dry)
        assert (code, last["held"], last["files"]) == (0, 1, 0)
        assert "held by a process, left alone" in lines[0]
        assert checkpoints(run.path) == ["best", "last"]


def test_a_run_that_is_being_pruned_cannot_be_claimed(store):
    """The lock is the trainer's own: who wants the run meanwhile is told that it is busy."""
    path = end(store, "failed")
    with lock.taken(path) as mine:
        assert mine
        with pytest.raises(RunBusy):
            store.claim("s", path.name, {}, {})
    assert not lock.held(path)


def test_prune_never_leaves_less_than_asked(store):
    """Without a best checkpoint the last one stays; a link does not lose its target."""
    path = with_checkpoints(finish(store), ["last"])
    assert prune.spare(path, "best") == []
    (path / "checkpoints" / "best.ckpt").symlink_to("last.ckpt")
    (path / "checkpoints" / "old.ckpt").write_text("")
    assert [file.stem for file in prune.spare(path, "best")] == ["old"]


# export, seeds


def test_export_is_one_table_of_all_runs(call, store, tmp_path):
    """A row per run, columns in one order, empty where unknown; what CSV must quote comes back."""
    done, failed = (
        finish(store, keep=["a", "b"], binarizer="tbn(p=4)"),
        end(store, "failed", 'a "b",\nc', seed=1),
    )
    out = tmp_path / "ä b.csv"
    assert call("export", "--out", str(out))[2] == {"runs": 2, "unreadable": 0, "file": str(out)}
    found = {
        row["run_id"]: row
        for row in csv.DictReader(io.StringIO(out.read_text(encoding="utf-8"), newline=""))
    }
    assert (found[done.name]["value"], found[done.name]["keep"], found[done.name]["lr"]) == (
        "0.9",
        "a,b",
        "0.1",
    )
    assert (found[failed.name]["value"], found[failed.name]["error"]) == ("", 'a "b",\nc')
    head = out.read_text(encoding="utf-8").split("\n")[0].split(",")
    assert head[:7] == ["sweep", "run_id", "group_id", "status", "error", "score", "value"]
    assert {"command", "commit", "stored_bits", "test/mse"} <= set(head)
    assert len(set(head)) == len(head)


def test_export_is_whole_or_not_there(call, store, tmp_path, monkeypatch):
    """A full disk leaves the older file and nothing beside it; a filter chooses.

    The order of columns does not depend on runs.
    """
    finish(store)
    finish(store, seed=1)
    out = tmp_path / "x.csv"
    call("export", "--out", str(out), "--filter=seed=1")
    before = out.read_text()
    assert len(before.splitlines()) == 2
    monkeypatch.setattr(
        files.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    code, _, _, err = call("export", "--out", str(out))
    assert (code, out.read_text()) == (1, before)
    assert "No space left" in err
    assert list(tmp_path.glob(".*")) == []
    assert before.splitlines()[0] == ",".join(index.columns([]))


def rows_of(path):
    return list(csv.DictReader(io.StringIO(path.read_bytes().decode(), newline="")))


FORMULAS = {
    "=HYPERLINK(1)": "'=HYPERLINK(1)", "+1+cmd": "'+1+cmd", "-1+1": "'-1+1", "@SUM(A1)": "'@SUM(A1)", "\t=1": "'\t=1", "\r=1": "'\n=1", "a\r=1": "a\n=1",
    "\uff1d1": "'\uff1d1", "-0.5": "-0.5", "+1e-3": "+1e-3", "-Infinity": "-Infinity", "a=1": "a=1", "": "", "—": "—",
}  # fmt: skip


@pytest.mark.parametrize("said", FORMULAS, ids=repr)
def test_a_spreadsheet_runs_no_cell(call, store, tmp_path, said):
    """Text that begins as a formula has an apostrophe before it, also in the head.

    Numbers have none.
    """
    end(store, "failed", said)
    call("export", "--out", str(tmp_path / "x.csv"))
    (row,) = rows_of(tmp_path / "x.csv")
    assert row["error"] == FORMULAS[said]


def test_a_spreadsheet_runs_no_head(call, store, tmp_path):
    """A name that a summary brings along; a negative number stays one."""
    change(finish(store) / "summary.json", **{"=1+1": -2.5})
    call("export", "--out", str(tmp_path / "x.csv"))
    (row,) = rows_of(tmp_path / "x.csv")
    assert row["'=1+1"] == "-2.5"


# Clears the screen, sets the window's title, hides, goes to the line's begin, turns the writing direction.
ESCAPES = "\x1b[2J\x1b]0;title\x07\x9b8m\rfine\u202e\ue000"
HARMLESS = r"\x1b[2J\x1b]0;title\x07\x9b8m"


def hostile(store):
    """Two runs of a sweep whose name, errors, sources, rows and log try to write to the terminal.

    One record is damaged.
    """
    folder = store.root / "runs" / f"a{ESCAPES}b"
    for seed, status in ((1, "failed"), (2, "diverged")):
        path = end(store, status, f"why{ESCAPES}", seed=seed)
        (path / "metrics.jsonl").write_text(json.dumps({"epoch": 0, f"k{ESCAPES}": ESCAPES}) + "\n")
        change(
            path / "run.json",
            provenance={"hardware": {"cpu": ESCAPES}, "command": ESCAPES, ESCAPES: ESCAPES},
            ended=ESCAPES,
        )
        (path / f"file{ESCAPES}").write_text("")
        with_checkpoints(path, (f"x{ESCAPES}",))
        log = store.root / "logs" / folder.name / f"{path.name}.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(f"line{ESCAPES}\n")
    (store.root / "runs" / "s").rename(folder)
    (folder / "damaged").mkdir()
    (folder / "damaged" / "run.json").write_text("{")
    return [make({"seed": seed}).run_id for seed in (1, 2)]


@pytest.mark.parametrize(
    "argv",
    [["list"], ["list", "--columns=sweep,error,cpu,command"], ["show", "A"], ["compare", "A", "B"], ["tail", "A"], ["verify"], ["seeds"],
     ["show", "nothing"], ["prune", "--status=failed", "--keep=none"], ["export", "--out=x.csv"], ["show", "damaged"]],
    ids=" ".join,
)  # fmt: skip
def test_a_record_writes_no_escape_to_the_terminal(store, capsys, monkeypatch, tmp_path, argv):
    """Whatever a record holds, both streams have text alone.

    What was there is shown as its escapes.
    """
    monkeypatch.chdir(tmp_path)
    a, b = hostile(store)
    cli.main(
        [
            "runs",
            *(word.replace("A", a).replace("B", b) for word in argv),
            f"--results={store.root}",
        ]
    )
    out, err = capsys.readouterr()
    said = out + err
    assert [line for line in said.split("\n") if not line.replace("\t", "").isprintable()] == []
    if argv[-1] != "nothing":
        assert HARMLESS in said.replace("\\\\", "\\")


def test_missing_seeds_are_those_of_the_sweep(store):
    """Union over the sweep's runs of any status, minus what has finished.

    Another sweep's seeds do not count.
    """
    for seed in range(3):
        finish(store, seed=seed)
    finish(store, seed=0, lr=0.2)
    dead(store, seed=4, lr=0.2, epochs=3)
    finish(store, seed=9, sweep="t")
    groups = {lr: make({"epochs": 3, "lr": lr}).group_id for lr in (0.1, 0.2)}
    assert seeds.missing_seeds(store, "s") == {groups[0.1]: [4], groups[0.2]: [1, 2, 4]}
    assert seeds.missing_seeds(store, "t") == seeds.missing_seeds(store, "none") == {}


def test_missing_configs_fill_the_groups(store):
    """Finishing them leaves nothing missing: each is its group's config at a missing seed."""
    for seed in range(2):
        finish(store, seed=seed)
    finish(store, lr=0.2, keep=["a", "b"], binarizer="tbn(p=4)", precision="bf16")
    (config,) = seeds.missing_configs(store, "s")
    assert config == make(
        {
            "epochs": 3,
            "lr": 0.2,
            "keep": ["a", "b"],
            "binarizer": "tbn(p=4)",
            "precision": "bf16",
            "seed": 1,
        }
    )
    finish(store, **config.non_defaults)
    assert seeds.missing_configs(store, "s") == []
    assert seeds.missing_seeds(store, "s") == {}


def test_seeds_lists_groups(call, store):
    """One line per group with what has finished and what is missing and why.

    --missing leaves the complete ones out.
    """
    for seed in range(2):
        finish(store, seed=seed)
    finish(store, lr=0.2)
    end(store, "diverged", seed=1, lr=0.2, epochs=3)
    _, lines, last, _ = call("seeds")
    assert last == {"groups": 2, "complete": 1, "missing": 1, "unreadable": 0}
    assert any(re.search(r"seeds 0, 1 +missing — .*mlp +full_precision", line) for line in lines)
    _, (only,), _, _ = call("seeds", "--missing")
    assert re.search(r"seeds 0 +missing 1 \(diverged\) .*lr=0.2", only)
    assert call("seeds", "--filter=lr=0.1")[2]["groups"] == 1


def test_ten_thousand_rows_are_quick_to_read_again(tmp_path, monkeypatch):
    """Not by a clock: a warm index opens one file, whatever the number of runs."""
    generated_runs.store(tmp_path, 200)
    index.rows(RunStore(tmp_path))
    opened, read_file = [], files.read_file
    monkeypatch.setattr(
        files, "read_file", lambda path: opened.append(path.name) or read_file(path)
    )
    assert len(index.rows(RunStore(tmp_path))) == 200
    assert opened == ["index.json"]


def test_deleted_runs_are_set_aside(call, store):
    """`runs delete` moves a run, whole, to set_aside; its name is free again."""
    path, other = finish(store), finish(store, seed=1)
    content = (path / "summary.json").read_bytes()
    code, _, last, _ = call("delete", path.name)
    moved = store.root / "set_aside" / "s" / f"{path.name}.1"
    assert (code, last) == (0, {"set_aside": [str(moved)], "failed": 0})
    assert (moved / "summary.json").read_bytes() == content
    assert [record.run_id for record in store.runs()] == [other.name]
    finish(store)
    assert call("delete", f"s/{path.name}")[2]["set_aside"] == [str(moved.with_suffix(".2"))]


def test_a_live_or_unknown_run_is_not_deleted(call, store):
    """A process that trains keeps its folder; a wrong name moves nothing."""
    path = finish(store)
    code, _, _, said = call("delete", path.name, "nothing")
    assert (code, "0 runs match 'nothing'" in said, path.exists()) == (1, True, True)
    with holding(store, seed=4) as run:
        code, lines, last, _ = call("delete", run.path.name)
        assert (code, last["failed"], run.path.exists()) == (1, 1, True)
        assert "another process" in lines[0]


def test_show_says_whether_the_code_has_changed(call, store):
    """Known to differ, known not to, and unknown: three answers."""
    path = finish(store, binarizer="bwn")
    header = json.loads((path / "run.json").read_text())
    config = make(header["config"])
    recorded = fingerprint.of(config)
    for found, said in (
        (None, "unknown"),
        (recorded, "as it is here"),
        (recorded | {"binarizer": "0" * 12}, "stale: binarizer changed since"),
    ):
        header["provenance"]["fingerprint"] = found
        header["provenance"]["plugins"] = [{"name": "my methods.py", "hash": "1"}]
        (path / "run.json").write_text(json.dumps(header))
        page = "\n".join(call("show", path.name)[1])
        assert re.search(rf"code +{said}", page)
        assert "--plugin='my methods.py'" in page
