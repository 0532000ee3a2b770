"""Runs a sweep by N processes on this machine. What is finished is skipped, what failed is named and runs again next time."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from tbn_bench import assembly, catalog, convert
from tbn_bench.config import RunConfig
from tbn_bench.records import RecordError, RunStore
from tbn_bench.scores import shown
from tbn_bench.sweep.spec import SweepSpec

BUSY = 75  # exit status of `tbn-bench train` for a run another process holds


@dataclass(frozen=True)
class How:
    """How the runs of a sweep are carried out: `jobs` at once, the rest as in RunOptions. Raises ValueError for less than one job."""

    jobs: int = 1
    wandb: str = "off"
    device: str = "cpu"
    channels_last: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise ValueError(f"--jobs must be at least 1, got {self.jobs}")

    @property
    def threads(self) -> int:
        """Each run gets its share of the cores."""
        return max(1, (os.cpu_count() or 1) // self.jobs)

    @property
    def flags(self) -> list[str]:
        """Of `tbn-bench train`."""
        switches = [flag for flag, on in (("--channels-last", self.channels_last), ("--compile", self.compile)) if on]
        return [f"--wandb={self.wandb}", f"--device={self.device}", f"--threads={self.threads}", *switches]


@dataclass
class _State:
    todo: deque[RunConfig]
    live: dict[str, tuple[subprocess.Popen, RunConfig, float]] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def check(configs: list[RunConfig]) -> None:
    """Builds every distinct network on the meta device. Raises ValueError listing every config that no layer can satisfy."""
    import torch

    errors: dict[str, None] = {}
    seen: dict[str, Any] = {}
    for c in configs:
        key = f"{c.data} | {c.task} | {c.model} | {c.binarizer} | {','.join(c.keep)}"
        if key in seen:
            continue
        seen[key] = True
        try:
            data = assembly.data_of(c)
            with torch.device("meta"):
                model = catalog.build("models", c.model, **assembly.offered(data))
                convert.binarize_(model, c.binarizer, c.keep)
        except ValueError as error:
            errors |= {f"{c.model} with {c.binarizer}: {line}": None for line in str(error).splitlines()}
    if errors:
        raise ValueError("\n".join(errors))


def run(spec: SweepSpec, results: Path, how: How | None = None, dry_run: bool = False) -> dict[str, Any]:
    """Runs what is not finished. Returns counts and ids; raises ValueError before the first start."""
    how = how or How()
    check(spec.configs)
    store = RunStore(results)
    finished = [c for c in spec.configs if store.finished(spec.name, c.run_id)]
    state = _State(deque(c for c in spec.configs if c not in finished), skipped=[c.run_id for c in finished])
    print(f"sweep {spec.name}: {len(spec.configs)} runs, {len(finished)} already finished, {len(state.todo)} to run", flush=True)
    if dry_run:
        for c in spec.configs:
            print(f"{c.run_id}  {'done' if c in finished else 'to run'}  {c.command}")
        return {"sweep": spec.name, "runs": len(spec.configs), "finished": len(finished), "to_run": len(state.todo)}
    total = len(state.todo)
    console = Console()
    screen = Live(console=console, refresh_per_second=4) if console.is_terminal else contextlib.nullcontext()
    try:
        with screen as live:
            while state.todo or state.live:
                _step(spec.name, store, state, how, total, plain=live is None)
                if live is not None:
                    live.update(_table(spec.name, state, total))
                time.sleep(0.1)
    finally:
        _stop(state)
    for run_id, why in state.failed.items():
        print(f"failed {run_id}: {why}", file=sys.stderr)
    return {
        "sweep": spec.name, "runs": len(spec.configs), "skipped": len(state.skipped), "finished": len(state.done),
        "failed": len(state.failed), "failed_ids": sorted(state.failed),
    }  # fmt: skip


def _step(name: str, store: RunStore, state: _State, how: How, total: int, plain: bool) -> None:
    for run_id, (process, config, started) in list(state.live.items()):
        code = process.poll()
        if code is None:
            continue
        del state.live[run_id]
        if code == BUSY:  # another launcher has it: look again when the others are through
            state.todo.append(config)
            time.sleep(0.5)
        elif code == 0 and store.finished(name, run_id):
            state.done.append(run_id)
            if plain:
                score = shown(store.read(name, run_id).summary)
                count = len(state.done) + len(state.failed)
                print(
                    f"[{count}/{total}] {run_id}  {score}  {time.monotonic() - started:.0f} s  "
                    f"{config.model}  {config.binarizer}  seed {config.seed}",
                    flush=True,
                )
        else:
            state.failed[run_id] = _why(name, store, run_id, code)
            if plain:
                print(f"[failed] {run_id}  {state.failed[run_id]}", flush=True)
    while state.todo and len(state.live) < how.jobs:
        config = state.todo.popleft()
        if store.finished(name, config.run_id):
            state.skipped.append(config.run_id)
            continue
        state.live[config.run_id] = (_start(name, store, config, how), config, time.monotonic())


def _log(store: RunStore, name: str, run_id: str) -> Path:
    return store.root / "logs" / name / f"{run_id}.txt"


def _die_with_parent() -> None:
    """In the child: be terminated when the launcher dies, even by SIGKILL, so that no orphan holds a run (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _start(name: str, store: RunStore, config: RunConfig, how: How) -> subprocess.Popen:
    flags = [f"--{k}={','.join(v) if k == 'keep' else v}" for k, v in config.non_defaults.items()]
    command = [
        sys.executable, "-m", "tbn_bench.cli", "train", "--quiet", f"--sweep={name}", f"--results={store.root}",
        *how.flags, *flags,
    ]  # fmt: skip
    log = _log(store, name, config.run_id)
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as out:
            return subprocess.Popen(
                command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, preexec_fn=_die_with_parent,
                env={**os.environ, "OMP_NUM_THREADS": str(how.threads)}, start_new_session=True,
            )  # fmt: skip
    except OSError as error:
        raise RecordError(f"cannot write {log}: {error.strerror}; choose another folder with --results") from error


def _why(name: str, store: RunStore, run_id: str, code: int) -> str:
    try:
        record = store.read(name, run_id)
        if record.error:
            return f"{record.status}: {record.error}"
    except (RecordError, KeyError):
        pass
    lines = _log(store, name, run_id).read_text(errors="replace").strip().splitlines()
    return f"exit status {code}: {lines[-1] if lines else 'no output'}"


def _stop(state: _State) -> None:
    """Interrupts what still runs (they record it) and waits."""
    for process, _, _ in state.live.values():
        process.send_signal(signal.SIGINT)
    for process, _, _ in state.live.values():
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def _table(name: str, state: _State, total: int) -> Table:
    table = Table(title=f"{name}: {len(state.done)} of {total} finished, {len(state.failed)} failed", title_justify="left")
    for column in ("run", "model", "binarizer", "seed", "seconds"):
        table.add_column(column)
    for run_id, (_, c, started) in state.live.items():
        table.add_row(run_id, c.model, c.binarizer, str(c.seed), f"{time.monotonic() - started:.0f}")
    return table
