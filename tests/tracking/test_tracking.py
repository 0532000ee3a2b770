"""Guards the mirrors: they repeat the record exactly, never fail a run nor reach for the network,
and W&B's files come back as records.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from wandb.proto.wandb_internal_pb2 import Record, RunExitRecord, RunRecord

from tbn_bench import cli
from tbn_bench.cli.parser import make_parser
from tbn_bench.config import make
from tbn_bench.convert.binarize import binarize_
from tbn_bench.experiment import export, train
from tbn_bench.format import packed_file
from tbn_bench.install import extras
from tbn_bench.records import locks
from tbn_bench.records.run import NETWORK
from tbn_bench.records.store import RunStore
from tbn_bench.records.summary import TIMES
from tbn_bench.reporting.load import load
from tbn_bench.sweep.execution import ExecutionOptions
from tbn_bench.tasks.image_classification import ImageClassification
from tbn_bench.tracking import diagnostics, lightning_mirrors, mirror, offline, transfer, wandb_log
from tbn_bench.tracking.wandb_mirror import WandbMirror

TINY = {"data": "synthetic", "model": "mlp(hidden=[8])", "binarizer": "tbn(p=2, min_layer_size=0)", "epochs": 3, "batch_size": 16,
        "lr": 0.05}  # fmt: skip
DROPOUT = "vit(patch=4, dim=16, depth=1, heads=2, head_dim=8, mlp_dim=16, dropout=0.2)"  # would notice a touched random state
PLAIN = TINY | {"binarizer": "full_precision", "epochs": 1}


@contextlib.contextmanager
def clean(home: Path):
    """No W&B setting, key or home but an empty one."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith(("WANDB_", "XDG_", "MLFLOW_"))]:
            patch.delenv(name)
        home.mkdir(exist_ok=True)
        patch.setenv("HOME", str(home))
        patch.setenv("NETRC", str(home / "netrc"))
        yield patch


@pytest.fixture(autouse=True)
def environment(tmp_path):
    with clean(tmp_path / "home") as patch:
        yield patch


def options(folder: Path, wandb: str = "offline", **more) -> train.RunOptions:
    return train.RunOptions(folder / "results", wandb=wandb, threads=1, **more)


def raw(log: Path) -> list[dict]:
    """Every record of a log in W&B's own words."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(log)]
    return [
        json.loads(line)
        for line in subprocess.run(
            command, capture_output=True, text=True, check=True
        ).stdout.splitlines()
    ]


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory):
    """A finished run of the sweep "quick", mirrored with every way to the network leading to a
    server that counts the knocks.
    """
    folder = tmp_path_factory.mktemp("mirrored")
    with clean(folder / "home") as patch, socket.create_server(("127.0.0.1", 0)) as server:
        for name in ("WANDB_BASE_URL", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
            patch.setenv(name, f"http://127.0.0.1:{server.getsockname()[1]}")
        connect = socket.socket.connect

        def refuse(self, address):
            assert self.family == socket.AF_UNIX or address[0] == "127.0.0.1", (
                f"reached for {address}"
            )
            return connect(self, address)

        patch.setattr(socket.socket, "connect", refuse)
        record = train.run(make(TINY | {"model": DROPOUT}), options(folder, sweep="quick"))
        server.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            pytest.fail(f"W&B knocked on its server: {server.accept()}")
    (log,) = folder.rglob("*.wandb")
    return SimpleNamespace(
        record=record,
        log=log,
        raw=raw(log),
        read=wandb_log.read(log),
        home=folder / "home",
        results=folder / "results",
    )


# The W&B mirror


def test_the_rows_are_the_records(mirrored):
    """Each row of metrics.jsonl, and nothing else, is in W&B's log; so are the final numbers."""
    assert mirrored.read.rows == mirrored.record.rows()
    assert len(mirrored.read.rows) == 3
    summary = {
        k: v for k, v in mirrored.record.summary.items() if k not in ("plan", "schema_version")
    }
    assert {k: mirrored.read.summary[k] for k in summary} == summary


def test_the_config_tells_of_config_and_provenance(mirrored):
    """Every field of RunConfig, the provenance of the record, and the sweep."""
    config = dict(mirrored.read.config)
    assert config.pop("provenance") == mirrored.record.provenance
    assert config.pop("sweep") == "quick"
    assert config == mirrored.record.config


