"""Guards one run from command to report: numbers trace back to files, and no kill, NaN, error or
damaged file loses or fakes a result.
"""

import contextlib
import copy
import errno
import io
import json
import math
import os
import pickle
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tbn_bench import catalog, cli
from tbn_bench.cli.flags import config_of
from tbn_bench.cli.parser import make_parser
from tbn_bench.config import make
from tbn_bench.convert.binarize import binarize_
from tbn_bench.experiment import callbacks, train
from tbn_bench.experiment.build import build
from tbn_bench.experiment.weights import trained
from tbn_bench.records import tiles
from tbn_bench.records.files import RecordError
from tbn_bench.records.run import RunBusy
from tbn_bench.records.store import RunStore
from tbn_bench.records.summary import TIMES
from tbn_bench.reporting.load import load
from tbn_bench.reporting.tables.comparison import comparison
from tbn_bench.runs.faults import faults
from tbn_bench.tasks._base import DivergedError, binary_weights
from tbn_bench.tasks.image_classification import ImageClassification

TINY = {"data": "synthetic", "model": "mlp(hidden=[8])", "binarizer": "tbn(p=2, min_layer_size=0)", "epochs": 4, "batch_size": 16,
        "lr": 0.05}  # fmt: skip
STEPS = 3  # per epoch: synthetic trains on 48 images
MID_EPOCH_2 = 2 * STEPS + 1  # the global step, counted from 0, in the middle of the third epoch
VIT = "vit(patch=4, dim=16, depth=1, heads=2, head_dim=8, mlp_dim=16, dropout=0.2)"  # dropout: the only user of the random state
RECIPES = {
    "adam": {"optimizer": "adam", "lr": 0.01, "schedule": "constant"},
    "sgd_cosine_warmup": {"momentum": 0.9, "schedule": "cosine", "warmup_epochs": 1},
    "sgd_step": {"momentum": 0.9, "schedule": "step", "step_epochs": 1},
    "adamw_dropout": {"optimizer": "adamw", "lr": 0.01, "model": VIT},
}


class PowerCut(Exception):
    """What the tests raise in the middle of a run."""


def options(folder: Path, wandb: str = "off") -> train.RunOptions:
    return train.RunOptions(folder / "results", wandb=wandb, threads=1)


def record_of(config, folder: Path):
    return RunStore(folder / "results").read("single", config.run_id)


@contextlib.contextmanager
def watch(method: str, before):
    """Calls before(task) ahead of every ImageClassification.<method>, e.g. to count or to raise."""
    with pytest.MonkeyPatch.context() as patch:
        original = getattr(ImageClassification, method)
        patch.setattr(
            ImageClassification,
            method,
            lambda task, *args: (before(task), original(task, *args))[1],
        )
        yield


def stopped(config, folder: Path, step: int):
    """A run that fails just before global step `step`."""

    def cut(task):
        if task.global_step == step:
            raise PowerCut("power cut")

    with watch("training_step", cut), pytest.raises(PowerCut):
        train.run(config, options(folder))
    return record_of(config, folder)


