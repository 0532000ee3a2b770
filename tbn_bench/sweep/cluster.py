"""The engine for a cluster. Ray Tune places runs on nodes and notices dead workers.

The launcher decides which run is next, or again. Records and checkpoints are under the shared
results path, so the next attempt continues on any node. Ray's own state is deleted.
"""

import contextlib
import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

from tbn_bench.plugins import carry
from tbn_bench.records.files import RecordError
from tbn_bench.records.store import RunStore
from tbn_bench.records.text import tell
from tbn_bench.sweep import estimate, stale
from tbn_bench.sweep.checked import check
from tbn_bench.sweep.execution import ExecutionOptions
from tbn_bench.sweep.nodes import Resources, check_room, check_shared
from tbn_bench.sweep.ray_tune import ClusterLaunch, tune_runs
from tbn_bench.sweep.spec import SweepSpec

# runs of a list that may wait for a place; Ray's default of one starts them one by one
_AHEAD = "8"
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "0",
}


def run(
    spec: SweepSpec,
    results: Path,
    options: ExecutionOptions | None = None,
    address: str | None = None,
    resources: Resources | None = None,
    dry_run: bool = False,
    sampler: str = "tpe",
) -> dict[str, Any]:
    """Runs what is not finished on a Ray cluster, whose every node sees `results`.

    address: of the cluster; None: RAY_ADDRESS, else one of this machine alone. Returns what
    local.run returns. Raises ValueError before the first start for bad configs, and without Ray, a
    cluster, room for a run, or a results path that every node shares.
    """
    options = options or ExecutionOptions()
    resources = resources or Resources()
    store = RunStore(Path(os.path.abspath(results)))
    ray = library()
    reserved = resources.for_ray(options)
    check(spec.configs)
    kept = stale.settle(spec, store, options.stale, dry_run)
    order = {
        "results": str(store.root),
        "sweep": spec.name,
        "threads": resources.cpus,
        "options": asdict(options),
        "cwd": str(Path.cwd()),
        "plugins": carry.packed(),
        "metric": spec.metrics[0].name if spec.metrics else "",
    }
    launch = ClusterLaunch(spec, store, options, sampler, order=order)
    tell(f"sweep {spec.name}: {estimate.counts(spec, len(launch.skipped))}")
    if dry_run:
        return estimate.dry_run(spec, store, options) | {"stale": kept}
    if launch.total != 0:
        _run(ray, launch, reserved, address)
    return launch.summary() | {"stale": kept}


def library() -> ModuleType:
    """The package ray. Raises ModuleNotFoundError also where it lacks what ray.tune needs."""
    import ray

    try:
        import ray.tune
    except ImportError as error:
        raise ModuleNotFoundError(f"ray without ray[tune]: {error}", name="ray") from error
    module: ModuleType = ray
    return module


def _run(
    ray: ModuleType, launch: ClusterLaunch, reserved: dict[str, float], address: str | None
) -> None:
    launch.store.check_locks()
    settings = dict(_QUIET)
    if not launch.spec.is_search:
        settings["TUNE_MAX_PENDING_TRIALS_PG"] = _AHEAD
    with _environment(settings), _folder(launch.store, launch.spec.name) as folder:
        try:
            with _connected(ray, address, int(reserved["CPU"])):
                nodes = [node for node in ray.nodes() if node["Alive"]]
                check_room(nodes, reserved)
                token = check_shared(nodes, folder)
                launch.order |= {"folder": str(folder), "token": token}
                tune_runs(launch, reserved, folder)
        finally:
            launch.end()


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Ray reads its settings from there; settings of the user win."""
    own = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(own)
    try:
        yield
    finally:
        for name in own:
            os.environ.pop(name, None)


@contextlib.contextmanager
def _connected(ray: ModuleType, address: str | None, threads: int) -> Iterator[None]:
    """Raises ValueError if there is no cluster at the address."""
    variables = {"OMP_NUM_THREADS": str(threads), "RAY_CHDIR_TO_TRIAL_DIR": "0"}
    try:
        ray.init(
            address,
            runtime_env={"env_vars": variables},
            logging_level=logging.CRITICAL,
            log_to_driver=False,
        )
    except (ConnectionError, ValueError) as error:
        raise ValueError(
            f"no Ray cluster at {address}: {error}; "
            "start one by `ray start --head`, see docs/cluster.md"
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
