"""One attempt of a run on a node of a cluster, in the worker's process: trains under the run's lock and reports to Ray what it logs."""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tbn_bench.config import make
from tbn_bench.records.store import RunBusy, RunStore, read_rows
from tbn_bench.sweep import process
from tbn_bench.sweep.process import How

_LOOK = 0.2  # seconds between two looks at a run's rows
_BUSY = 2  # seconds between two attempts to take a run that another process holds


def look(folder: str, token: str, node: str) -> str | None:
    """Whether this process sees the driver's token and can write its own; what is wrong, in words."""
    try:
        if Path(folder, "driver").read_text() != token:
            return f"{folder} holds another token than the launcher's"
        Path(folder, node).write_text(token)
    except OSError as error:
        return f"{error.strerror}: {error.filename}"
    return None


def attempt(given: dict[str, Any]) -> None:
    """One attempt of a run: trains in a thread, reports every row it logs, and at last what went wrong (None if nothing did)."""
    import ray
    from ray import tune

    fault = look(given["folder"], given["token"], ray.get_runtime_context().get_node_id())
    if fault is None and Path(given["cwd"]).is_dir():  # data is looked for from there
        os.chdir(given["cwd"])
    errors = (
        []
        if fault is None
        else [f"node {os.uname().nodename} does not see the results path ({fault})"]
    )
    if not errors:
        for row in _rows(given, errors):
            tune.report({"epoch": int(row["epoch"]), "value": row.get(given["metric"])})
    tune.report({"error": errors[0] if errors else None})


def _rows(given: dict[str, Any], errors: list[str]) -> Iterator[dict[str, Any]]:
    """Rows as they come, until the training thread has ended or has passed a limit."""
    how, seen, started = How(**given["how"]), 0, time.monotonic()
    thread = threading.Thread(target=_train, args=(given, how, errors), daemon=True)
    thread.start()
    rows_file = RunStore(given["results"]).path(given["sweep"], given["run_id"]) / "metrics.jsonl"
    while True:
        alive = thread.is_alive()  # asked before the last look at the rows
        rows = read_rows(rows_file)
        yield from rows[seen:]
        seen = len(rows)
        if alive and (why := _beyond(how, time.monotonic() - started)):
            errors.append(why)
        if errors or not alive:
            return
        time.sleep(_LOOK)


def _beyond(how: How, seconds: float) -> str | None:
    """Which limit this process has passed, in words."""
    if how.time_limit_s is not None and seconds > how.time_limit_s:
        return f"time limit of {how.time_limit_s:g} s passed"
    used = (
        int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        if how.memory_limit_gb
        else 0
    )
    if how.memory_limit_gb and used > how.memory_limit_gb * 1e9:
        return f"memory limit of {how.memory_limit_gb:g} GB passed ({used / 1e9:.2f} GB)"
    return None


def _train(given: dict[str, Any], how: How, errors: list[str]) -> None:
    """Its output goes to the run's log, as with the local engine."""
    log = process.log_of(RunStore(given["results"]), given["sweep"], given["run_id"])
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with (
            log.open("a", buffering=1) as out,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(out),
        ):
            _train_when_free(given, how)
    except BaseException as error:  # noqa: BLE001 (a thread has nobody to raise to: the driver is told)
        errors.append(f"{type(error).__name__}: {error}")


def _train_when_free(given: dict[str, Any], how: How) -> None:
    """A run may still be held by the worker that Ray has just given up, or by another launcher."""
    from tbn_bench.experiment import train

    options = train.RunOptions(
        Path(given["results"]), given["sweep"], how.wandb, how.device, given["threads"], channels_last=how.channels_last,
        compile=how.compile, trackers=tuple(how.trackers), trial=given["trial"],
    )  # fmt: skip
    while True:
        try:
            train.run(make(given["config"]), options)
            return
        except RunBusy:
            time.sleep(_BUSY)