def bits(value):
    """A checkpoint part with tensors as bytes, so that == compares bit by bit."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.numpy().tobytes()
    if isinstance(value, dict):
        return {k: bits(v) for k, v in value.items()}
    return [bits(v) for v in value] if isinstance(value, list | tuple) else value


def outcome(record):
    """All that must be equal between two ways to the same result; wall times are left out."""
    checkpoints = [
        torch.load(record.path / "checkpoints" / n, weights_only=True)
        for n in ("last.ckpt", "best.ckpt")
    ]
    parts = ("epoch", "global_step", "state_dict", "optimizer_states", "lr_schedulers")
    return {
        "rows": [{k: v for k, v in row.items() if k not in TIMES} for row in record.rows()],
        "summary": {k: v for k, v in (record.summary or {}).items() if k not in TIMES},
        "checkpoints": [{k: bits(c[k]) for k in parts} for c in checkpoints],
    }


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """straight(config) -> the record of the config trained in one go, made once."""
    folder = tmp_path_factory.mktemp("straight")
    return lambda config: train.run(config, options(folder))


@pytest.fixture(scope="module")
def journey(tmp_path_factory):
    """`tbn-bench train` in this process: its exit status, its output and the record it left."""
    results = tmp_path_factory.mktemp("journey") / "results"
    flags = [f"--{k}={v}" for k, v in TINY.items()]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        status = cli.main(
            ["train", "--quiet", "--wandb=off", "--threads=1", f"--results={results}", *flags]
        )
    record = RunStore(results).find(make(TINY).run_id)
    return SimpleNamespace(
        status=status, lines=out.getvalue().splitlines(), results=results, record=record
    )


def test_the_command_leaves_a_whole_record(journey):
    """Exit 0, status finished without error, a row per epoch.

    The last line of stdout is the summary as JSON.
    """
    record, said = journey.record, json.loads(journey.lines[-1])
    assert (journey.status, record.status, record.error) == (0, "finished", None)
    assert json.loads((record.path / "run.json").read_text())["status"] == "finished"
    assert [(row["epoch"], row["step"]) for row in record.rows()] == [
        (e, STEPS * (e + 1)) for e in range(4)
    ]
    assert {k: said[k] for k in record.summary if k != "plan"} == {
        k: v for k, v in record.summary.items() if k != "plan"
    }


def test_summary_numbers_trace_back(journey):
    """The selected epoch is the best held-out row, the test accuracy is that checkpoint's, the
    sizes are sums over the plan.
    """
    record, summary = journey.record, journey.record.summary
    val = [row["val/top1"] for row in record.rows()]
    assert (summary["best_epoch"], summary["val/top1_last"]) == (val.index(max(val)), val[-1])
    run = trained(record)
    data = run.data
    model = run.model
    data.setup()
    x, y = data.splits["test"]
    with torch.no_grad():
        top1 = (model(data.prepare(x)).argmax(1) == y).float().mean().item()
    assert summary["test/top1"] == pytest.approx(top1, abs=1e-6)
    assert (summary["test_samples"], summary["train_samples"]) == (32, 48)
    assert sum(row["stored_bits"] for row in summary["plan"]) == summary["stored_bits_weights"]
    assert summary["bits_per_weight"] == summary["stored_bits_weights"] / sum(
        row["numel"] for row in summary["plan"]
    )


def test_recorded_command_makes_the_run(journey):
    """The command in run.json, split by a shell, parses to the recorded config and run id."""
    args = make_parser().parse_args(shlex.split(journey.record.provenance["command"])[1:])
    assert config_of(args) == make(journey.record.config)
    assert config_of(args).run_id == journey.record.run_id


def test_report_readers_take_the_record(journey):
    """The loader finds one finished run and its curve without problems, and the table prints the
    recorded accuracy.
    """
    records = load(journey.results)
    assert records.problems == []
    assert list(records.finished["run_id"]) == [journey.record.run_id]
    assert list(records.curves["val/score"]) == [row["val/top1"] for row in journey.record.rows()]
    assert [row["top1"] for row in comparison(records).rows] == [
        journey.record.summary["test/top1"]
    ]


def test_a_finished_run_is_returned_untouched(journey):
    """The same config again trains nothing and changes no byte of the record."""
    before = {
        p: (p.read_bytes(), p.stat().st_mtime_ns) for p in journey.record.path.glob("*.json*")
    }
    with watch("training_step", lambda task: pytest.fail("trained again")):
        again = train.run(make(TINY), options(journey.results.parent))
    assert again.summary == journey.record.summary
    assert before == {
        p: (p.read_bytes(), p.stat().st_mtime_ns) for p in journey.record.path.glob("*.json*")
    }


def test_a_run_finished_by_another_process_keeps_its_header(tmp_path, monkeypatch):
    """Finished between the look and the claim: run.json still tells of the process that made the
    numbers.
    """
    record, look, looks = train.run(make(TINY), options(tmp_path)), RunStore.finished, []
    before = (record.path / "run.json").read_bytes()
    monkeypatch.setattr(
        RunStore, "finished", lambda *args: looks.append(args) or (len(looks) > 1 and look(*args))
    )
    assert train.run(make(TINY), options(tmp_path)).summary == record.summary
    assert len(looks) > 1  # it did look again
    assert (record.path / "run.json").read_bytes() == before


def test_rows_tell_of_their_own_epoch(tmp_path):
    """Row e holds the learning rate the optimizer used in epoch e and the share of sign bits that
    changed in epoch e.
    """
    rates, starts, ends = [], [], []

    def note(into):
        return lambda task: into.append(
            torch.cat([method.signs(w.detach()) for _, method, w in binary_weights(task.model)])
        )

    with (
        watch(
            "training_step",
            lambda task: rates.append(task.trainer.optimizers[0].param_groups[0]["lr"]),
        ),
        watch("on_train_epoch_start", note(starts)),
        watch("on_train_epoch_end", note(ends)),
    ):
        rows = train.run(make(TINY), options(tmp_path)).rows()
    assert [row["lr"] for row in rows] == rates[::STEPS]
    flips = [(a != b).float().mean().item() for a, b in zip(starts, ends, strict=True)]
    assert [row.get("tile/flip_rate") for row in rows] == pytest.approx(flips)


def test_each_layer_has_its_shares_of_flips(straight, tmp_path):
    """A row per epoch; weighted by their signs, the layers give the total of the run's row.

    A resume gives the file of a run in one go.
    """
    config = make(TINY)
    record = straight(config)
    found = tiles.read(record.path)
    bits = {row["name"]: row["weight_bits"] for row in record.summary["plan"] if row["binarized"]}
    for row, total in zip(found, record.rows(), strict=True):
        flips = sum(share * bits[name] for name, share in row["flips"].items())
        assert flips / sum(bits.values()) == pytest.approx(total["tile/flip_rate"], rel=1e-3)
    stopped(config, tmp_path, MID_EPOCH_2)
    resumed = train.run(config, options(tmp_path))
    assert tiles.read(resumed.path) == found


@pytest.mark.parametrize("recipe", RECIPES)
def test_resume_is_bit_identical(recipe, straight, tmp_path):
    """Stopped in the third epoch and resumed: rows, weights, optimizer and summary of a run in one
    go; nothing trained twice.
    """
    config = make(TINY | RECIPES[recipe])
    record, steps = stopped(config, tmp_path, MID_EPOCH_2), []
    assert [row["epoch"] for row in record.rows()] == [0, 1]
    with watch("training_step", lambda task: steps.append(task.global_step)):
        resumed = train.run(config, options(tmp_path))
    assert steps == list(
        range(2 * STEPS, 4 * STEPS)
    )  # it went on: starting over would pass the comparison too
    assert outcome(resumed) == outcome(straight(config))


def test_stopped_between_row_and_checkpoint(straight, tmp_path, monkeypatch):
    """A row written just before the power went, without its checkpoint, is trained again and
    recorded once.
    """
    config, save = make(TINY), callbacks.Recorder.on_save_checkpoint

    def cut(recorder, trainer, module, checkpoint):
        if trainer.current_epoch == 2:
            raise PowerCut
        save(recorder, trainer, module, checkpoint)

    monkeypatch.setattr(callbacks.Recorder, "on_save_checkpoint", cut)
    with pytest.raises(PowerCut):
        train.run(config, options(tmp_path))
    monkeypatch.undo()
    assert [row["epoch"] for row in record_of(config, tmp_path).rows()] == [0, 1, 2]
    assert outcome(train.run(config, options(tmp_path))) == outcome(straight(config))


def test_stopped_after_the_last_epoch(straight, tmp_path):
    """All epochs are trained, the test is not: resuming tests, and finishes with the same summary."""
    config = make(TINY)

    def cut(task):
        raise PowerCut

    with watch("test_step", cut), pytest.raises(PowerCut):
        train.run(config, options(tmp_path))
    assert len(record_of(config, tmp_path).rows()) == 4
    assert outcome(train.run(config, options(tmp_path))) == outcome(straight(config))


def test_restart_ignores_checkpoints(tmp_path):
    """--restart trains every step again and leaves each epoch once."""
    config, steps = make(TINY), []
    stopped(config, tmp_path, MID_EPOCH_2)
    with watch("training_step", lambda task: steps.append(task.global_step)):
        record = train.run(config, options(tmp_path), resume=False)
    assert steps == list(range(4 * STEPS))
    assert [row["epoch"] for row in record.rows()] == [0, 1, 2, 3]


def test_restart_trains_a_finished_run_again(tmp_path, capsys):
    """The earlier record is moved to set_aside, never shown as if it were new."""
    config, steps = make(TINY), []
    first = train.run(config, options(tmp_path))
    with watch("training_step", lambda task: steps.append(task.global_step)):
        train.run(config, options(tmp_path))
        assert (steps, "not trained again" in capsys.readouterr().err) == ([], True)
        again = train.run(config, options(tmp_path), resume=False)
    assert steps == list(range(4 * STEPS))
    moved = tmp_path / "results" / "set_aside" / "single" / f"{config.run_id}.1"
    assert json.loads((moved / "summary.json").read_text())["run_id"] == config.run_id
    assert outcome(again)["rows"] == outcome(first)["rows"]


def test_a_checkpoint_of_other_code_is_not_continued(tmp_path, capsys):
    """A run whose binarizer has changed since starts at its first step, and says so."""
    config, steps = make(TINY), []
    record = stopped(config, tmp_path, MID_EPOCH_2)
    header = json.loads((record.path / "run.json").read_text())
    header["provenance"]["fingerprint"]["binarizer"] = "0" * 12
    (record.path / "run.json").write_text(json.dumps(header))
    with watch("training_step", lambda task: steps.append(task.global_step)):
        train.run(config, options(tmp_path))
    assert steps == list(range(4 * STEPS))
    assert "the code of binarizer has changed" in capsys.readouterr().err


@pytest.mark.parametrize("batch_size", [16, 48])
def test_a_nan_is_recorded_as_diverged(batch_size, tmp_path):
    """At 48 the only step of the epoch breaks the weights, so that no training loss shows it: still
    diverged, never a result.
    """
    config = make(
        TINY | {"binarizer": "full_precision", "lr": 1e30, "epochs": 1, "batch_size": batch_size}
    )
    with pytest.raises(DivergedError):
        train.run(config, options(tmp_path))
    record = record_of(config, tmp_path)
    assert (record.status, record.summary) == ("diverged", None)
    assert "lower lr" in record.error
    assert list(load(tmp_path / "results").runs["status"]) == ["diverged"]


def test_a_diverged_run_ends_with_one_line(tmp_path, capsys):
    """On the command line: exit 1, one line on stderr, no JSON that looks like a result."""
    flags = [f"--{k}={v}" for k, v in (TINY | {"binarizer": "full_precision", "lr": 1e30}).items()]
    assert cli.main(["train", "--quiet", "--wandb=off", f"--results={tmp_path}", *flags]) == 1
    said = capsys.readouterr()
    assert len(said.err.splitlines()) == 1
    assert "lower lr" in said.err
    assert "test/top1" not in said.out


def test_an_exception_is_recorded_as_failed(tmp_path):
    """Status failed with the exception's name and words; the finished epochs stay.

    The same run can be claimed again.
    """
    record = stopped(make(TINY), tmp_path, MID_EPOCH_2)
    assert (record.status, record.error, record.summary) == ("failed", "PowerCut: power cut", None)
    assert len(record.rows()) == 2
    assert train.run(make(TINY), options(tmp_path)).status == "finished"


def test_a_lost_test_batch_is_no_result(tmp_path, monkeypatch):
    """A test loader that drops images fails the run, with both counts."""
    monkeypatch.setattr(
        "tbn_bench.data.synthetic.Synthetic.test_dataloader",
        lambda data: data._loader("val", 16, None),
    )
    with pytest.raises(RuntimeError, match="16 test samples were evaluated, the set has 32"):
        train.run(make(TINY), options(tmp_path))
    assert record_of(make(TINY), tmp_path).status == "failed"


# A run in its own process, halted for good before a chosen step, so that a signal always finds it in the middle of an epoch.
HALTING = """
import pathlib, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits SIGINT as ignored
from tbn_bench.cli import main
from tbn_bench.tasks.image_classification import ImageClassification as Task
original = Task.training_step
def training_step(task, *args):
    if task.global_step == int(sys.argv[1]):
        pathlib.Path(sys.argv[2]).touch()
        while True:
            time.sleep(0.01)
    return original(task, *args)
