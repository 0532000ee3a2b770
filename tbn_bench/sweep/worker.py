"""One attempt of a run on a node of a cluster, in the worker's process.

It trains under the run's lock and reports to Ray the rows that it logs.
"""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tbn_bench.config import make
from tbn_bench.records.files import read_rows
from tbn_bench.records.run import RunBusy
from tbn_bench.records.store import RunStore
from tbn_bench.sweep import process
from tbn_bench.sweep.execution import ExecutionOptions

_LOOK = 0.2  # seconds between two looks at a run's rows
_BUSY = 2  # seconds between two attempts to take a run that another process holds
_RESIDENT_PAGES = 1  # place in /proc/self/statm


def look(folder: str, token: str, node: str) -> str | None:
    """Whether this process sees the driver's token and can write its own.

    Returns None if so, else the fault in words.
    """
    try:
        if Path(folder, "driver").read_text() != token:
            return f"{folder} holds another token than the launcher's"
        Path(folder, node).write_text(token)
    except OSError as error:
        return f"{error.strerror}: {error.filename}"
    return None


def attempt(given: dict[str, Any]) -> None:
    """One attempt of a run, as Ray Tune calls it.

    It reports every row that the run logs, and at the end its error, None if there is none. given:
    ClusterLaunch.order with run_id, config and trial.
    """
    import ray
    from ray import tune

    node = ray.get_runtime_context().get_node_id()
    fault = look(given["folder"], given["token"], node)
    if fault is not None:
        said = f"node {os.uname().nodename} does not see the results path ({fault})"
        tune.report({"error": said})
        return
    if Path(given["cwd"]).is_dir():  # data is looked for from there
        os.chdir(given["cwd"])
    errors: list[str] = []
    for row in _rows(given, errors):
        tune.report({"epoch": int(row["epoch"]), "value": row.get(given["metric"])})
    tune.report({"error": errors[0] if errors else None})


def _rows(given: dict[str, Any], errors: list[str]) -> Iterator[dict[str, Any]]:
    """Rows as they come, until the training thread has ended or has passed a limit."""
    options = ExecutionOptions(**given["options"])
    seen = 0
    started = time.monotonic()
    thread = threading.Thread(target=_train, args=(given, options, errors), daemon=True)
    thread.start()
    rows_file = RunStore(given["results"]).path(given["sweep"], given["run_id"]) / "metrics.jsonl"
    while True:
        alive = thread.is_alive()  # asked before the last look at the rows
        rows = read_rows(rows_file)
        yield from rows[seen:]
        seen = len(rows)
        if alive:
            used = _resident_bytes() if options.memory_limit_gb else 0
            why = options.passed_limit(time.monotonic() - started, used)
            if why:
                errors.append(why)
        if errors or not alive:
            return
        time.sleep(_LOOK)


def _resident_bytes() -> int:
    """Memory that this process holds."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[_RESIDENT_PAGES]) * os.sysconf("SC_PAGE_SIZE")


def _train(given: dict[str, Any], options: ExecutionOptions, errors: list[str]) -> None:
    """Its output goes to the run's log, as with the local engine."""
    log = process.log_of(RunStore(given["results"]), given["sweep"], given["run_id"])
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with (
            log.open("a", buffering=1) as out,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(out),
        ):
            _train_when_free(given, options)
    except BaseException as error:  # noqa: BLE001 (a thread cannot raise: the driver is told)
        errors.append(f"{type(error).__name__}: {error}")


def _train_when_free(given: dict[str, Any], options: ExecutionOptions) -> None:
    """Waits for a run that a worker given up by Ray, or another launcher, still holds."""
    from tbn_bench.experiment.options import RunOptions
    from tbn_bench.experiment.train import run
    from tbn_bench.plugins import carry

    carry.unpack(given["plugins"])
    run_options = RunOptions(
        results=Path(given["results"]),
        sweep=given["sweep"],
        wandb=options.wandb,
        device=options.device,
        threads=given["threads"],
        channels_last=options.channels_last,
        compile=options.compile,
        trackers=tuple(options.trackers),
        trial=given["trial"],
    )
    while True:
        try:
            run(make(given["config"]), run_options)
            return
        except RunBusy:
            time.sleep(_BUSY)
