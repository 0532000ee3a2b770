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

TARGETS, ACTIVATIONS = ("generic", "m4", "m55", "avr"), ("u8", "f32")
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
        dest="action", required=True, metavar="ACTION", parser_class=type(parser)
    )
    for name, text in (
        ("build", "compile an exported folder for a core and show its sizes"),
        (
            "run",
            "export (where a run is given), build, run on a simulator, record: flash, RAM, stack, instructions",
        ),
        ("report", "the recorded measurements and their ratios as a table"),
    ):
        p = actions.add_parser(name, help=text, allow_abbrev=False)
        if name != "report":
            p.add_argument(
                "what",
                nargs="*" if name == "run" else 1,
                metavar="FOLDER" if name == "build" else "RUN|FOLDER",
            )
            p.add_argument("--core", choices=CORES, help="default: the target's own")
            p.add_argument(
                "--cc", choices=("gcc", "zig"), default="gcc", help="compilers (default: gcc)"
            )
            p.add_argument(
                "--optimize",
                choices=("-O2", "-Os"),
                default="-O2",
                help="as --optimize=-Os (default: -O2)",
            )
        if name == "run":
            p.add_argument("--suite", help="every finished run of this sweep, of its first seed")
            p.add_argument(
                "--sim",
                choices=("qemu", "unicorn", "simavr", "host"),
                help="default: the first that is installed",
            )
            p.add_argument(
                "--out",
                type=Path,
                default=Path("build/mcu"),
                help="where runs are exported to (default: build/mcu)",
            )
            add_export_flags(p)
            p.set_defaults(target=None, activations=None)
        if name != "build":
            p.add_argument(
                "--results",
                type=Path,
                default=Path("results"),
                help="folder of records (default: results)",
            )
        if name == "run":
            p.add_argument(
                "--trained",
                type=Path,
                help="folder of the runs with their checkpoints (default: --results, else its `local`)",
            )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """What `tbn-bench mcu` does: its JSON line."""
    return {"build": _build, "run": _run, "report": _report}[args.action](args)


def export(args: argparse.Namespace) -> dict[str, Any]:
    from tbn_bench.mcu import export

    report = export.export(
        RunStore(args.results).find(args.run),
        args.activations,
        args.target,
        args.out,
        args.name,
        args.zip,
        args.amalgamate,
    )
    tell(export.show(report))
    tell(
        f"{report['path']}: an Arduino, PlatformIO and CMake library; try: tbn-bench mcu run {report['path']}"
    )
    return {k: v for k, v in report.items() if k != "layers"}


def _build(args: argparse.Namespace) -> dict[str, Any]:
    from tbn_bench.mcu import measure, toolchain

    folder = Path(args.what[0])
    core = args.core or measure.DEFAULT_CORE[toolchain.describe(folder)["target"]]
    built = toolchain.build(
        folder,
        core,
        args.cc,
        folder / "build" / f"{core}-{args.cc}-lean",
        ("-DTEST_WITHOUT_SELFTEST",),
        args.optimize,
    )
    sizes, model = built.sizes, built.model
    tell(f"{folder} for {core}, {built.version}, {args.optimize}")
    for name, size in (
        ("code", sizes.code),
        ("routines of the compiler", sizes.helpers),
        ("tables", sizes.constants),
        ("static RAM", sizes.data + sizes.bss),
    ):
        tell(f"  {name:<26}{size:>10,} bytes")
    tell(
        f"  {'flash of the library':<26}{sizes.library_flash:>10,} bytes, without its self-test; arena {model['arena_bytes']:,} bytes of RAM"
    )
    for fit in toolchain.fits(core, sizes.library_flash, model["arena_bytes"]):
        tell(
            f"  {fit.product.name}: {'fits' if fit.fits else 'does not fit'}, {fit.flash_left:,} bytes of flash and {fit.ram_left:,} of RAM left"
        )
    return {
        "folder": str(folder),
        "core": core,
        "flash_bytes": sizes.library_flash,
        "arena_bytes": model["arena_bytes"],
    }


def _run(args: argparse.Namespace) -> dict[str, Any]:
    from tbn_bench.mcu import measure, table, toolchain

    if bool(args.what) == bool(args.suite):
        raise ValueError("give runs or exported folders, or --suite NAME")
    jobs = _jobs(args)
    for core in sorted({job.core for job in jobs}):
        if reason := measure.missing_tools(core, args.cc, args.sim):
            raise ValueError(reason)
    store, records, failed, too_large = RunStore(args.results), [], 0, 0
    command = shlex.join(["tbn-bench", *sys.argv[1:]])
    for job in jobs:
        try:
            folder = job.folder()
            record = measure.measure(
                folder, job.core, args.cc, args.sim, args.optimize, provenance(command, "simulator")
            )
            if record.info["run_id"]:
                store.write_mcu(record)
        except toolchain.DoesNotFit as error:
            tell(f"{job.what}: {str(error).splitlines()[0]}\n")
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