Task.training_step = training_step
sys.exit(main(sys.argv[3:]))
"""


@contextlib.contextmanager
def halted(folder: Path):
    """`tbn-bench train` in a process that has reached MID_EPOCH_2."""
    flags = [f"--{k}={v}" for k, v in TINY.items()]
    command = [
        "train",
        "--quiet",
        "--wandb=off",
        "--threads=1",
        f"--results={folder / 'results'}",
        *flags,
    ]
    reached = folder / "reached"
    process = subprocess.Popen(
        [sys.executable, "-c", HALTING, str(MID_EPOCH_2), str(reached), *command],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        while not reached.exists():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        yield process
    finally:
        process.kill()
        process.communicate()


def test_sigint_is_recorded_as_interrupted(tmp_path):
    """Ctrl-C: exit 130, one line that says how to go on, status interrupted, finished epochs kept."""
    with halted(tmp_path) as process:
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1]
    record = record_of(make(TINY), tmp_path)
    assert (record.status, len(record.rows())) == ("interrupted", 2)
    assert "SystemExit" not in record.error  # says what happened, not how Lightning left
    assert process.returncode == 130
    assert [line for line in said.splitlines() if "Traceback" in line] == []
    assert "same command goes on" in said.splitlines()[-1]


def test_sigkill_then_resume_is_bit_identical(straight, tmp_path):
    """Held by one live process at a time.

    Killed without warning it keeps its rows and finishes like a run in one go.
    """
    config = make(TINY)
    with halted(tmp_path) as process:
        with pytest.raises(RunBusy, match="another process"):
            train.run(config, options(tmp_path))
        process.send_signal(signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL
    killed, steps = record_of(config, tmp_path), []
    assert (killed.status, killed.summary, len(killed.rows())) == ("running", None, 2)
    with watch("training_step", lambda task: steps.append(task.global_step)):
        resumed = train.run(config, options(tmp_path))
    assert steps[0] == 2 * STEPS
    assert outcome(resumed) == outcome(straight(config))


class Payload:
    """Unpickling this makes a folder: what a hostile checkpoint could do to a home directory."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def hostile(checkpoint: Path, marker: Path, archive: bool) -> None:
    """Puts a pickle with a live payload in place of the checkpoint, bare or in torch's own file
    format.
    """
    value = {"epoch": 1, "state_dict": {}, "payload": Payload(marker)}
    if archive:
        torch.save(value, checkpoint)
    else:
        checkpoint.write_bytes(pickle.dumps(value, protocol=2))  # torch's own, or it warns first
    torch.load(checkpoint, weights_only=False) if archive else pickle.loads(checkpoint.read_bytes())
    marker.rmdir()  # fails unless the payload works, so that its absence later means something


