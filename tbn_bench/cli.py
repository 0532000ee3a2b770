"""tbn-bench train | sweep | plan | bench | latency | export | mcu | report | runs. Heavy imports happen inside commands: --help needs no torch."""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

from tbn_bench import __version__, yaml_file
from tbn_bench.catalog import did_you_mean
from tbn_bench.config import RunConfig, make
from tbn_bench.records.names import is_path
from tbn_bench.records.store import RecordError, RunBusy, RunStore, emit, tell
from tbn_bench.scores import shown

MANY_THREADS = 1000  # more is a slip of the hand, and takes a machine down


class _Parser(argparse.ArgumentParser):
    """argparse that suggests the right spelling of an unknown flag or command."""

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments"):
            flags = [a for a in message.split(": ", 1)[1].split() if a.startswith("--")]
            if flags:
                known = [
                    o
                    for action in self._actions
                    for o in action.option_strings
                    if o.startswith("--")
                ]
                message = f"unknown flag {flags[0].split('=')[0]}{did_you_mean(flags[0].split('=')[0], known)}"
        if message.startswith("argument COMMAND: invalid choice: "):
            word = message.split("'")[1]
            known = next(a.choices for a in self._actions if a.dest in ("command", "action"))
            message = f"unknown command {word!r}{did_you_mean(word, known)}"
        tell(f"{self.prog}: error: {message}", file=sys.stderr)
        raise SystemExit(2)

    calls: tuple[str, ...] = ()  # flags that take dotted ones beside them: --binarizer.p=4

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        for flag in (a.split("=")[0] for a in args or ()):
            if (
                flag.split(".")[0] in self.calls
                and "." in flag
                and flag not in self._option_string_actions
            ):
                self.add_argument(flag)
        space, rest = super().parse_known_args(args, namespace)
        if rest and self.prog.count(" "):  # a subcommand knows its own flags
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return space, rest


