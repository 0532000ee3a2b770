"""The engine for a cluster: Ray Tune places runs on nodes and notices dead workers; what runs next, or again, is decided here.

A Ray trial is one attempt of a run (worker.py). Record and checkpoints lie under the shared results path, so that the next attempt goes on
from there on whichever node it lands. Ray's own state is thrown away.
"""

import contextlib
import logging
import os
import shutil
import time
import uuid
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from tbn_bench.records.store import RecordError, RunStore, tell
from tbn_bench.sweep import estimate
from tbn_bench.sweep.launch import Launch, check
from tbn_bench.sweep.planner import Trial
from tbn_bench.sweep.process import MANY, PATIENCE, How
from tbn_bench.sweep.spec import SweepSpec
from tbn_bench.sweep.worker import attempt, look

LOSSES = 3  # times that a run's worker or node may be lost, beyond --retries
FINISHED = "FINISHED"  # ray.tune.search.Searcher.FINISHED
_LOOK = 0.2  # seconds between two looks at runs whose workers are ending
_ANSWER = 120  # seconds that a node has to look at the results path
_AHEAD = (
    "8"  # runs of a list that may wait for a place: Ray's default of one starts them one by one
)
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "0",
}


def library() -> ModuleType:
    """Ray. Raises ValueError if it is not installed."""
    try:
        import ray
        import ray.tune
    except ImportError as error:
        raise ValueError(
            f'--engine ray needs Ray ({error}): pip install "tbn-bench[ray]"'
        ) from error
    return ray


@dataclass(frozen=True)
class Share:
    """What Ray sets aside for each run. gpus: may be a fraction, 0.5 for two runs on a GPU; None: 1 / --per-gpu with --device cuda."""

    cpus: int = 1
    gpus: float | None = None

    def __post_init__(self) -> None:
        if self.cpus < 1:
            raise ValueError(f"--cpus-per-run must be at least 1, got {self.cpus}")
        if self.cpus > MANY:
            raise ValueError(f"--cpus-per-run must be at most {MANY:,}, got {self.cpus:,}")
        if self.gpus is not None and (self.gpus < 0 or (self.gpus > 1 and self.gpus % 1)):
            raise ValueError(
                f"--gpus-per-run must be a fraction of one GPU or a whole number, got {self.gpus:g}"
            )

    def resources(self, how: How) -> dict[str, float]:
        """By Ray's names. Raises ValueError for a GPU that the runs would not use."""
        if how.device != "cuda" and self.gpus:
            raise ValueError("--gpus-per-run needs --device cuda")
        gpus = (1 / how.per_gpu if self.gpus is None else self.gpus) if how.device == "cuda" else 0
        return {
            "CPU": self.cpus,
            **({"GPU": gpus} if gpus else {}),
            **({"memory": how.memory_limit_gb * 1e9} if how.memory_limit_gb else {}),
        }


@dataclass
class _Sweep(Launch):
    """What has come of the runs, as Ray's hooks see it. `key` is Ray's name of an attempt."""

    order: dict[str, Any] = field(default_factory=dict)  # what every attempt is told
    live: dict[str, Trial] = field(default_factory=dict)
    waiting: deque[Trial] = field(default_factory=deque)  # to be tried again
    crashes: Counter[str] = field(default_factory=Counter)
    losses: Counter[str] = field(default_factory=Counter)
    condemned: set[str] = field(default_factory=set)
    marks: dict[str, tuple[Trial, str, str]] = field(
        default_factory=dict
    )  # to be written once nobody holds the run

    def __reduce__(self) -> tuple[Any, ...]:
        return (
            object,
            (),
        )  # Ray pickles its hooks into its own state, which nobody reads: the records are the state

    def suggest(self, key: str) -> dict[str, Any] | str | None:
        """Searcher.suggest. None while runs are on their way that may be lost and come again."""
        self.settle()
        trial = self.waiting.popleft() if self.waiting else None if self.exhausted else self.next()
        if trial is None:
            return None if self.live else FINISHED
        self.live[key], config = trial, trial.config
        return self.order | {
            "run_id": config.run_id,
            "config": config.model_dump(mode="json"),
            "trial": trial.number,
        }

    def report(self, key: str, result: dict[str, Any]) -> bool:
        """Stopper.__call__: whether the run is to be stopped."""
        trial = self.live.get(key)
        if trial is None or "epoch" not in result or not self.spec.metrics:
            return False
        behind = self.planner.report(trial.number, result["epoch"], result["value"])
        if behind:
            self.condemned.add(trial.config.run_id)
        return behind

    def complete(self, key: str, result: dict[str, Any], lost: str | None = None) -> None:
        """An attempt has ended. lost: why its worker or its node is gone, in Ray's words."""
        trial = self.live.pop(key)
        run_id = trial.config.run_id
        if self.store.finished(self.spec.name, run_id):
            self.finish(trial)
        elif run_id in self.condemned:
            self.stop_early(trial)
        elif lost is not None:
            self.losses[run_id] += 1
            self._again(
                trial, f"lost its worker: {lost}", self.losses[run_id] <= self.how.retries + LOSSES
            )
        else:
            error = result.get("error") or "ended without a result"
            self.crashes[run_id] += 1
            self._again(
                trial,
                error,
                not error.startswith("DivergedError") and self.crashes[run_id] <= self.how.retries,
            )

    def _again(self, trial: Trial, why: str, retry: bool) -> None:
        run_id = trial.config.run_id
        if retry:
            self.say(
                f"[again] {run_id}  {why}; attempt {1 + self.crashes[run_id] + self.losses[run_id]}"
            )
            self.waiting.append(trial)
        else:
            self.mark(trial, "failed", why)
            self.give_up(trial, why)

    def mark(self, trial: Trial, status: str, why: str) -> None:
        """Later: the run's worker may still be about to end."""
        self.marks[trial.config.run_id] = trial, status, why

    def settle(self) -> None:
        """Writes the marks of runs whose workers are gone."""
        for run_id, mark in list(self.marks.items()):
            if self._is_open(run_id) and not self._is_held(run_id):
                super().mark(*mark)
            if not self._is_open(run_id):
                del self.marks[run_id]

    def _is_held(self, run_id: str) -> bool:
        """Marking a held run would wait for it, and Ray for us."""
        try:
            return self.store.is_held(self.spec.name, run_id)
        except OSError:
            return True

    def _is_open(self, run_id: str) -> bool:
        """Whether no process has written how the run ended."""
        record = self.record(run_id)
        return record is None or record.status == "running"

    def end(self) -> None:
        """The workers have been told to end: waits for them."""
        for trial in self.live.values():
            if self.record(trial.config.run_id) is not None:
                self.mark(trial, "interrupted", "stopped with the launcher")
        limit = time.monotonic() + PATIENCE
        while self.marks and time.monotonic() < limit:
            self.settle()
            time.sleep(_LOOK)