DAMAGES = {
    "truncated": lambda path, marker: path.write_bytes(
        path.read_bytes()[: path.stat().st_size // 2]
    ),
    "empty": lambda path, marker: path.write_bytes(b""),
    "overwritten": lambda path, marker: path.write_bytes(b"\0" * path.stat().st_size),
    "hostile_pickle": lambda path, marker: hostile(path, marker, archive=False),
    "hostile_archive": lambda path, marker: hostile(path, marker, archive=True),
}


def test_a_checkpoint_that_does_not_fit_leaves_the_old_one(tmp_path, monkeypatch):
    """Written beside it and renamed: a full disk says so and costs the new one alone."""
    path, writer = tmp_path / "checkpoints" / "last.ckpt", callbacks.AtomicCheckpoints()
    writer.save_checkpoint({"epoch": 1}, path)

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RecordError, match="last.ckpt: No space left on device; free space"):
        writer.save_checkpoint({"epoch": 2}, path)
    assert torch.load(path, weights_only=True) == {"epoch": 1}
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused(damage, tmp_path, capsys):
    """One line names the file and the way on, no recorded row is lost, nothing in the file is
    executed, and --restart works.
    """
    record = stopped(make(TINY), tmp_path, MID_EPOCH_2)
    rows, marker = (record.path / "metrics.jsonl").read_bytes(), tmp_path / "executed"
    DAMAGES[damage](record.path / "checkpoints" / "last.ckpt", marker)
    capsys.readouterr()
    flags = [f"--{k}={v}" for k, v in TINY.items()]
    command = ["train", "--quiet", "--wandb=off", f"--results={tmp_path / 'results'}", *flags]
    status = cli.main([*command, "--resume"])
    assert not marker.exists()
    said = capsys.readouterr().err
    assert (status, len(said.splitlines()), "last.ckpt" in said, "--restart" in said) == (
        1,
        1,
        True,
        True,
    )
    assert (record.path / "metrics.jsonl").read_bytes() == rows
    assert cli.main([*command, "--restart"]) == 0
    assert not marker.exists()