def test_the_plan_is_a_table(mirrored):
    """One line per weight, as in the record."""
    assert mirrored.read.plan() == mirrored.record.summary["plan"]


def test_histograms_count_every_tile_value(mirrored):
    """The first epoch's row has one histogram per tiled layer, of its q column sums, and one of its
    alphas.
    """
    first = next(r["history"]["item"] for r in mirrored.raw if r["type"] == "history")
    counts = [sum(v) for k, v in first.items() if k.startswith("tile/s/") and k.endswith(".values")]
    assert sorted(counts) == sorted(row["q"] for row in mirrored.record.summary["plan"])
    assert sum(k.startswith("tile/alphas/") and k.endswith("._type") for k in first) == len(counts)


def test_the_packed_network_is_an_artifact(mirrored):
    """A model artifact whose staged file is a packed file of the accounted size, and loads."""
    (found,) = [
        r["artifact"]
        for r in mirrored.raw
        if r["type"] == "artifact" and r["artifact"]["type"] == "model"
    ]
    staged = Path(found["manifest"]["contents"][0]["local_path"])
    assert staged.is_relative_to(mirrored.record.path)
    assert packed_file.read(staged).payload_bytes == mirrored.record.summary["stored_bytes"]
    x = torch.randn(2, *mirrored.record.config and (1, 8, 8))
    assert export.load(mirrored.record.path / NETWORK)(x).shape == (2, 4)


def test_a_sweep_is_a_group(mirrored):
    """Group = sweep, job type = binarizer.

    The id differs from that of the same config in another sweep.
    """
    (run,) = [r["run"] for r in mirrored.raw if r["type"] == "run"]
    assert (run["run_group"], run["job_type"], run["project"]) == ("quick", "tbn", "tbn_bench")
    assert set(run["tags"]) == {"synthetic", "vit", "tbn"}
    assert run["run_id"] == f"{mirrored.record.run_id}-quick"


def test_the_mirror_changes_no_number(mirrored, tmp_path):
    """With dropout, which would notice a touched random state: rows and summary of the same run
    without a mirror.
    """
    alone = train.run(make(mirrored.record.config), options(tmp_path, "off"))
    drop = TIMES
    assert [{k: v for k, v in r.items() if k not in drop} for r in alone.rows()] == [
        {k: v for k, v in r.items() if k not in drop} for r in mirrored.record.rows()
    ]
    assert {k: v for k, v in alone.summary.items() if k not in drop} == {
        k: v for k, v in mirrored.record.summary.items() if k not in drop
    }


def test_all_of_it_lies_in_the_run(mirrored):
    """Logs and staged files are under the run's ignored wandb folder.

    The home directory has nothing of W&B; the environment is as before.
    """
    assert mirrored.log.is_relative_to(mirrored.record.path / "wandb")
    assert [p for p in mirrored.home.rglob("*") if "wandb" in p.name] == []
    assert not [n for n in os.environ if n in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR")]


def test_the_users_places_and_names_are_respected(tmp_path, environment):
    """WANDB_DIR and WANDB_PROJECT win.

    Nothing of W&B is left in the run's folder but the staged files' copy.
    """
    environment.setenv("WANDB_DIR", str(tmp_path / "mine"))
    environment.setenv("WANDB_PROJECT", "elsewhere")
    record = train.run(make(PLAIN), options(tmp_path))
    (log,) = (tmp_path / "mine").rglob("run-*.wandb")
    assert next(r["run"]["project"] for r in raw(log) if r["type"] == "run") == "elsewhere"
    assert list(record.path.rglob("*wandb*")) == []
    assert transfer.folders(record) == [log.parent]


def test_a_disabled_wandb_stays_off(tmp_path, environment):
    """WANDB_MODE=disabled: no mirror, whatever --wandb says."""
    environment.setenv("WANDB_MODE", "disabled")
    assert mirror.tidy((), "offline") == ()
    assert mirror.tidy(("tensorboard",), "online") == ("tensorboard",)


# What goes wrong


@pytest.mark.parametrize("part", ["start", "log", "finish"])
def test_a_failing_mirror_fails_no_run(part, tmp_path, environment, capsys):
    """Whatever a mirror raises, in its start, in an epoch or at the end: one line on stderr, a
    finished run.
    """

    def broken(*args):
        raise OSError("no space left")

    for name in ("start", "log", "finish"):
        environment.setattr(WandbMirror, name, broken if name == part else lambda *args: None)
    record = train.run(make(TINY), options(tmp_path))
    (line,) = capsys.readouterr().err.splitlines()
    assert "the wandb mirror is lost (OSError: no space left)" in line
    assert (record.status, len(record.rows())) == ("finished", 3)


def test_failing_histograms_cost_the_mirror_nothing_else(tmp_path, environment, capsys):
    """One line on stderr for the whole run; rows still arrive in the mirror."""
    seen = []
    environment.setattr(WandbMirror, "start", lambda *args: None)
    environment.setattr(
        WandbMirror, "log", lambda self, row, found, epoch: seen.append((epoch, found))
    )
    environment.setattr(WandbMirror, "finish", lambda *args: None)
    environment.setattr(mirror, "tile_histograms", lambda model: 1 / 0)
    assert train.run(make(TINY), options(tmp_path)).status == "finished"
    assert ["no histograms" in line for line in capsys.readouterr().err.splitlines()] == [True]
    assert seen == [(0, {}), (1, {}), (2, {})]


def test_a_key_is_asked_for_before_the_run(tmp_path, capsys):
    """--wandb online without a key: one line that says what to do, and no record."""
    flags = [f"--{k}={v}" for k, v in PLAIN.items()]
    assert (
        cli.main(
            ["train", "--quiet", "--wandb=online", f"--results={tmp_path / 'results'}", *flags]
        )
        == 1
    )
    assert "WANDB_API_KEY" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "results").exists()


