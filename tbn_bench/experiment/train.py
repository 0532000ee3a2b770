"""run(config) -> RunRecord: trains one network and records it."""

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tbn_bench import catalog, convert, fingerprint
from tbn_bench.config import RunConfig, plugin_flags
from tbn_bench.experiment import earlier
from tbn_bench.experiment.build import Experiment, build
from tbn_bench.experiment.distributed import Follower
from tbn_bench.experiment.options import RunOptions, check_devices
from tbn_bench.experiment.training import Training
from tbn_bench.experiment.weights import start_from, start_from_file, trained_model
from tbn_bench.format import packed_file
from tbn_bench.records.provenance import provenance
from tbn_bench.records.run import NETWORK, Run, RunRecord
from tbn_bench.records.store import RunStore
from tbn_bench.records.text import tell
from tbn_bench.tasks._base import DivergedError
from tbn_bench.tracking.mirror import Mirrors

__all__ = ["RunOptions", "run"]

Announce = Callable[[Experiment], None]
_FEW_PER_CLASS = 5  # samples of a split; with fewer, the score is coarse


def run(
    config: RunConfig,
    options: RunOptions | None = None,
    resume: bool = True,
    announce: Announce | None = None,
) -> RunRecord:
    """Trains, selects the epoch on the held-out split, tests once, and writes the record.

    A finished run is returned as it is, with a warning on stderr where its code has changed since.
    resume: continue from the last checkpoint if there is one. Without it every step is trained
    again, and the record of a finished run is first moved to <results>/set_aside.
    announce: called once with the experiment, before it is trained.

    Raises ValueError before anything is recorded for a config that cannot be built, and RunBusy if
    another process has the run. Every later exception is recorded (failed, diverged, interrupted)
    and raised again.
    """
    options = options or RunOptions()
    store = RunStore(options.results)
    starts_again = not resume and not options.rank
    if store.finished(options.sweep, config.run_id) and not starts_again:
        if announce is not None:
            announce(build(config))
        return earlier.finished(store, config, options)

    resume = resume and not earlier.has_other_code(store, config, options)
    check_devices(config, options)
    mirrors = Mirrors() if options.rank else Mirrors(options.trackers, options.wandb)
    experiment = _build(config, options, announce)
    teacher = _prepare(experiment, store)
    if not options.rank:
        for line in small_splits(experiment):
            tell(f"warning: {line}")
    source = _provenance(experiment, options)
    if options.rank:
        follower = Follower(store.path(options.sweep, config.run_id))
        Training(experiment, options, follower, Mirrors(), teacher, resume).fit_and_test()
        return store.read(options.sweep, config.run_id)

    if starts_again:
        earlier.move_away(store, config, options)
    held = store.claim(options.sweep, config.run_id, config.model_dump(mode="json"), source)
    if held is not None:  # else another process has finished it meanwhile
        _record(Training(experiment, options, held, mirrors, teacher, resume), held, source)
    return store.read(options.sweep, config.run_id)


def prepared(
    config: RunConfig, options: RunOptions, store: RunStore
) -> tuple[Experiment, nn.Module | None]:
    """(the experiment before its first step, the network of --teacher), as `run` makes them.

    store: where runs that --init and --teacher name are.
    """
    check_devices(config, options)
    experiment = _build(config, options, None)
    return experiment, _prepare(experiment, store)


def _build(config: RunConfig, options: RunOptions, announce: Announce | None) -> Experiment:
    if options.threads:
        torch.set_num_threads(options.threads)
    random.seed(config.seed)
    np.random.seed(config.seed % 2**32)
    experiment = build(config, from_data=True)
    if announce is not None:
        announce(experiment)
    return experiment