@pytest.mark.parametrize("damage", ["truncated", "hostile_pickle", "hostile_archive"])
def test_a_damaged_best_checkpoint_is_refused(damage, tmp_path):
    """Reading a finished run's weights, as `latency` does: ValueError of one line with the file,
    nothing executed.
    """
    record, marker = train.run(make(TINY | {"epochs": 1}), options(tmp_path)), tmp_path / "executed"
    DAMAGES[damage](record.path / "checkpoints" / "best.ckpt", marker)
    with pytest.raises(Exception, match=".") as caught:
        trained(record)
    assert not marker.exists()
    assert caught.type is ValueError
    assert "best.ckpt" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_wandb_offline_mirrors_without_network(straight, tmp_path, monkeypatch):
    """A .wandb file is left, nothing knocks on the server it is pointed at, and the result is the
    one of --wandb off.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        for name in ("WANDB_BASE_URL", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
            monkeypatch.setenv(name, address)
        for name in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
            monkeypatch.setenv(name, str(tmp_path / "wandb"))
        (tmp_path / "wandb").mkdir()
        record = train.run(make(TINY), options(tmp_path, wandb="offline"))
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
    (mirror,) = tmp_path.rglob("*.wandb")
    assert mirror.stat().st_size > 0
    assert outcome(record) == outcome(straight(make(TINY)))
    assert all(math.isfinite(row["train/loss"]) for row in record.rows())


def layouts_of(tmp_path, **options):
    """Rows of a short run, and how its weights lie in memory."""
    config = make({"data": "synthetic(in_shape=[3, 16, 16])", "model": "resnet_cifar(depth=8, width=4)", "epochs": 2, "lr": 0.01,
                   "batch_size": 16, "binarizer": "tbn(p=2, min_layer_size=0)"})  # fmt: skip
    record = train.run(config, train.RunOptions(tmp_path, wandb="off", **options))
    return record, trained(record).model


def test_channels_last_changes_the_layout_alone(tmp_path):
    """The same run up to rounding, said in the provenance; its checkpoint loads as any other."""
    (plain, one), (laid, two) = (
        layouts_of(tmp_path / "a"),
        layouts_of(tmp_path / "b", channels_last=True),
    )
    assert (plain.provenance["channels_last"], laid.provenance["channels_last"]) == (False, True)
    for row, other in zip(plain.rows(), laid.rows(), strict=True):
        assert row["train/loss"] == pytest.approx(other["train/loss"], rel=1e-4)
    x = torch.randn(2, 3, 16, 16)
    assert torch.allclose(one(x), two(x), atol=1e-3)


def test_a_fused_run_is_the_plain_one_up_to_rounding(tmp_path):
    """The same losses; the record says which memory format and fingerprint it has."""
    config = {"data": "digits", "model": "resnet_cifar(depth=8, width=8)", "epochs": 1, "keep": ["conv1"],
              "batch_size": 256, "binarizer": "tbn(p=2, min_layer_size=0, gradient='tile')"}  # fmt: skip
    records = []
    for fuse in (False, True):
        run = make(config | {"fuse": fuse})
        records.append(train.run(run, train.RunOptions(tmp_path, wandb="off")))
    plain, fused = records
    assert fused.provenance["channels_last"]
    assert (
        fused.provenance["fingerprint"]["equations"] != plain.provenance["fingerprint"]["equations"]
    )
    for row, other in zip(plain.rows(), fused.rows(), strict=True):
        assert row["train/loss"] == pytest.approx(other["train/loss"], rel=1e-4)


def test_fuse_without_anything_to_fuse_is_refused(tmp_path):
    """An mlp has no convolution: an error, not a silent plain run."""
    config = make({"model": "mlp", "fuse": True, "epochs": 1})
    with pytest.raises(ValueError, match="mlp has none that can be fused"):
        train.run(config, train.RunOptions(tmp_path, wandb="off"))


def test_channels_last_reaches_convolutions(monkeypatch):
    """Weights and images alike: a convolution of either alone would run, and be copied, in the
    other layout.
    """
    task = ImageClassification(
        catalog.build("models", "resnet_cifar(depth=8, width=4)"), make({}), 10
    )
    task.lay_out(channels_last=True, compiled=False)
    seen = []
    task.model.conv1.register_forward_hook(
        lambda m, args, out: seen.extend((args[0], m.weight, out))
    )
    task(torch.randn(2, 3, 16, 16))
    assert all(t.is_contiguous(memory_format=torch.channels_last) for t in seen)


@pytest.mark.slow
@pytest.mark.parametrize(
    "binarizer",
    [
        "bwn",
        "irnet",
        "adabin",
        "tbn(p=4, min_layer_size=100)",
        "tbn(p=4, min_layer_size=100, gradient='tile')",
    ],
)
def test_compiled_training_is_eager_training(binarizer):
    """One graph without breaks through parametrized and tile-reuse layers: outputs and gradients
    are those of eager mode.
    """
    torch._dynamo.reset()
    net = catalog.build("models", "resnet_cifar(depth=8, width=8)")
    binarize_(net, binarizer)
    x, found = torch.randn(8, 3, 16, 16), []
    compiled = copy.deepcopy(net)
    compiled.compile(fullgraph=True)
    for model in (net, compiled):
        model(x).square().mean().backward()
        found.append({n: p.grad for n, p in model.named_parameters()})
    size = max(float(g.abs().max()) for g in found[0].values())
    assert all(torch.allclose(g, found[1][n], atol=1e-4 * size) for n, g in found[0].items())


@pytest.mark.slow
def test_a_run_can_be_compiled(tmp_path):
    """Training, evaluation and checkpoints.

    The names in the checkpoint are those of the plain network.
    """
    record, _ = layouts_of(tmp_path, compile=True)
    assert record.status == "finished"
    assert record.provenance["compile"] is True


# Training on every sample

ALL = {"data": "digits(val_size=0)", "model": "mlp(hidden=[8])", "epochs": 1, "batch_size": 100}


def test_without_held_out_images_every_training_image_is_used(tmp_path, capsys):
    """val_size=0: all 1,400 training images of digits train, no held-out score is printed or
    recorded, and `runs verify` agrees.
    """
    config = make(ALL | {"select": "last"})
    record = train.run(config, options(tmp_path))
    assert record.status == "finished"
    assert record.summary["train_samples"] == 1_400
    assert not [name for name in record.summary if name.startswith("val/")]
    assert [sorted(row)[-1] for row in record.rows()] == ["train/loss"]
    assert "val" not in capsys.readouterr().out
    assert not faults(record.path)


def test_the_last_epoch_is_tested_though_another_was_better(tmp_path):
    """select=last, and the held-out score falls in the last epoch: `runs verify` finds no fault,
    and does for another epoch.
    """
    config = make({"data": "digits", "model": "mlp(hidden=[8])", "epochs": 3, "select": "last"})
    record = train.run(config, options(tmp_path))
    rows = record.rows()
    rows[0]["val/top1"] = 1.0
    (record.path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert not faults(record.path)
    summary = json.loads((record.path / "summary.json").read_text())
    (record.path / "summary.json").write_text(json.dumps(summary | {"best_epoch": 0}))
    assert [fault.kind for fault in faults(record.path)] == ["best_epoch"]


def test_without_held_out_images_no_epoch_can_be_chosen(tmp_path):
    with pytest.raises(ValueError, match="use select=last"):
        train.run(make(ALL), options(tmp_path))
    assert not list(tmp_path.rglob("run.json"))


def test_clip_norm_limits_the_gradient_of_a_step(tmp_path):
    """Three steps of rate 0.05 with gradients of norm 0.001 move all weights by at most 0.00015."""
    small = {"epochs": 1, "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant"}
    config = make(TINY | small | {"binarizer": "full_precision", "clip_norm": 0.001})
    record = train.run(config, options(tmp_path))
    start = build(config, from_data=True).model
    moved = [
        (after - before).norm()
        for after, before in zip(
            trained(record).model.parameters(), start.parameters(), strict=True
        )
    ]
    assert 0 < torch.stack(moved).norm() <= STEPS * 0.05 * 0.001 * 1.01