def test_a_missing_package_is_named(environment):
    """An unknown tracker lists the known; one that is not installed names what to install."""
    environment.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="wandb, tensorboard, mlflow, got 'tensorbord'"):
        mirror.check(("tensorbord",), "off")
    with pytest.raises(ModuleNotFoundError) as caught:
        mirror.check(("mlflow",), "off")
    line = extras.install_line(caught.value, "tbn-bench train", own="train")
    assert line == 'tbn-bench train needs mlflow: pip install "tbn-bench[trackers]"'


def test_a_failed_run_ends_its_mirror(tmp_path):
    """The log says that the run failed, has the finished epochs, and no final number."""
    with pytest.raises(PowerCut):
        cut(make(TINY), tmp_path)
    log = wandb_log.read(next(tmp_path.rglob("*.wandb")))
    assert (log.exit_code, log.summary["status"], len(log.rows)) == (1, "failed", 2)
    assert offline.outcome(log) == ("failed", {})


class PowerCut(Exception):
    """What is raised in the third epoch."""


def cut(config, folder):
    original = ImageClassification.training_step

    def step(task, *args):
        if task.current_epoch == 2:
            raise PowerCut
        return original(task, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageClassification, "training_step", step)
        train.run(config, options(folder))


# What the tiles look like


def test_column_sums_by_hand():
    """W = [[1, 1], [3, -1]] in p = 2 rows: s = (4, 0), mean |s| = 2, so 2 and 0 are counted."""
    net = nn.Sequential(nn.Linear(2, 2, bias=False))
    binarize_(net, "tbn(p=2, min_layer_size=0)")
    net[0].parametrizations.weight.original.data = torch.tensor([[1.0, 1.0], [3.0, -1.0]])
    found = diagnostics.tile_histograms(net)
    h = found["tile/s/0"]
    assert [h.edges[i] for i in np.flatnonzero(h.counts)] == [0.0, 2.0]
    assert found["tile/alphas/0"].counts.sum() == 2


@pytest.mark.parametrize(
    "binarizer", ["tbn(p=2, min_layer_size=0)", "bwn", "sign", "full_precision"]
)
def test_at_most_twelve_layers(binarizer):
    """Of 20 layers twelve, first and last among them.

    Scales wherever a method has them, column sums only of tiles.
    """
    net = nn.Sequential(*[nn.Linear(4, 4) for _ in range(20)])
    binarize_(net, binarizer)
    found = diagnostics.tile_histograms(net)
    sums, alphas = ([k for k in found if k.startswith(f"tile/{kind}/")] for kind in ("s", "alphas"))
    assert len(sums) == (12 if "tbn" in binarizer else 0)
    assert len(alphas) == (12 if binarizer[:3] in ("tbn", "bwn") else 0)
    assert all(
        {k.rpartition("/")[2] for k in names} >= {"0", "19"} for names in (sums, alphas) if names
    )


