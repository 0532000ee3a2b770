"""tbn-bench export --format c and tbn-bench mcu build | run | report."""

import argparse
import contextlib
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tbn_bench.records.store import RecordError, RunRecord, RunStore, provenance, tell
from tbn_bench.scores import FIRST, score_of

TARGETS = ("generic", "m4", "m55", "avr")
ACTIVATIONS = ("u8", "f32")
CORES = ("host", "m0", "m3", "m4", "m7", "m33", "m55", "uno")
_RUN_ID = re.compile(r"([\w.-]+/)?[0-9a-f]{4,12}")  # also as SWEEP/RUN


def add_export_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--activations",
        choices=ACTIVATIONS,
        default="u8",
        help="format c: bytes (default) or float32",
    )
    parser.add_argument(
        "--target",
        choices=TARGETS,
        default="generic",
        help="format c: order of the weight bits (default: generic, any core)",
    )
    parser.add_argument("--name", help="format c: name of the library and prefix of its functions")
    parser.add_argument(
        "--amalgamate",
        action="store_true",
        help="format c: NAME_single.h beside the folder, all of it in one header",
    )
    parser.add_argument(
        "--zip",
        action="store_true",
        help="format c: the folder as a .zip too, as the Arduino IDE takes it",
    )


def add(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(
        dest="action",
        required=True,
        metavar="ACTION",
        parser_class=type(parser),
    )
    build = actions.add_parser(
        "build",
        help="compile an exported folder for a core and show its sizes",
        allow_abbrev=False,
    )
    build.add_argument("what", nargs=1, metavar="FOLDER")
    _add_compiler_flags(build)

    measured = actions.add_parser(
        "run",
        help="export (where a run is given), build, run on a simulator, "
        "record: flash, RAM, stack, instructions",
        allow_abbrev=False,
    )
    measured.add_argument("what", nargs="*", metavar="RUN|FOLDER")
    _add_compiler_flags(measured)
    _add_run_flags(measured)

    report = actions.add_parser(
        "report",
        help="the recorded measurements and their ratios as a table",
        allow_abbrev=False,
    )
    _add_results_flag(report)


def _add_compiler_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--core", choices=CORES, help="default: the target's own")
    parser.add_argument(
        "--cc",
        choices=("gcc", "zig"),
        default="gcc",
        help="compilers (default: gcc)",
    )
    parser.add_argument(
        "--optimize",
        choices=("-O2", "-Os"),
        default="-O2",
        help="as --optimize=-Os (default: -O2)",
    )


def _add_run_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--suite", help="every finished run of this sweep, of its first seed")
    parser.add_argument(
        "--sim",
        choices=("qemu", "unicorn", "simavr", "host"),
        help="default: the first that is installed",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("build/mcu"),
        help="where runs are exported to (default: build/mcu)",
    )
    add_export_flags(parser)
    parser.set_defaults(target=None, activations=None)
    _add_results_flag(parser)
    parser.add_argument(
        "--trained",
        type=Path,
        help="folder of the runs with their checkpoints (default: --results, else its `local`)",
    )


def _add_results_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("results"),
        help="folder of records (default: results)",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Runs `tbn-bench mcu ACTION` and returns its JSON line."""
    actions = {"build": _build, "run": _run, "report": _report}
    return actions[args.action](args)


def export(args: argparse.Namespace) -> dict[str, Any]:
    """Runs `tbn-bench export --format c` and returns its JSON line."""
    from tbn_bench.mcu import export

    record = RunStore(args.results).find(args.run)
    report = export.export(
        record,
        activations=args.activations,
        target=args.target,
        out=args.out,
        name=args.name,
        zipped=args.zip,
        amalgamated=args.amalgamate,
    )
    path = report["path"]
    tell(export.show(report))
    tell(
        f"{path}: an Arduino, PlatformIO and CMake library; try: tbn-bench mcu run {path}",
    )
    return {key: value for key, value in report.items() if key != "layers"}


def _build(args: argparse.Namespace) -> dict[str, Any]:
    from tbn_bench.mcu import measure, toolchain

    folder = Path(args.what[0])
    core = args.core
    if not core:
        target = toolchain.describe(folder)["target"]
        core = measure.DEFAULT_CORE[target]
    built = toolchain.build(
        folder,
        core,
        args.cc,
        out=folder / "build" / f"{core}-{args.cc}-lean",
        extra_flags=("-DTEST_WITHOUT_SELFTEST",),
        optimize=args.optimize,
    )
    flash = built.sizes.library_flash
    arena = built.model["arena_bytes"]
    tell(f"{folder} for {core}, {built.version}, {args.optimize}")
    _tell_sizes(built.sizes, arena)
    for fit in toolchain.fits(core, flash, arena):
        verdict = "fits" if fit.fits else "does not fit"
        left = f"{fit.flash_left:,} bytes of flash and {fit.ram_left:,} of RAM left"
        tell(f"  {fit.product.name}: {verdict}, {left}")
    return {"folder": str(folder), "core": core, "flash_bytes": flash, "arena_bytes": arena}


def _tell_sizes(sizes: Any, arena: int) -> None:
    """sizes: toolchain.Sizes; arena: bytes."""
    rows = {
        "code": sizes.code,
        "routines of the compiler": sizes.helpers,
        "tables": sizes.constants,
        "static RAM": sizes.data + sizes.bss,
    }
    for name, size in rows.items():
        tell(f"  {name:<26}{size:>10,} bytes")
    tell(
        f"  {'flash of the library':<26}{sizes.library_flash:>10,} bytes, "
        f"without its self-test; arena {arena:,} bytes of RAM"
    )


def _run(args: argparse.Namespace) -> dict[str, Any]:
    from tbn_bench.mcu import measure, table, toolchain

    if bool(args.what) == bool(args.suite):
        raise ValueError("give runs or exported folders, or --suite NAME")
    jobs = _jobs(args)
    for core in sorted({job.core for job in jobs}):
        reason = measure.missing_tools(core, args.cc, args.sim)
        if reason:
            raise ValueError(reason)
    store = RunStore(args.results)
    command = shlex.join(["tbn-bench", *sys.argv[1:]])
    records = []
    failed = 0
    too_large = 0
    for job in jobs:
        try:
            record = measure.measure(
                job.folder(),
                job.core,
                args.cc,
                args.sim,
                args.optimize,
                provenance(command, "simulator"),
            )
            if record.info["run_id"]:
                store.write_mcu(record)
        except toolchain.DoesNotFit as error:
            first = str(error).splitlines()[0]
            tell(f"{job.what}: {first}\n")
            too_large += 1
            continue
        except (ValueError, RuntimeError) as error:
            tell(f"{job.what}: {error}", file=sys.stderr)
            failed += 1
            continue
        records.append(record)
    tell(table.text(records))
    return {
        "action": "run",
        "recorded": [f"{r.device}/{r.case}" for r in records],
        "failed": failed,
        "too_large": too_large,
    }


# core -> target, else generic
_TARGET = {
    "m4": "m4",
    "m7": "m4",
    "m33": "m4",
    "m55": "m55",
    "uno": "avr",
}


@dataclass(frozen=True)
class _Job:
    """One measurement.

    what: its name in messages. folder: returns the exported folder; a run is exported only then.
    """

    what: str
    core: str
    folder: Callable[[], Path]


def _jobs(args: argparse.Namespace) -> list[_Job]:
    """The given folders, and one folder for each way to export a given run."""
    found: list[_Job] = []
    for what in _suite(args) if args.suite else args.what:
        if not isinstance(what, str):
            found += _run_jobs(what, args)
        elif _is_folder(what):
            found.append(_folder_job(what, args))
        else:
            found += _run_jobs(_find(what, args), args)
    return found


def _is_folder(what: str) -> bool:
    """True for an exported folder, and for all names that cannot be a run's id."""
    exported = (Path(what) / "extras" / "model.json").exists()
    return exported or not _RUN_ID.fullmatch(what)


def _folder_job(folder: str, args: argparse.Namespace) -> _Job:
    from tbn_bench.mcu import measure, toolchain

    if args.target or args.activations:
        raise ValueError(f"{folder} is exported already: --target and --activations are for runs")
    core = args.core
    if not core:
        target = toolchain.describe(folder)["target"]
        core = measure.DEFAULT_CORE[target]
    return _Job(folder, core, partial(Path, folder))


def _run_jobs(record: RunRecord, args: argparse.Namespace) -> list[_Job]:
    from tbn_bench.mcu import measure

    core = args.core or measure.DEFAULT_CORE[args.target or "m4"]
    target = args.target or _TARGET.get(core, "generic")
    found = []
    for activations in _activations(core, args):
        label = f"{record.config['binarizer']}, {activations}"
        folder = partial(_exported, record, activations, target, args)
        found.append(_Job(label, core, folder))
    return found


def _activations(core: str, args: argparse.Namespace) -> tuple[str, ...]:
    """The given activations, else all of them; on the Uno bytes alone."""
    if args.activations:
        return (args.activations,)
    if core == "uno":
        return ("u8",)
    return ACTIVATIONS


def _exported(record: RunRecord, activations: str, target: str, args: argparse.Namespace) -> Path:
    from tbn_bench.mcu import export

    name = f"{args.name or 'net'}_{record.run_id[:6]}_{activations}"
    args.out.mkdir(parents=True, exist_ok=True)
    report = export.export(
        record,
        activations=activations,
        target=target,
        out=args.out / f"{name}_{target}",
        name=name,
        keep_inputs=True,
    )
    tell(f"{record.config['binarizer']}: {report['path']}")
    tell(export.show(report), end="\n\n")
    return Path(report["path"])


def _stores(args: argparse.Namespace) -> list[RunStore]:
    """The folders that may hold checkpoints: --trained, or the records' folder and its `local`."""
    if args.trained:
        return [RunStore(args.trained)]
    return [RunStore(args.results), RunStore(args.results / "local")]


def _has_checkpoint(record: RunRecord) -> bool:
    return (record.path / "checkpoints" / "best.ckpt").exists()


def _find(run_id: str, args: argparse.Namespace) -> RunRecord:
    """The run with this id, from the folder with its checkpoint.

    Raises RecordError where there is no such run, or several.
    """
    stores = _stores(args)
    for store in stores:
        with contextlib.suppress(RecordError):
            record = store.find(run_id)
            if _has_checkpoint(record):
                return record
    return stores[0].find(run_id)


def finished(args: argparse.Namespace) -> list[RunRecord]:
    """The finished classifiers of a suite that have their checkpoint."""
    found: list[RunRecord] = []
    for store in _stores(args):
        runs = store.runs_of(args.suite)
        found += [run for run in runs if _is_classifier(run) and _has_checkpoint(run)]
    return found


def _is_classifier(record: RunRecord) -> bool:
    return record.summary is not None and score_of(record.summary) == FIRST


def _suite(args: argparse.Namespace) -> list[RunRecord]:
    """The finished runs of a sweep, for each method the lowest seed.

    Raises ValueError where there is none.
    """
    runs = finished(args)
    if not runs:
        folders = " and ".join(str(store.root) for store in _stores(args))
        raise ValueError(
            f"no finished runs of {args.suite} with checkpoints under {folders}; "
            f"run: tbn-bench sweep sweeps/{args.suite}.yaml"
        )
    first: dict[tuple[str, str, str], RunRecord] = {}
    for run in sorted(runs, key=lambda r: r.config["seed"]):
        config = run.config
        key = (config["data"], config["model"], config["binarizer"])
        first.setdefault(key, run)
    return list(first.values())


def _report(args: argparse.Namespace) -> dict[str, Any]:
    from tbn_bench.mcu import table

    problems: list[str] = []
    records = list(RunStore(args.results).mcus(problems))
    if not records:
        reason = f": {problems[0]}" if problems else ""
        raise RecordError(
            f"no measurements under {args.results}/mcu{reason}; "
            "make some: tbn-bench mcu run --suite mnist_mcu"
        )
    tell(table.text(records))
    for problem in problems:
        tell(f"unreadable: {problem}", file=sys.stderr)
    return {"action": "report", "records": len(records), "failed": len(problems)}