def _prepare(experiment: Experiment, store: RunStore) -> nn.Module | None:
    """Loads the weights of --init and the data. Returns the network of --teacher."""
    config = experiment.config
    teacher = None
    if config.teacher:
        teacher = trained_model(store, config.teacher, "--teacher")
    if config.init:
        _initialise(experiment, config.init, store)
    experiment.data.setup()
    if config.select == "best" and "val" not in experiment.data.splits:
        raise ValueError(
            "select=best chooses the epoch on held-out samples, "
            "and this data set holds none out (val_size=0); "
            "use select=last, or a val_size of 1 or more"
        )
    return teacher


def _initialise(experiment: Experiment, init: str, store: RunStore) -> None:
    """Loads the weights of --init, and says where a classifier starts at random."""
    model = experiment.model
    classes = getattr(experiment.data, "num_classes", None)
    if experiment.config.starts_from_file:
        fresh = start_from_file(model, init, classes)
    else:
        source = trained_model(store, init, "--init")
        fresh = start_from(model, source, classes)
    if fresh:
        names = " and ".join(fresh)
        tell(f"--init: the network of {init} has other classes: {names} start at random")


def small_splits(experiment: Experiment) -> list[str]:
    """A line for each split of few samples per class, on which accuracy is a coarse number."""
    name, _ = catalog.parse(experiment.config.task)
    task: Any = catalog.load("tasks", name)
    if task.score != "top1":
        return []

    data = experiment.data
    found = []
    for split, use in {"val": "chooses the epoch", "test": "is the score"}.items():
        if split not in data.splits:
            continue

        samples = data.size(split)
        if 0 < samples < _FEW_PER_CLASS * data.num_classes:
            points = 100 / samples
            found.append(
                f"the {split} set, which {use}, has {samples} samples for {data.num_classes} "
                f"classes: one sample is {points:.1f} points; differences of a few samples mean "
                "nothing"
            )
    return found


def _provenance(experiment: Experiment, options: RunOptions) -> dict[str, Any]:
    device = torch.cuda.get_device_name() if options.device == "cuda" else None
    plugins = experiment.config.plugins
    command = experiment.config.command + plugin_flags(plugin.name for plugin in plugins)
    source = provenance(command, device, torch.get_num_threads())
    return source | {
        "track": experiment.plan.track,
        "channels_last": options.channels_last or experiment.config.fuse,
        "compile": options.compile,
        "devices": options.devices,
        "trial": options.trial,
        "plugins": [plugin.record for plugin in plugins],
        "packages": experiment.config.packages,
        "fingerprint": fingerprint.of(experiment.config),
    }


def _record(training: Training, held: Run, source: dict[str, Any]) -> None:
    """Trains under the run's lock, and records how that ended."""
    experiment = training.experiment
    mirrors = training.mirrors
    status = "failed"
    summary: dict[str, Any] = {}
    file = None
    try:
        mirrors.start(experiment.config, experiment.plan, held.path, training.options.sweep, source)
        found = training.fit_and_test()
        network = _keep_network(experiment, held.path, source["commit"])
        if network is not None:
            found["file_bytes"] = network.stat().st_size
        held.finish(found)
        status = "finished"
        summary = found
        file = network
    except BaseException as error:
        status = _status(error)
        held.fail(status, f"{type(error).__name__}: {error}")
        raise
    finally:
        mirrors.finish(status, summary, file)


def _status(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return "interrupted"
    return "diverged" if isinstance(error, DivergedError) else "failed"


def _keep_network(experiment: Experiment, folder: Path, commit: str | None) -> Path | None:
    """Writes the packed network beside the record; None for a network without binary weights.

    Prints why where it cannot be packed, for example because a scale is NaN. Raises ArtifactError
    where the file cannot be written.
    """
    binarized = [row for row in experiment.plan.rows if row.binarized]
    if not binarized:
        return None

    network = copy.deepcopy(experiment.model).cpu().eval()
    try:
        convert.pack_(network)
        content = convert.to_artifact(network, experiment.config.non_defaults, commit)
    except ValueError as error:
        tell(f"no packed network beside the record: {error}")
        return None

    path = folder / NETWORK
    packed_file.write(path, content)
    return path