def test_histograms_wait_until_they_are_cheap(environment):
    """By a clock of the test: histograms that take 1 s come in the first epoch, again past 40 s (2
    s are 5 %) and past 60 s.
    """
    now, seen = [0.0], []
    environment.setattr(mirror, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    environment.setattr(
        mirror, "tile_histograms", lambda model: now.__setitem__(0, now[0] + 1) or {"h": None}
    )
    mirrors = mirror.Mirrors()
    mirrors.live = {
        "probe": SimpleNamespace(
            log=lambda row, found, epoch: seen.append(epoch) if found else None
        )
    }
    for epoch in range(9):
        mirrors.log({"epoch": epoch}, None)
        now[0] += 9
    assert seen == [0, 5, 7]


# Reading W&B's files


def test_both_readers_agree(mirrored):
    """W&B's own reader and ours of the file format give the same rows, config, summary and end."""
    assert wandb_log.read_leet(mirrored.log) == wandb_log.read_protobuf(mirrored.log)


def test_another_wandb_is_read_by_the_format(mirrored, environment):
    """Outside the versions that the command was checked with it is not called."""
    environment.setattr(wandb_log, "installed", lambda: (0, 99))
    environment.setattr(wandb_log, "read_leet", lambda path: pytest.fail("called"))
    assert wandb_log.read(mirrored.log).rows == mirrored.record.rows()


def test_a_cut_log_gives_what_is_before_the_cut(mirrored, tmp_path):
    """At every length: rows of a beginning of the run, never a made-up one, and no exit."""
    data, rows, counts = mirrored.log.read_bytes(), mirrored.record.rows(), set()
    for size in range(len(wandb_log.MAGIC), len(data) - 20, 997):
        (tmp_path / "run-cut.wandb").write_bytes(data[:size])
        log = wandb_log.read_protobuf(tmp_path / "run-cut.wandb")
        assert log.rows == rows[: len(log.rows)]
        counts.add(len(log.rows))
    assert len(counts) > 1
    assert log.exit_code is None or log.rows == rows


def test_a_damaged_block_is_skipped(mirrored, tmp_path):
    """40 bytes overwritten: the rest of that block is lost, no garbage comes back."""
    data = bytearray(mirrored.log.read_bytes())
    data[2000:2040] = b"\xff" * 40
    (tmp_path / "run-bad.wandb").write_bytes(data)
    rows = wandb_log.read_protobuf(tmp_path / "run-bad.wandb").rows
    assert all(row in mirrored.record.rows() for row in rows)


def test_no_log_at_all(tmp_path):
    """A file of another kind, and a folder without runs, are refused in words."""
    (tmp_path / "run-x.wandb").write_text("hello")
    with pytest.raises(ValueError, match="is not a W&B log"):
        wandb_log.read(tmp_path / "run-x.wandb")
    assert (
        "holds no W&B run"
        in transfer.import_runs([tmp_path / "home"], tmp_path / "r")["refused"][0]
    )


# tbn-bench runs import


def test_import_is_a_round_trip(mirrored, tmp_path):
    """Config, rows and summary of the imported record are the original's.

    Provenance says where it comes from; reports read it.
    """
    said = transfer.import_runs([mirrored.log.parent], tmp_path / "results")
    assert said["imported"] == [f"quick/{mirrored.record.run_id} (finished)"]
    found = RunStore(tmp_path / "results").read("quick", mirrored.record.run_id)
    assert (found.config, found.rows(), found.summary) == (
        mirrored.record.config,
        mirrored.record.rows(),
        mirrored.record.summary,
    )
    assert found.provenance == mirrored.record.provenance | {
        "imported": True,
        "imported_from": str(mirrored.log),
    }
    assert load(tmp_path / "results").problems == []


def test_import_overwrites_nothing(mirrored):
    """The run is in the store already: refused, exit status 1, no byte changed."""
    before = {p: p.read_bytes() for p in mirrored.record.path.glob("*.json*")}
    said = transfer.import_runs([mirrored.log], mirrored.results)
    assert (said["imported"], said["failed"]) == ([], 1)
    assert "already" in said["refused"][0]
    assert before == {p: p.read_bytes() for p in mirrored.record.path.glob("*.json*")}


FOREIGN = {
    "another program": (
        {"learning_rate": 0.1, "arch": "resnet"},
        "lacks data, model, binarizer; it has learning_rate, arch",
    ),
    "another version": ({**TINY, "sparsity": 0.5}, "unknown parameter 'sparsity'"),
    "another binarizer": ({**TINY, "lr": -1}, "lr: Input should be greater than 0"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_runs_are_refused(kind, tmp_path):
    """In words that name the keys of the config that do not fit."""
    config, said = FOREIGN[kind]
    with pytest.raises(ValueError, match=said):
        offline.store_run(
            RunStore(tmp_path), wandb_log.Log(Path("x.wandb"), "x", config=config), "x"
        )
    assert not any(tmp_path.glob("runs"))


def written(path, config, rows=(), group="", code=0):
    """A W&B log as W&B writes it: its head, then one record each for run, rows and exit."""
    messages = [Record(run=RunRecord(run_id="x", run_group=group))]
    for key, value in config.items():
        messages[0].run.config.update.add(key=key, value_json=json.dumps(value))
    for row in rows:
        message = Record()
        for key, value in row.items():
            message.history.item.add(key=key, value_json=json.dumps(value))
        messages.append(message)
    messages.append(Record(exit=RunExitRecord(exit_code=code)))
    data = wandb_log.MAGIC + bytes(3)
    for message in messages:
        content = message.SerializeToString()
        assert len(data) + len(content) < wandb_log.BLOCK
        kind = wandb_log.FULL
        checksum = zlib.crc32(content, zlib.crc32(bytes([kind])))
        data += struct.pack("<IHB", checksum, len(content), kind) + content
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def quick(monkeypatch):
    """Logs are read by their format, without starting W&B's own reader for each."""
    monkeypatch.setattr(wandb_log, "installed", tuple)


OUTSIDE = ("{}/outside", "../../../X", "..", ".", "a/b", "a\\b", "a\0b", "a\x1b[2Jb", "a\ue000b")
NAMED = [("sweep", name) for name in (*OUTSIDE, ["../X"], {"a": 1})] + [
    ("group", name) for name in OUTSIDE
]


@pytest.mark.parametrize(("where", "sweep"), NAMED, ids=str)
def test_a_name_from_a_log_is_no_path(where, sweep, tmp_path, quick):
    """Refused by name, and no file is made anywhere; a good run beside it is imported."""
    if isinstance(sweep, str):
        sweep = sweep.format(tmp_path)
    bad = tmp_path / "logs" / "bad" / "run-bad.wandb"
    if where == "sweep":
        written(bad, TINY | {"sweep": sweep})
    else:
        written(bad, TINY, group=sweep)
    written(tmp_path / "logs" / "good" / "run-good.wandb", TINY, group="good")
    before = tree(tmp_path)
    said = transfer.import_runs([bad], tmp_path / "a" / "b" / "results")
    assert (said["imported"], said["failed"]) == ([], 1)
    assert f"{bad}: its sweep is not imported" in said["refused"][0]
    assert said["refused"][0].isprintable()
    assert tree(tmp_path) == before
    assert transfer.import_runs([tmp_path / "logs"], tmp_path / "r")["imported"] == [
        f"good/{make(TINY).run_id} (interrupted)"
    ]


def test_a_name_from_a_server_is_no_path(tmp_path):
    """The same through the API; and a run's id leads to no table on this disk."""
    table = tmp_path / "files" / "media" / "table" / "plan_0.table.json"
    table.parent.mkdir(parents=True)
    table.write_text("never read")
    config = {**make(TINY).model_dump(mode="json"), "sweep": "ok"}
    summary = {"score": "top1", "test/top1": 0.5}

    def run(**values):
        given = {
            "id": "r",
            "state": "finished",
            "group": "",
            "config": config,
            "summary": summary,
            "scan_history": list,
        }
        return SimpleNamespace(**given | values)

    runs = [
        run(config=config | {"sweep": "../../X"}),
        run(config=TINY, group="/X"),
        run(id=f"{tmp_path}/x"),
    ]
    said = transfer.import_runs(
        [], tmp_path / "r", "me/p", SimpleNamespace(runs=lambda project: runs)
    )
    assert said["imported"] == [f"ok/{make(TINY).run_id} (finished)"]
    assert [("its sweep is not imported" in line) for line in said["refused"]] == [True, True]
    assert "plan" not in RunStore(tmp_path / "r").read("ok", make(TINY).run_id).summary


ODD_VALUES = {
    "loss text": (
        {"epoch": 0, "train/loss": "low"},
        {},
        {},
        "line 1: it must have numbers for train/loss",
    ),
    "top1 of 7": ({"epoch": 0, "val/top1": 7}, {}, {}, "line 1: val/top1"),
    "test score": ({"epoch": 0}, {"test/top1": 7}, {}, "its summary is not imported: test/top1"),
    "test score NaN": (
        {"epoch": 0},
        {"test/top1": "NaN"},
        {},
        "its summary is not imported: it must have numbers",
    ),
    "started": (
        {"epoch": 0},
        {},
        {"started": "one day"},
        "its provenance is not imported: started",
    ),
    "hardware": (
        {"epoch": 0},
        {},
        {"hardware": "fast"},
        "its provenance is not imported: hardware",
    ),
    "versions": ({"epoch": 0}, {}, {"versions": [1]}, "its provenance is not imported: versions"),
    "track": ({"epoch": 0}, {}, {"track": "W2A2"}, "its provenance is not imported: track"),
}


@pytest.mark.parametrize("kind", ODD_VALUES)
def test_what_verify_would_refuse_is_not_imported(kind, tmp_path):
    """Named, and nothing is written; a diverged row beside it is no reason."""
    row, summary, source, said = ODD_VALUES[kind]
    store = RunStore(tmp_path / "r")
    config = make(TINY).model_dump(mode="json") | {"sweep": "s", "provenance": source}
    diverged = {"epoch": 1, "train/loss": float("nan")}
    whole = {"score": "top1", "test/top1": 0.5, "test/loss": float("inf")}
    log = wandb_log.Log(
        Path("x"), "x", config=config, rows=[row, diverged], summary=whole | summary, exit_code=0
    )
    with pytest.raises(ValueError, match=said):
        offline.store_run(store, log, "x")
    assert not store.root.exists()
    log.rows, log.summary = [{"epoch": 0}, diverged], whole
    log.config["provenance"] = {}
    assert offline.store_run(store, log, "x") == f"s/{make(TINY).run_id} (finished)"


ODD_ROWS = {"text": "0", "list": [0], "null": None, "fraction": 0.5, "bool": True}


@pytest.mark.parametrize("epoch", ODD_ROWS.values(), ids=ODD_ROWS)
def test_a_row_of_another_shape_costs_its_own_run(epoch, tmp_path, quick):
    """Named and refused; the next run is imported."""
    bad = written(
        tmp_path / "a" / "run-a.wandb", TINY | {"sweep": "bad"}, [{"epoch": epoch}, {"epoch": 1}]
    )
    written(tmp_path / "b" / "run-b.wandb", TINY | {"sweep": "good"}, [{"epoch": 0}])
    said = transfer.import_runs([tmp_path], tmp_path / "r")
    assert said["imported"] == [f"good/{make(TINY).run_id} (interrupted)"]
    assert f"{bad}: an epoch must be a whole number" in said["refused"][0]


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"columns": ["shape"], "data": [[3]]}',
        '{"columns": [], "data": [[]]}',
        "[" * 100_000,
    ],
)
def test_a_plan_of_another_shape_is_named(content, tmp_path):
    """A table that holds no plan is a ValueError with its path."""
    (tmp_path / "plan_0.table.json").write_text(content)
    with pytest.raises(ValueError, match=r"plan_0.table.json is no table of a plan"):
        wandb_log.Log(Path("x.wandb"), tables=tmp_path).plan()


