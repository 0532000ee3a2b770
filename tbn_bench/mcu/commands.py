"""tbn-bench export --format c and tbn-bench mcu build | run | report."""

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from tbn_bench.mcu.cores import CORES, TARGETS
from tbn_bench.mcu.jobs import jobs
from tbn_bench.records.files import RecordError
from tbn_bench.records.provenance import provenance
from tbn_bench.records.store import RunStore
from tbn_bench.records.text import tell

ACTIVATIONS = ("u8", "f32")


def add_export_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--activations",
        choices=ACTIVATIONS,
        default="u8",
        help="format c, wasm: store activations as bytes (u8, default) or float32",
    )
    parser.add_argument(
        "--target",
        choices=tuple(TARGETS),
        default="generic",
        help="format c: order of the weight bits; m4 suits M4, M7, M33 (default: generic)",
    )
    parser.add_argument(
        "--name", help="format c, wasm: name of the library and prefix of its functions"
    )
    parser.add_argument(
        "--amalgamate",
        action="store_true",
        help="format c: also write NAME_single.h, the whole library in one header",
    )
    parser.add_argument(
        "--zip",
        action="store_true",
        help="format c: also write the folder as a .zip for the Arduino IDE",
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
    build.add_argument("what", nargs=1, metavar="FOLDER", help="a folder that export wrote")
    _add_compiler_flags(build)

    measured = actions.add_parser(
        "run",
        help="build and run on a simulator (a run is exported first); "
        "record flash, RAM, stack and instructions",
        allow_abbrev=False,
    )
    measured.add_argument(
        "what", nargs="*", metavar="RUN|FOLDER", help="runs, or folders that export wrote"
    )
    _add_compiler_flags(measured)
    _add_run_flags(measured)

    report = actions.add_parser(
        "report",
        help="print the recorded measurements and their ratios",
        allow_abbrev=False,
    )
    _add_results_flag(report)


def _add_compiler_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--core",
        choices=tuple(CORES),
        help="core to compile for (default: the export target's own)",
    )
    parser.add_argument(
        "--cc",
        choices=("gcc", "zig"),
        default="gcc",
        help="compiler (default: gcc)",
    )
    parser.add_argument(
        "--optimize",
        choices=("-O2", "-Os"),
        default="-O2",
        help="written with =, as in --optimize=-Os (default: -O2)",
    )


def _add_run_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--samples",
        type=_samples,
        metavar="N",
        help="compute the first N test samples only (default: all)",
    )
    parser.add_argument(
        "--suite", help="measure every finished run of this sweep with its first seed"
    )
    parser.add_argument(
        "--sim",
        choices=("qemu", "unicorn", "simavr", "host"),
        help="simulator (default: the first that is installed)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("build/mcu"),
        help="folder for exported runs (default: build/mcu)",
    )
    add_export_flags(parser)
    parser.set_defaults(target=None, activations=None)
    _add_results_flag(parser)
    parser.add_argument(
        "--trained",
        type=Path,
        help="folder of runs with checkpoints (default: --results, or `local` in it)",
    )


def _samples(text: str) -> int:
    """Raises ArgumentTypeError for what is no number of at least 1."""
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"must be a number of at least 1, got {text!r}")


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
    from tbn_bench.mcu import export, size_table

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
    tell(size_table.show(report))
    tell(
        f"{path}: an Arduino, PlatformIO and CMake library; try: tbn-bench mcu run {path}",
    )
    return {key: value for key, value in report.items() if key != "layers"}


def export_web(args: argparse.Namespace) -> dict[str, Any]:
    """Runs `tbn-bench export --format wasm` and returns its JSON line."""
    from tbn_bench.mcu import size_table, web_export

    for flag in ("amalgamate", "zip"):
        if getattr(args, flag):
            raise ValueError(f"--{flag} is for format c, got wasm; leave it out")
    if args.target != "generic":
        raise ValueError(f"--target is for format c, got {args.target} with wasm; leave it out")
    record = RunStore(args.results).find(args.run)
    report = web_export.export_web(record, args.activations, args.out, args.name)
    name = report["name"]
    tell(size_table.show(report))
    tell(f"{report['path']}: {name}.wasm ({report['module_bytes']:,} bytes) and {name}.js")
    return {key: value for key, value in report.items() if key != "layers"}


def _build(args: argparse.Namespace) -> dict[str, Any]:
    from tbn_bench.mcu import cores, toolchain

    folder = Path(args.what[0])
    core = args.core
    if not core:
        target = toolchain.describe(folder)["target"]
        core = TARGETS[target].core
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
    for fit in cores.fits(core, flash, arena):
        verdict = "fits" if fit.fits else "does not fit"
        left = f"{fit.flash_left:,} bytes of flash and {fit.ram_left:,} of RAM left"
        tell(f"  {fit.product.name}: {verdict}, {left}")
    return {"folder": str(folder), "core": core, "flash_bytes": flash, "arena_bytes": arena}


def _tell_sizes(sizes: Any, arena: int) -> None:
    """sizes: elf.Sizes; arena: bytes."""
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
    from tbn_bench.mcu import errors, measure, table

    if bool(args.what) == bool(args.suite):
        raise ValueError("give runs or exported folders, or --suite NAME")
    chosen = jobs(args)
    for core in sorted({job.core for job in chosen}):
        reason = measure.missing_tools(core, args.cc, args.sim)
        if reason:
            raise ValueError(reason)
    store = RunStore(args.results)
    command = shlex.join(["tbn-bench", *sys.argv[1:]])
    records = []
    failed = 0
    too_large = 0
    for job in chosen:
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
        except errors.DoesNotFit as error:
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