_TARGET = {
    "m4": "m4",
    "m7": "m4",
    "m33": "m4",
    "m55": "m55",
    "uno": "avr",
}  # core -> target, else generic


@dataclass(frozen=True)
class _Job:
    """One measurement: what it is called, on which core, and its exported folder, made when it is asked for."""

    what: str
    core: str
    folder: Callable[[], Path]


def _jobs(args: argparse.Namespace) -> list[_Job]:
    """The folders given, and what the given runs, or the suite's, are exported to."""
    from tbn_bench.mcu import measure, toolchain

    found = []
    for what in _suite(args) if args.suite else args.what:
        if isinstance(what, str) and (
            (Path(what) / "extras" / "model.json").exists() or not _RUN_ID.fullmatch(what)
        ):
            if args.target or args.activations:
                raise ValueError(
                    f"{what} is exported already: --target and --activations are for runs"
                )
            core = args.core or measure.DEFAULT_CORE[toolchain.describe(what)["target"]]
            found.append(_Job(what, core, partial(Path, what)))
            continue
        record = _find(what, args) if isinstance(what, str) else what
        core = args.core or measure.DEFAULT_CORE[args.target or "m4"]
        target = args.target or _TARGET.get(core, "generic")
        for activations in (
            (args.activations,)
            if args.activations
            else ACTIVATIONS[:1]
            if core == "uno"
            else ACTIVATIONS
        ):
            label = f"{record.config['binarizer']}, {activations}"
            found.append(_Job(label, core, partial(_exported, record, activations, target, args)))
    return found


def _exported(record: RunRecord, activations: str, target: str, args: argparse.Namespace) -> Path:
    from tbn_bench.mcu import export

    name = f"{args.name or 'net'}_{record.run_id[:6]}_{activations}"
    args.out.mkdir(parents=True, exist_ok=True)
    report = export.export(
        record, activations, target, args.out / f"{name}_{target}", name, keep_inputs=True
    )
    tell(f"{record.config['binarizer']}: {report['path']}")
    tell(export.show(report), end="\n\n")
    return Path(report["path"])


def _stores(args: argparse.Namespace) -> list[RunStore]:
    """Where runs with checkpoints may be: --trained, or the records' folder and `local` in it."""
    return [
        RunStore(folder)
        for folder in ([args.trained] if args.trained else [args.results, args.results / "local"])
    ]


def _find(run_id: str, args: argparse.Namespace) -> RunRecord:
    """The run of this id, where its checkpoint is. Raises RecordError where there is none or several."""
    stores = _stores(args)
    for store in stores:
        with contextlib.suppress(RecordError):
            record = store.find(run_id)
            if (record.path / "checkpoints" / "best.ckpt").exists():
                return record
    return stores[0].find(run_id)


def finished(args: argparse.Namespace) -> list[RunRecord]:
    """The finished classifiers of a suite that have their checkpoint."""
    runs = [run for store in _stores(args) for run in store.runs_of(args.suite)]
    return [
        r
        for r in runs
        if r.summary is not None
        and score_of(r.summary) == FIRST
        and (r.path / "checkpoints" / "best.ckpt").exists()
    ]


def _suite(args: argparse.Namespace) -> list[RunRecord]:
    """The finished runs of a sweep, for each method the lowest seed. Raises ValueError where there is none."""
    runs = finished(args)
    if not runs:
        folders = " and ".join(str(store.root) for store in _stores(args))
        raise ValueError(
            f"no finished runs of {args.suite} with checkpoints under {folders}; run: tbn-bench sweep sweeps/{args.suite}.yaml"
        )
    first: dict[tuple[str, str, str], RunRecord] = {}
    for run in sorted(runs, key=lambda r: r.config["seed"]):
        first.setdefault((run.config["data"], run.config["model"], run.config["binarizer"]), run)
    return list(first.values())


def _report(args: argparse.Namespace) -> dict[str, Any]:
    from tbn_bench.mcu import table

    problems: list[str] = []
    records = list(RunStore(args.results).mcus(problems))
    if not records:
        raise RecordError(
            f"no measurements under {args.results}/mcu{': ' + problems[0] if problems else ''}; make some: tbn-bench mcu run --suite mnist_mcu"
        )
    tell(table.text(records))
    for problem in problems:
        tell(f"unreadable: {problem}", file=sys.stderr)
    return {"action": "report", "records": len(records), "failed": len(problems)}