def test_a_log_that_breaks_its_reader_is_named(tmp_path, quick):
    """A whole record, its checksum right, that is none of W&B's messages."""
    content = b"\xff" * 40
    checksum = zlib.crc32(content, zlib.crc32(bytes([wandb_log.FULL])))
    head = struct.pack("<IHB", checksum, len(content), wandb_log.FULL)
    path = tmp_path / "run-x.wandb"
    path.write_bytes(wandb_log.MAGIC + bytes(3) + head + content)
    said = transfer.import_runs([path], tmp_path / "r")
    assert (said["imported"], said["failed"]) == ([], 1)
    assert f"{path} is a damaged W&B log" in said["refused"][0]


KILLED = """
import os, signal, sys, time
import wandb
from tbn_bench.config import make
config = make({"epochs": 400}).model_dump(mode="json") | {"provenance": {"commit": "abc"}, "sweep": "single"}
settings = wandb.Settings(silent=True, console="off")
run = wandb.init(project="tbn_bench", id="killed", config=config, mode="offline", dir=sys.argv[1], settings=settings)
for epoch in range(400):
    run.log({"epoch": epoch, "step": epoch, "train/loss": 1 / (epoch + 1), "note": "x" * 200}, step=epoch, commit=True)
time.sleep(0.5)
os.killpg(0, signal.SIGKILL)
"""