def _hooks(sweep: _Sweep) -> tuple[Any, Any, Any]:
    """Ray Tune's Searcher, Stopper and Callback over the planner."""
    from ray import tune
    from ray.tune.search import Searcher

    class Ask(Searcher):
        def suggest(self, trial_id: str) -> Any:
            return sweep.suggest(trial_id)

        def on_trial_complete(
            self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
        ) -> None:
            if not error:  # of a lost worker the callback knows more
                sweep.complete(trial_id, result or {})

        def save(self, checkpoint_path: str) -> None:
            Path(checkpoint_path).touch()  # the records are the state

        def restore(self, checkpoint_path: str) -> None:
            raise NotImplementedError  # start the sweep again instead

    class Stop(tune.Stopper):
        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return sweep.report(trial_id, result)

        def stop_all(self) -> bool:
            return False

    class Note(tune.Callback):
        def on_trial_error(
            self, iteration: int, trials: list[Any], trial: Any, **info: Any
        ) -> None:
            sweep.complete(trial.trial_id, {}, lost=_reason(trial.error_file))

    return Ask(), Stop(), Note()


def _reason(file: str | None) -> str:
    """The last words of what Ray has noted of a trial that ended without a word of its own."""
    with contextlib.suppress(OSError, TypeError):
        lines = [
            line.strip()
            for line in Path(file).read_text(errors="replace").splitlines()
            if line.strip()
        ]
        return lines[-1]
    return "no reason known"


def _tune(sweep: _Sweep, resources: dict[str, float], folder: Path) -> None:
    """Until every run has ended. Raises KeyboardInterrupt on Ctrl-C."""
    from ray import tune

    ask, stop, note = _hooks(sweep)
    tuner = tune.Tuner(
        tune.with_resources(attempt, {k.lower(): v for k, v in resources.items()}),
        tune_config=tune.TuneConfig(search_alg=ask, num_samples=-1, max_concurrent_trials=sweep.how.jobs),
        run_config=tune.RunConfig(
            name="ray", storage_path=str(folder), stop=stop, callbacks=[note], verbose=0,
            failure_config=tune.FailureConfig(max_failures=0),  # complete() tries again: it tells crashes from losses
        ),
    )  # fmt: skip
    with (
        (sweep.store.root / "logs" / sweep.spec.name / "ray.txt").open("w") as words,
        contextlib.redirect_stdout(words),
    ):
        tuner.fit()


# Before the first run


def _name(node: dict[str, Any]) -> str:
    return f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']}, {node['NodeID'][:8]})"


def check_room(nodes: list[dict[str, Any]], wanted: dict[str, float]) -> None:
    """Raises ValueError if no node can hold one run: Ray would wait for such a node."""
    if any(all(node["Resources"].get(k, 0) >= v for k, v in wanted.items()) for node in nodes):
        return
    there = "; ".join(
        f"{_name(n)}: {_amounts({k: n['Resources'].get(k, 0) for k in wanted})}" for n in nodes
    )
    raise ValueError(f"no node has room for a run of {_amounts(wanted)}; there are {there}")