def _yaml_file(path: Path) -> dict[str, Any]:
    value = yaml_file.read(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a mapping of parameters, got {type(value).__name__}")
    return value


def _config_flags(parser: _Parser) -> None:
    parser.calls = ("--data", "--model", "--binarizer", "--task", "--optimizer")
    parser.add_argument("--config", type=Path, help="YAML preset; flags win over it")
    for name, field in RunConfig.model_fields.items():
        shown = ",".join(field.default) if isinstance(field.default, tuple) else field.default
        parser.add_argument(
            f"--{name}",
            default=None,
            help=f"{field.description} (default: {shown})".replace("%", "%%"),
        )


def _config(args: argparse.Namespace) -> RunConfig:
    from tbn_bench.sweep import dotted

    preset = dotted.fold(_yaml_file(args.config)) if args.config else {}
    given = {
        k: v
        for k, v in vars(args).items()
        if v is not None and (k in RunConfig.model_fields or "." in k)
    }
    flags = dotted.from_flags(given)
    if os.environ.get("WANDB_SWEEP_ID"):  # W&B's agent hands on every parameter of the sweep
        flags, left = dotted.fitting(flags, preset)
        _warn(
            "; ".join(
                f"--{name} is no option of this {name.partition('.')[0]} and left out"
                for name in left
            )
        )
    return make(preset | dotted.fold(flags, preset))


def _threads(text: str) -> int:
    """A number of threads that a machine can have."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if not 1 <= value <= MANY_THREADS:
        raise argparse.ArgumentTypeError(
            f"expected an integer from 1 to {MANY_THREADS:,}, got {text[:50]!r}"
        )
    return value


def _sweep_name(text: str) -> str:
    """A name that is a folder under results/runs, never a path."""
    if is_path(text):
        raise argparse.ArgumentTypeError(
            f"expected a name such as lr_study, got {text!r}; it must not be a path"
        )
    return text


def _store_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--results", type=Path, default=Path("results"), help="folder of records (default: results)"
    )


def _run_flags(parser: argparse.ArgumentParser, wandb: str) -> None:
    _store_flag(parser)
    parser.add_argument(
        "--wandb",
        choices=("offline", "online", "off"),
        default=wandb,
        help=f"mirror (default: {wandb})",
    )
    parser.add_argument(
        "--tracker", action="append", default=[], metavar="NAME",
        help="a further mirror: tensorboard or mlflow (wandb: as --wandb offline); repeatable, or a list with commas",
    )  # fmt: skip
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="device (default: cpu)"
    )
    parser.add_argument(
        "--channels-last",
        action="store_true",
        help="channels innermost in memory: convolutions train faster",
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="torch.compile the network (some minutes at the start of each run)",
    )


def _train(args: argparse.Namespace) -> dict[str, Any]:
    from tbn_bench.experiment import build, train

    config = _config(args)
    options = train.RunOptions(
        args.results, args.sweep, args.wandb, args.device, args.threads, progress=sys.stdout.isatty() and not args.quiet,
        channels_last=args.channels_last, compile=args.compile, devices=args.devices, trackers=tuple(args.tracker), trial=args.trial,
    )  # fmt: skip
    if not args.quiet and not options.rank:
        tell(build.build(config)[2])
    _warn(train.slow_bfloat16(config.precision, args.device))
    record = train.run(config, options, resume=not args.restart)
    if options.rank:
        raise SystemExit(0)  # the first process says it all
    summary = {k: v for k, v in (record.summary or {}).items() if k != "plan"}
    tell(
        f"run {record.run_id}: test {shown(summary)}, {summary['bits_per_weight']:.3f} bits per weight"
    )
    return {"status": record.status, "sweep": record.sweep, **summary}


def _warn(line: str) -> None:
    if line:
        tell(f"warning: {line}", file=sys.stderr)


def _plan(args: argparse.Namespace) -> dict[str, Any]:
    from tbn_bench.experiment import build

    _, _, plan, total = build.sketch(_config(args))
    tell(plan)
    return total.summary()


def _sweep(args: argparse.Namespace) -> dict[str, Any]:
    if args.engine != "ray" and (args.address, args.cpus_per_run, args.gpus_per_run) != (
        None,
        None,
        None,
    ):
        raise ValueError("--address, --cpus-per-run and --gpus-per-run need --engine ray")
    if bool(args.files) == bool(args.fill):
        args.parser.error("give sweep files (FILE), or --fill NAME")
    if args.engine == "wandb":
        return _agent(args)
    from tbn_bench.sweep import cluster, local, process, spec
    from tbn_bench.tracking import mirror

    sweep = _missing_seeds(args) if args.fill else spec.load_all(args.files)
    sweep = spec.smoke(sweep) if args.scale == "smoke" else sweep
    for line in sweep.warnings:
        _warn(line)
    if "bf16" in _precisions(sweep):
        from tbn_bench.experiment.train import slow_bfloat16

        _warn(slow_bfloat16("bf16", args.device))
    how = process.How(
        args.jobs,
        args.wandb,
        args.device,
        args.channels_last,
        args.compile,
        args.retries,
        args.time_limit,
        args.memory_limit,
        args.per_gpu,
        trackers=tuple(args.tracker),
        threads=args.threads,
        nice=args.nice,
    )
    if not args.dry_run:
        mirror.check(how.trackers, how.wandb)
    if args.engine == "ray":
        share = cluster.Share(
            1 if args.cpus_per_run is None else args.cpus_per_run, args.gpus_per_run
        )
        return cluster.run(
            sweep, args.results, how, args.address, share, args.dry_run, args.sampler
        )
    return local.run(sweep, args.results, how, args.dry_run, args.sampler)


def _precisions(sweep: Any) -> set[str]:
    """Every precision that a run of the sweep can have; a search draws its own."""
    form = sweep.space.get("precision")
    drawn = [] if form is None else getattr(form, "values", [getattr(form, "value", None)])
    return {config.precision for config in sweep.configs} | {str(value) for value in drawn}


def _missing_seeds(args: argparse.Namespace) -> Any:
    """The sweep of all runs that the groups of a recorded sweep lack. Raises ValueError for an unknown sweep."""
    from tbn_bench.runs import seeds
    from tbn_bench.sweep import spec

    store = RunStore(args.results)
    known = sorted(p.name for p in (args.results / "runs").glob("*") if p.is_dir())
    if args.files or args.fill not in known:
        what = (
            "a FILE beside it" if args.files else f"{args.fill!r}{did_you_mean(args.fill, known)}"
        )
        raise ValueError(
            f"--fill takes the name of a sweep recorded under {args.results} and no FILE, got {what}"
        )
    return spec.SweepSpec(args.fill, seeds.missing_configs(store, args.fill))


def _agent(args: argparse.Namespace) -> dict[str, Any]:
    """W&B's server says which configs: its own agent runs the sweep's command, by this environment's tbn-bench."""
    from tbn_bench.tracking import account

    if len(args.files) != 1 or args.files[0].exists():
        raise ValueError(
            f"--engine wandb takes one sweep ID, got {' '.join(map(str, args.files))}; `wandb sweep FILE` makes one"
        )
    account.require_key("--engine wandb")
    name, here = str(args.files[0]), str(Path(sys.executable).parent)
    program = shutil.which("wandb") or shutil.which("wandb", path=here)
    if program is None:
        raise ValueError('--engine wandb needs the command wandb on PATH: pip install "tbn-bench"')
    path = os.pathsep.join([here, os.environ.get("PATH", os.defpath)])
    status = subprocess.run([program, "agent", name], env={**os.environ, "PATH": path}).returncode
    return {"engine": "wandb", "sweep": name, "failed": status}


def _trained_runs(args: argparse.Namespace) -> Path:
    """The folder with the suite's runs and their checkpoints: --results, or `local` in it, where they are trained if they are nowhere."""
    from tbn_bench.latency import networks
    from tbn_bench.sweep import local, process, spec

    file, here = Path("sweeps") / f"{args.suite}.yaml", args.results / "local"
    for folder in (args.results, here):
        try:
            networks.usable_runs(args.suite, folder)
        except ValueError:
            if folder == here and not file.exists():
                raise
        else:
            return folder
    tell(
        f"no trained runs of {args.suite} with checkpoints here: training {file} first, into {here}"
    )
    local.run(spec.load(file), here, process.How(device=args.device))
    return here


def _latency(args: argparse.Namespace) -> dict[str, Any]:
    from tbn_bench.latency import networks, ops

    if args.suite in ops.CASES:
        return ops.suite(
            args.suite, args.out or args.results, args.threads, args.batch, args.device
        )
    if args.suite:
        trained = _trained_runs(args)
        return networks.suite(
            args.suite,
            trained,
            args.device,
            args.threads,
            args.batch,
            args.out or args.results,
            args.skip_done,
            args.few_peers,
        )
    return networks.case(_config(args), args.results, args.device, args.threads, args.batch)


def _bench(args: argparse.Namespace) -> dict[str, Any]:
    from tbn_bench.latency import training

    return training.training_steps(args.results, args.p, args.batch, args.threads, args.device)


def _export(args: argparse.Namespace) -> dict[str, Any]:
    if args.format == "c":
        from tbn_bench.mcu import commands

        return commands.export(args)
    from tbn_bench.experiment import export

    return export.export(RunStore(args.results).find(args.run), args.format, args.out)


def _mcu(args: argparse.Namespace) -> dict[str, Any]:
    from tbn_bench.mcu import commands

    if args.action == "run" and args.suite and not args.what and not commands.finished(args):
        _train_first_seed(args)
    return commands.run(args)


def _train_first_seed(args: argparse.Namespace) -> None:
    """The runs of a suite's first seed, into --trained or `local` in --results. Raises ValueError for a sweep that is not there."""
    from tbn_bench.sweep import local, process, spec

    file, here = Path("sweeps") / f"{args.suite}.yaml", args.trained or args.results / "local"
    if not file.exists():
        raise ValueError(
            f"no finished runs of {args.suite} with checkpoints under {here}, and no {file} to train them by"
        )
    sweep = spec.load(file)
    first = min(config.seed for config in sweep.configs)
    tell(
        f"no trained runs of {args.suite} with checkpoints here: training seed {first} of {file} first, into {here}"
    )
    local.run(
        spec.SweepSpec(sweep.name, [c for c in sweep.configs if c.seed == first]),
        here,
        process.How(jobs=2),
    )


def _report(args: argparse.Namespace) -> dict[str, Any]:
    if args.every is not None and not args.watch:
        raise ValueError("--every needs --watch")
    if args.watch and args.paper:
        raise ValueError("--watch builds the page, --paper another file; give one of them")
    if args.watch:
        from tbn_bench.reporting import watch

        return watch.watch(args.results, args.out, 10.0 if args.every is None else args.every)
    from tbn_bench.reporting import build, paper

    return (
        paper.of_folder(args.results, args.out)
        if args.paper
        else build.report(args.results, args.out)
    )


def _runs(args: argparse.Namespace) -> dict[str, Any]:
    from tbn_bench.runs import flags

    if flags.wants_scores(args):
        from tbn_bench.experiment import verify

        return verify.run(args)
    return flags.run(args)


def _parser() -> argparse.ArgumentParser:
    from tbn_bench.mcu import commands as mcu
    from tbn_bench.runs import flags
    from tbn_bench.tracking import commands as tracking

    parser = _Parser(
        prog="tbn-bench",
        description="Train, compare, time and report binary and sub-bit neural networks.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=_Parser
    )

    p = commands.add_parser("train", help="train one network and record it", allow_abbrev=False)
    _config_flags(p)
    _run_flags(
        p, "online" if os.environ.get("WANDB_SWEEP_ID") else "offline"
    )  # an agent's runs are the server's
    p.add_argument(
        "--sweep",
        type=_sweep_name,
        default="single",
        help="name of the group of runs (default: single)",
    )
    p.add_argument("--threads", type=_threads, help="torch threads")
    p.add_argument("--trial", type=int, help=argparse.SUPPRESS)  # its number in a sweep
    p.add_argument(
        "--devices",
        type=int,
        default=1,
        help="processes that train together, each with a device of its own (default: 1)",
    )
    resume = p.add_mutually_exclusive_group()
    resume.add_argument(
        "--resume",
        action="store_true",
        help="go on from the last checkpoint (the default where there is one)",
    )
    resume.add_argument(
        "--restart", action="store_true", help="ignore checkpoints of an unfinished run"
    )
    p.add_argument("--quiet", action="store_true", help="no plan, no progress bar")
    p.set_defaults(call=_train)

    p = commands.add_parser(
        "plan", help="show how a binarizer treats each weight, without training", allow_abbrev=False
    )
    _config_flags(p)
    p.set_defaults(call=_plan)

    p = commands.add_parser(
        "sweep", help="run every configuration of a sweep file (W&B's format)", allow_abbrev=False
    )
    p.add_argument(
        "files",
        type=Path,
        nargs="*",
        metavar="FILE",
        help="sweep files; several must have one `name`",
    )
    p.add_argument(
        "--fill",
        metavar="NAME",
        help="no FILE: run the seeds that groups of this recorded sweep lack (see: runs seeds)",
    )
    p.add_argument(
        "--sampler",
        choices=("tpe", "gp"),
        default="tpe",
        help="of a bayes or custom search (default: tpe)",
    )
    _run_flags(p, "off")
    p.add_argument(
        "--jobs", type=int, help="runs at once (default: 1, with --device cuda one per GPU slot)"
    )
    p.add_argument(
        "--threads", type=int, help="threads of each run (default: its share of the cores)"
    )
    p.add_argument(
        "--nice",
        type=int,
        default=0,
        help="niceness of the runs, 0 to 19: other work goes first (default: 0)",
    )
    p.add_argument("--per-gpu", type=int, default=1, help="runs that share one GPU (default: 1)")
    p.add_argument(
        "--retries",
        type=int,
        default=1,
        help="further attempts of a crashed run, from its last checkpoint (default: 1)",
    )
    p.add_argument(
        "--time-limit",
        type=float,
        metavar="SECONDS",
        help="of one attempt; what passes it is tried again, then failed",
    )
    p.add_argument(
        "--memory-limit", type=float, metavar="GB", help="resident memory of one attempt"
    )
    p.add_argument(
        "--scale", choices=("full", "smoke"), default="full",
        help="smoke: one epoch on random samples in the form of the data, seconds per run, recorded as NAME-smoke",
    )  # fmt: skip
    p.add_argument("--dry-run", action="store_true", help="check and list, run nothing")
    p.add_argument(
        "--engine", choices=("local", "ray", "wandb"), default="local",
        help="local processes (default), a Ray cluster (docs/cluster.md), or an agent of W&B: FILE is then a sweep ID",
    )  # fmt: skip
    p.add_argument(
        "--address",
        help="of the Ray cluster, or auto (default: RAY_ADDRESS, else this machine alone)",
    )
    p.add_argument(
        "--cpus-per-run",
        type=int,
        help="with --engine ray: cores, and torch threads, of each run (default: 1)",
    )
    p.add_argument(
        "--gpus-per-run",
        type=float,
        help="with --engine ray: GPUs of each run, or a fraction (default: 1 / --per-gpu)",
    )
    p.set_defaults(call=_sweep, parser=p)

    p = commands.add_parser(
        "latency", help="time networks, each gated by a parity check", allow_abbrev=False
    )
    _config_flags(p)
    _store_flag(p)
    p.add_argument(
        "--suite", help="linear, conv (single layers), or the name of a sweep: its trained runs"
    )
    p.add_argument(
        "--batch", type=int, nargs="+", default=[1, 64], help="batch sizes (default: 1 64)"
    )
    p.add_argument(
        "--out", type=Path, help="folder of the timings' records (default: that of --results)"
    )
    p.add_argument(
        "--few-peers",
        action="store_true",
        help="dense, compiled and ONNX Runtime only (the others take minutes to build)",
    )
    p.add_argument(
        "--skip-done",
        action="store_true",
        help="do not time again a case whose record has the same runs",
    )
    p.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    p.add_argument("--threads", type=_threads, default=1, help="torch threads (default: 1)")
    p.set_defaults(call=_latency)

    p = commands.add_parser(
        "bench",
        help="time training steps of ResNet-18's 3x3 convolutions against full precision",
        allow_abbrev=False,
    )
    _store_flag(p)
    p.add_argument("--p", type=int, nargs="+", default=[4, 8])
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    p.add_argument("--threads", type=_threads, default=1)
    p.set_defaults(call=_bench)

    p = commands.add_parser(
        "export",
        help="write a trained run as a file, checked against the trained model",
        allow_abbrev=False,
    )
    p.add_argument("run", help="run id or its beginning, also as SWEEP/RUN (see: tbn-bench runs)")
    _store_flag(p)
    p.add_argument(
        "--format",
        default="safetensors",
        help="safetensors, pt2, onnx, or c: a library for microcontrollers (default: safetensors)",
    )
    p.add_argument(
        "--out", type=Path, help="file (format c: folder) to write (default: RUN.FORMAT here)"
    )
    mcu.add_export_flags(p)
    p.set_defaults(call=_export)

    p = commands.add_parser(
        "mcu",
        help="build, run and measure exported C libraries on simulated microcontrollers",
        allow_abbrev=False,
    )
    mcu.add(p)
    p.set_defaults(call=_mcu)

    p = commands.add_parser(
        "report", help="records to tables, figures and one page", allow_abbrev=False
    )
    _store_flag(p)
    p.add_argument(
        "--out", type=Path, default=Path("reports"), help="folder to write (default: reports)"
    )
    p.add_argument(
        "--watch",
        action="store_true",
        help="build again whenever a run begins or ends; the open page follows. Ctrl-C ends it",
    )
    p.add_argument(
        "--every",
        type=float,
        metavar="SECONDS",
        help="with --watch: how often to look (default: 10)",
    )
    p.add_argument(
        "--paper",
        action="store_true",
        help="published numbers beside ours, with a verdict and a command each: OUT/paper.md, paper.csv",
    )
    p.set_defaults(call=_report)

    p = commands.add_parser(
        "runs",
        help="list, show, compare, follow, check, prune and export recorded runs",
        allow_abbrev=False,
    )
    _store_flag(p)
    tracking.add_arguments(flags.add(p))
    p.set_defaults(call=_runs)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 done, 1 refused or failed (one line on stderr), 2 wrong flags, 75 busy elsewhere, 130 interrupted."""
    args = _parser().parse_args(argv)
    try:
        result = args.call(args)
    except MemoryError:
        tell(
            f"tbn-bench {args.command}: error: not enough memory; use a smaller network or batch",
            file=sys.stderr,
        )
        return 1
    except (ValueError, RecordError, RuntimeError, OSError) as error:
        tell(f"tbn-bench {args.command}: error: {error}", file=sys.stderr)
        return 75 if isinstance(error, RunBusy) else 1
    except KeyboardInterrupt:
        tell(
            f"tbn-bench {args.command}: interrupted; the same command goes on where it stopped",
            file=sys.stderr,
        )
        return 130
    emit(result)
    return 1 if result.get("failed") else 0


if __name__ == "__main__":
    sys.exit(main())