def test_a_killed_run_is_imported_as_unfinished(tmp_path):
    """SIGKILL of the process group: the rows W&B had written by then (all or some), from the first
    on; interrupted, no summary.
    """
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], check=False, start_new_session=True
    )
    assert done.returncode == -signal.SIGKILL
    said = transfer.import_runs([tmp_path], tmp_path / "imported")
    (record,) = RunStore(tmp_path / "imported").runs()
    assert said["imported"] == [f"single/{record.run_id} (interrupted)"]
    assert (record.status, record.summary, record.provenance["commit"]) == (
        "interrupted",
        None,
        "abc",
    )
    assert "killed" in record.error
    assert [row["epoch"] for row in record.rows()] == list(range(len(record.rows())))
    assert (
        50 < len(record.rows()) <= 400
    )  # W&B's process may outlive ours by long enough to write the rest


def test_a_resumed_run_is_one_record(tmp_path):
    """Two offline folders of one run: each epoch once, the end of the second."""
    with pytest.raises(PowerCut):
        cut(make(TINY), tmp_path)
    time.sleep(1.1)  # W&B's folders are named by the second
    record = train.run(make(TINY), options(tmp_path))
    assert len(transfer.folders(record)) == 2
    said = transfer.import_runs([record.path / "wandb"], tmp_path / "imported")
    assert said["imported"] == [f"single/{record.run_id} (finished)"]
    found = RunStore(tmp_path / "imported").read("single", record.run_id)
    assert (found.rows(), found.summary) == (record.rows(), record.summary)


