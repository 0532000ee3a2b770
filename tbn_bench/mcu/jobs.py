"""Which programs a command of `tbn-bench mcu` is about: runs, folders, suites."""

import argparse
import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tbn_bench.mcu.cores import TARGETS, find_core
from tbn_bench.records.files import RecordError
from tbn_bench.records.run import RunRecord
from tbn_bench.records.store import RunStore
from tbn_bench.records.text import tell
from tbn_bench.scores import FIRST, score_of

_RUN_ID = re.compile(r"([\w.-]+/)?[0-9a-f]{4,12}")  # also as SWEEP/RUN


@dataclass(frozen=True)
class Job:
    """One measurement.

    what: its name in messages. folder: returns the exported folder; a run is exported only then.
    """

    what: str
    core: str
    folder: Callable[[], Path]


def jobs(args: argparse.Namespace) -> list[Job]:
    """The given folders, and one folder for each way to export a given run."""
    found: list[Job] = []
    for what in suite(args) if args.suite else args.what:
        if not isinstance(what, str):
            found += run_jobs(what, args)
        elif is_folder(what):
            found.append(folder_job(what, args))
        else:
            found += run_jobs(find(what, args), args)
    return found


def is_folder(what: str) -> bool:
    """True for an exported folder, and for all names that cannot be a run's id."""
    exported = (Path(what) / "extras" / "model.json").exists()
    return exported or not _RUN_ID.fullmatch(what)


def folder_job(folder: str, args: argparse.Namespace) -> Job:
    from tbn_bench.mcu import toolchain

    if args.target or args.activations:
        raise ValueError(f"{folder} is exported already: --target and --activations are for runs")
    core = args.core
    if not core:
        target = toolchain.describe(folder)["target"]
        core = TARGETS[target].core
    return Job(folder, core, partial(Path, folder))


def run_jobs(record: RunRecord, args: argparse.Namespace) -> list[Job]:
    core = args.core or TARGETS[args.target or "m4"].core
    target = args.target or find_core(core).target
    found = []
    for activations in activations_of(core, args):
        label = f"{record.config['binarizer']}, {activations}"
        folder = partial(
            exported,
            record,
            activations,
            target,
            args,
        )
        found.append(Job(label, core, folder))
    return found


def activations_of(core: str, args: argparse.Namespace) -> tuple[str, ...]:
    """The given activations, else all of them; on the Uno bytes alone."""
    if args.activations:
        return (args.activations,)
    if core == "uno":
        return ("u8",)
    return ("u8", "f32")


def exported(
    record: RunRecord,
    activations: str,
    target: str,
    args: argparse.Namespace,
) -> Path:
    from tbn_bench.mcu import export, size_table

    name = f"{args.name or 'net'}_{record.run_id[:6]}_{activations}"
    args.out.mkdir(parents=True, exist_ok=True)
    report = export.export(
        record,
        activations=activations,
        target=target,
        out=args.out / f"{name}_{target}",
        name=name,
        keep_inputs=True,
        samples=args.samples,
    )
    tell(f"{record.config['binarizer']}: {report['path']}")
    tell(size_table.show(report), end="\n\n")
    return Path(report["path"])


def stores(args: argparse.Namespace) -> list[RunStore]:
    """The folders that may hold checkpoints: --trained, or the records' folder and its `local`."""
    if args.trained:
        return [RunStore(args.trained)]
    return [RunStore(args.results), RunStore(args.results / "local")]


def find(run_id: str, args: argparse.Namespace) -> RunRecord:
    """The run with this id, from the folder with its checkpoint or packed network.

    Raises RecordError where there is no such run, or several.
    """
    from tbn_bench.experiment.weights import has_weights

    for store in stores(args):
        with contextlib.suppress(RecordError):
            record = store.find(run_id)
            if has_weights(record):
                return record
    return stores(args)[0].find(run_id)


def finished(args: argparse.Namespace) -> list[RunRecord]:
    """The finished classifiers of a suite that have their checkpoint or packed network."""
    from tbn_bench.experiment.weights import has_weights

    found: list[RunRecord] = []
    for store in stores(args):
        runs = store.runs_of(args.suite)
        found += [run for run in runs if _is_classifier(run) and has_weights(run)]
    return found


def _is_classifier(record: RunRecord) -> bool:
    return record.summary is not None and score_of(record.summary) == FIRST


def suite(args: argparse.Namespace) -> list[RunRecord]:
    """The finished runs of a sweep, for each method the lowest seed.

    Raises ValueError where there is none.
    """
    runs = finished(args)
    if not runs:
        folders = " and ".join(str(store.root) for store in stores(args))
        raise ValueError(
            f"no finished runs of {args.suite} with checkpoints or packed networks "
            f"under {folders}; "
            f"run: tbn-bench sweep sweeps/{args.suite}.yaml"
        )
    first: dict[tuple[str, str, str], RunRecord] = {}
    for run in sorted(runs, key=lambda r: r.config["seed"]):
        config = run.config
        key = (config["data"], config["model"], config["binarizer"])
        first.setdefault(key, run)
    return list(first.values())