def _amounts(resources: dict[str, float]) -> str:
    return ", ".join(
        f"{v / 1e9:.1f} GB {k}" if k == "memory" else f"{v:g} {k}" for k, v in resources.items()
    )


def check_shared(nodes: list[dict[str, Any]], folder: Path) -> str:
    """Every node reads the launcher's token under the results path and writes its own beside it. Returns the token.

    Raises ValueError naming the nodes that do not share the path, or do not answer.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    token, task = uuid.uuid4().hex, ray.remote(num_cpus=0)(look)
    (folder / "driver").write_text(token)
    asked = [
        task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(n["NodeID"], soft=False)
        ).remote(str(folder), token, n["NodeID"])
        for n in nodes
    ]
    faults = [
        f"node {_name(n)}: {why}"
        for n, answer in zip(nodes, asked, strict=True)
        if (why := _answer(n, answer, folder, token))
    ]
    if faults:
        raise ValueError(
            "\n".join(
                [
                    f"--results must be one folder that every node shares, at the same path: {folder.parents[2]}",
                    *faults,
                ]
            )
        )
    return token


def _answer(node: dict[str, Any], answer: Any, folder: Path, token: str) -> str | None:
    import ray

    try:
        fault = ray.get(answer, timeout=_ANSWER)
    except ray.exceptions.RayError as error:
        return f"did not look ({str(error).strip().splitlines()[-1]})"
    own = folder / node["NodeID"]
    if fault is None and (not own.exists() or own.read_text() != token):
        return f"what it wrote to {own} did not arrive here"
    return fault


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Ray reads its settings from there; what the user has set wins."""
    own = {k: v for k, v in values.items() if k not in os.environ}
    os.environ.update(own)
    try:
        yield
    finally:
        for name in own:
            os.environ.pop(name, None)


@contextlib.contextmanager
def _connected(ray: ModuleType, address: str | None, threads: int) -> Iterator[None]:
    """Raises ValueError where there is no cluster. Without an address (nor RAY_ADDRESS): one of this machine alone."""
    settings = {"logging_level": logging.CRITICAL, "log_to_driver": False}
    try:
        ray.init(
            address,
            runtime_env={
                "env_vars": {"OMP_NUM_THREADS": str(threads), "RAY_CHDIR_TO_TRIAL_DIR": "0"}
            },
            **settings,
        )
    except (ConnectionError, ValueError) as error:
        raise ValueError(
            f"no Ray cluster at {address}: {error}; start one by `ray start --head`, see docs/cluster.md"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _folder(store: RunStore, name: str) -> Iterator[Path]:
    """For tokens and for Ray's own state, under the results path; removed at the end."""
    folder = store.root / "logs" / name / f"cluster-{uuid.uuid4().hex[:8]}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise RecordError(
            f"cannot write to {folder}: {error.strerror}; choose another folder with --results"
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(
    spec: SweepSpec,
    results: Path,
    how: How | None = None,
    address: str | None = None,
    share: Share | None = None,
    dry_run: bool = False,
    sampler: str = "tpe",
) -> dict[str, Any]:
    """Runs what is not finished on a Ray cluster, whose every node sees `results`. Returns what local.run returns.

    Raises ValueError before the first start: bad configs, no Ray, no cluster, no room, a node that does not share the results path.
    """
    how, share, store = how or How(), share or Share(), RunStore(Path(os.path.abspath(results)))
    ray, resources = library(), share.resources(how)
    check(spec.configs)
    order = {
        "results": str(store.root), "sweep": spec.name, "threads": share.cpus, "how": asdict(how), "cwd": str(Path.cwd()),
        "metric": spec.metrics[0].name if spec.metrics else "",
    }  # fmt: skip
    sweep = _Sweep(spec, store, how, sampler, order=order)
    tell(f"sweep {spec.name}: {estimate.counts(spec, len(sweep.skipped))}")
    if dry_run:
        return estimate.dry_run(spec, store, how)
    if sweep.total != 0:
        _run(ray, sweep, resources, address)
    return sweep.summary()


def _run(ray: ModuleType, sweep: _Sweep, resources: dict[str, float], address: str | None) -> None:
    sweep.store.check_locks()
    ahead = {} if sweep.spec.is_search else {"TUNE_MAX_PENDING_TRIALS_PG": _AHEAD}
    with _environment(_QUIET | ahead), _folder(sweep.store, sweep.spec.name) as folder:
        try:
            with _connected(ray, address, int(resources["CPU"])):
                nodes = [n for n in ray.nodes() if n["Alive"]]
                check_room(nodes, resources)
                sweep.order |= {"folder": str(folder), "token": check_shared(nodes, folder)}
                _tune(sweep, resources, folder)
        finally:
            sweep.end()