def test_a_project_is_imported_through_the_api(mirrored, tmp_path):
    """By an object in the form of wandb.Api, as no server can be asked here: numbers in, media and
    W&B's own values left out.
    """
    rows = [
        {**row, "_step": i, "tile/s/1": {"_type": "histogram"}}
        for i, row in enumerate(mirrored.record.rows())
    ]
    summary = {**mirrored.read.summary, "_runtime": 3, "plan": {"_type": "table-file"}}
    run = SimpleNamespace(
        id="r1",
        state="finished",
        group="quick",
        config=mirrored.read.config,
        summary=summary,
        scan_history=lambda: rows,
    )
    api = SimpleNamespace(runs=lambda project: [run] if project == "me/tbn_bench" else [])
    said = transfer.import_runs([], tmp_path, "me/tbn_bench", api)
    found = RunStore(tmp_path).read("quick", mirrored.record.run_id)
    assert said["failed"] == 0
    assert (found.rows(), found.provenance["imported_from"]) == (
        mirrored.record.rows(),
        "wandb:me/tbn_bench/r1",
    )
    assert found.summary == {k: v for k, v in mirrored.record.summary.items() if k != "plan"}


def test_the_api_needs_a_key(tmp_path):
    """Said in words, before anything is asked; and one of folders and project is needed."""
    with pytest.raises(ValueError, match="runs import --project needs a W&B key"):
        transfer.import_runs([], tmp_path, "me/tbn_bench")
    with pytest.raises(ValueError, match="and not both"):
        transfer.import_runs([], tmp_path)


# tbn-bench runs sync


def test_sync_lists_then_needs_a_key(mirrored):
    """--dry-run names the folder of the finished run.

    Without --dry-run a missing key is said, nothing is called.
    """
    said = transfer.sync([], mirrored.results, dry_run=True)
    assert (said["runs"], said["folders"]) == (1, [str(mirrored.log.parent)])
    with pytest.raises(ValueError, match="runs sync needs a W&B key"):
        transfer.sync([mirrored.record.run_id], mirrored.results)


def test_sync_pushes_each_folder_once(mirrored, tmp_path, environment):
    """With a key `wandb sync` gets the folder.

    W&B's mark of a pushed folder keeps it from the next time; its failure is said.
    """
    shutil.copytree(mirrored.results, tmp_path / "results")
    asked = []
    environment.setattr(transfer, "require_key", lambda what: None)
    done = SimpleNamespace(returncode=1, stdout="", stderr="a\nError: quota")
    environment.setattr(
        transfer.subprocess, "run", lambda command, **_: asked.append(command) or done
    )
    with pytest.raises(RuntimeError, match="wandb sync failed: Error: quota"):
        transfer.sync([], tmp_path / "results")
    (folder,) = (Path(p) for p in asked[0][4:])
    (folder / "run-x.wandb.synced").touch()
    assert (asked[0][1:4], transfer.sync([], tmp_path / "results")["runs"]) == (
        ["-m", "wandb", "sync"],
        0,
    )


# Other trackers


def test_tensorboard_has_the_rows(tmp_path):
    """Its own reader gives every number of metrics.jsonl by epoch (float32), histograms, plan and
    final numbers.
    """
    pytest.importorskip(
        "tensorboard", reason="tensorboard is not installed: pip install 'tbn-bench[trackers]'"
    )
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    record = train.run(
        make(TINY), options(tmp_path, "off", trackers=("tensorboard",), sweep="quick")
    )
    events = EventAccumulator(
        str(tmp_path / "results/logs/tensorboard/quick" / record.run_id)
    ).Reload()
    for key in ("train/loss", "val/top1", "lr"):
        assert [(e.step, e.value) for e in events.Scalars(key)] == [
            (r["epoch"], pytest.approx(r[key])) for r in record.rows()
        ]
    assert "tile/s/1" in events.Tags()["histograms"]
    assert events.Scalars("final/test/top1")[0].value == pytest.approx(record.summary["test/top1"])


def test_one_run_at_a_time_opens_the_data_base_of_mlflow(tmp_path, monkeypatch):
    """Under the lock, which is free afterwards; a run that waits too long says for what."""
    path, seen = tmp_path / ".mlflow.lock", []
    one = lightning_mirrors.MLflowMirror()
    monkeypatch.setattr(one, "_open", lambda subject: seen.append(locks.is_held(path)))
    one.start(SimpleNamespace(logs=tmp_path))
    assert (seen, locks.is_held(path)) == ([True], False)
    monkeypatch.setattr(lightning_mirrors, "_WAIT_S", 0)
    with (
        locks.take(path),
        pytest.raises(locks.LockError, match="another process has held .*mlflow.lock"),
    ):
        one.start(SimpleNamespace(logs=tmp_path))
    assert seen == [True]


@pytest.mark.filterwarnings("ignore")  # MLflow's own, of SQLAlchemy
def test_mlflow_has_the_rows(tmp_path):
    """An experiment per sweep in results/logs/mlflow.db, its metrics by epoch, the packed network
    as an artifact.
    """
    mlflow = pytest.importorskip(
        "mlflow", reason="mlflow is not installed: pip install 'tbn-bench[trackers]'"
    )
    record = train.run(make(TINY), options(tmp_path, "off", trackers=("mlflow",), sweep="quick"))
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'results/logs/mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("tbn_bench/quick").experiment_id])
    found = sorted(
        (m.step, m.value) for m in client.get_metric_history(run.info.run_id, "train/loss")
    )
    assert found == [(r["epoch"], pytest.approx(r["train/loss"])) for r in record.rows()]
    assert NETWORK in [f.path for f in client.list_artifacts(run.info.run_id)]


# The command line


def test_the_commands_are_wired(mirrored, tmp_path, capsys):
    """`runs import` and `runs sync --dry-run` end with their JSON; a second import exits with 1."""
    results = f"--results={tmp_path / 'results'}"
    assert cli.main(["runs", "import", str(mirrored.log.parent), results]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["failed"] == 0
    assert cli.main(["runs", "import", str(mirrored.log.parent), results]) == 1
    assert cli.main(["runs", "sync", "--dry-run", f"--results={mirrored.results}"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["folders"] == [
        str(mirrored.log.parent)
    ]


def test_trackers_reach_the_runs():
    """`--tracker` of a sweep is among the flags of each of its runs, and `train` takes it repeated
    and as a list.
    """
    args = make_parser().parse_args(["train", "--tracker=tensorboard", "--tracker=mlflow,wandb"])
    assert mirror.tidy(tuple(args.tracker), "off") == ("wandb", "tensorboard", "mlflow")
    assert "--tracker=mlflow" in ExecutionOptions(trackers=("mlflow",)).flags
