"""tbn-bench train | sweep | plan | bench | latency | export | report | runs. Heavy imports happen inside commands: --help needs no torch."""

import argparse
import sys
from pathlib import Path
from typing import Any, NoReturn

import yaml

from tbn_bench import __version__
from tbn_bench.catalog import did_you_mean
from tbn_bench.config import RunConfig, make
from tbn_bench.records import RecordError, RunBusy, RunStore, emit
from tbn_bench.scores import SCORES, score_of, shown


class _Parser(argparse.ArgumentParser):
    """argparse that suggests the right spelling of an unknown flag or command."""

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments"):
            flags = [a for a in message.split(": ", 1)[1].split() if a.startswith("--")]
            if flags:
                known = [o for action in self._actions for o in action.option_strings if o.startswith("--")]
                message = f"unknown flag {flags[0].split('=')[0]}{did_you_mean(flags[0].split('=')[0], known)}"
        if message.startswith("argument COMMAND: invalid choice: "):
            word = message.split("'")[1]
            known = next(a.choices for a in self._actions if a.dest == "command")
            message = f"unknown command {word!r}{did_you_mean(word, known)}"
        print(f"{self.prog}: error: {message}", file=sys.stderr)
        raise SystemExit(2)

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        space, rest = super().parse_known_args(args, namespace)
        if rest and self.prog.count(" "):  # a subcommand knows its own flags
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return space, rest


def _yaml_file(path: Path) -> dict[str, Any]:
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a mapping of parameters, got {type(value).__name__}")
    return value


def _config_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, help="YAML preset; flags win over it")
    for name, field in RunConfig.model_fields.items():
        shown = ",".join(field.default) if isinstance(field.default, tuple) else field.default
        parser.add_argument(f"--{name}", default=None, help=f"{field.description} (default: {shown})".replace("%", "%%"))


def _config(args: argparse.Namespace) -> RunConfig:
    values = _yaml_file(args.config) if args.config else {}
    for name, field in RunConfig.model_fields.items():
        given = getattr(args, name)
        if given is not None:
            values[name] = given if field.annotation is str or name == "keep" else given.strip("'\"")
    return make(values)


def _store_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of records (default: results)")


def _run_flags(parser: argparse.ArgumentParser, wandb: str) -> None:
    _store_flag(parser)
    parser.add_argument("--wandb", choices=("offline", "online", "off"), default=wandb, help=f"mirror (default: {wandb})")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="device (default: cpu)")
    parser.add_argument("--channels-last", action="store_true", help="channels innermost in memory: convolutions train faster")
    parser.add_argument(
        "--compile", action="store_true", help="torch.compile the network (some minutes at the start of each run)"
    )


def _train(args: argparse.Namespace) -> dict[str, Any]:
    from tbn_bench import assembly, train

    config = _config(args)
    options = train.RunOptions(
        args.results, args.sweep, args.wandb, args.device, args.threads, progress=sys.stdout.isatty() and not args.quiet,
        channels_last=args.channels_last, compile=args.compile, devices=args.devices,
    )  # fmt: skip
    if not args.quiet and not options.rank:
        print(assembly.build(config)[2], flush=True)
    record = train.run(config, options, resume=not args.restart)
    if options.rank:
        raise SystemExit(0)  # the first process says it all
    summary = {k: v for k, v in (record.summary or {}).items() if k != "plan"}
    print(f"run {record.run_id}: test {shown(summary)}, {summary['bits_per_weight']:.3f} bits per weight")
    return {"status": record.status, "sweep": record.sweep, **summary}


def _plan(args: argparse.Namespace) -> dict[str, Any]:
    from tbn_bench import assembly

    _, _, plan, total = assembly.sketch(_config(args))
    print(plan)
    return total.summary()


def _sweep(args: argparse.Namespace) -> dict[str, Any]:
    from tbn_bench.sweep import local, spec

    sweep = spec.load_all(args.files)
    sweep = spec.smoke(sweep) if args.scale == "smoke" else sweep
    how = local.How(args.jobs, args.wandb, args.device, args.channels_last, args.compile)
    return local.run(sweep, args.results, how, args.dry_run)


def _trained_runs(args: argparse.Namespace) -> Path:
    """The folder with the suite's runs and their checkpoints: --results, or `local` in it, where they are trained if they are nowhere."""
    from tbn_bench.latency import networks
    from tbn_bench.sweep import local, spec

    file, here = Path("sweeps") / f"{args.suite}.yaml", args.results / "local"
    for folder in (args.results, here):
        try:
            networks.usable_runs(args.suite, folder)
        except ValueError:
            if folder == here and not file.exists():
                raise
        else:
            return folder
    print(f"no trained runs of {args.suite} with checkpoints here: training {file} first, into {here}", flush=True)
    local.run(spec.load(file), here, local.How(device=args.device))
    return here


def _latency(args: argparse.Namespace) -> dict[str, Any]:
    from tbn_bench.latency import networks, ops

    if args.suite in ops.CASES:
        return ops.suite(args.suite, args.out or args.results, args.threads, args.batch, args.device)
    if args.suite:
        trained = _trained_runs(args)
        return networks.suite(
            args.suite, trained, args.device, args.threads, args.batch, args.out or args.results, args.skip_done, args.few_peers
        )
    return networks.case(_config(args), args.results, args.device, args.threads, args.batch)


def _bench(args: argparse.Namespace) -> dict[str, Any]:
    from tbn_bench.latency import training

    return training.training_steps(args.results, args.p, args.batch, args.threads, args.device)


def _export(args: argparse.Namespace) -> dict[str, Any]:
    from tbn_bench import export

    return export.export(RunStore(args.results).find(args.run), args.format, args.out)


def _report(args: argparse.Namespace) -> dict[str, Any]:
    from tbn_bench.reporting import build

    return build.report(args.results, args.out)


def _score(summary: dict[str, Any] | None) -> str:
    """Its number alone: the task is in the row."""
    value = (summary or {}).get(f"test/{score_of(summary)}")
    return "—" if value is None else SCORES[score_of(summary)].text(value)


def _runs(args: argparse.Namespace) -> dict[str, Any]:
    problems: list[str] = []
    runs = list(RunStore(args.results).runs(problems))
    for r in runs:
        c = r.config
        print(
            f"{r.run_id}  {r.status:<11}  {_score(r.summary):>9}  {r.sweep}  {c['data']}  {c['model']}  {c['binarizer']}  seed {c['seed']}"
        )
    for problem in problems:
        print(f"unreadable: {problem}", file=sys.stderr)
    return {"runs": len(runs), "unreadable": len(problems)}


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="tbn-bench", description="Train, compare, time and report binary and sub-bit neural networks.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    p = commands.add_parser("train", help="train one network and record it", allow_abbrev=False)
    _config_flags(p)
    _run_flags(p, "offline")
    p.add_argument("--sweep", default="single", help="name of the group of runs (default: single)")
    p.add_argument("--threads", type=int, help="torch threads")
    p.add_argument(
        "--devices", type=int, default=1, help="processes that train together, each with a device of its own (default: 1)"
    )
    resume = p.add_mutually_exclusive_group()
    resume.add_argument("--resume", action="store_true", help="go on from the last checkpoint (the default where there is one)")
    resume.add_argument("--restart", action="store_true", help="ignore checkpoints of an unfinished run")
    p.add_argument("--quiet", action="store_true", help="no plan, no progress bar")
    p.set_defaults(call=_train)

    p = commands.add_parser("plan", help="show how a binarizer treats each weight, without training", allow_abbrev=False)
    _config_flags(p)
    p.set_defaults(call=_plan)

    p = commands.add_parser("sweep", help="run every configuration of a sweep file (W&B's format)", allow_abbrev=False)
    p.add_argument("files", type=Path, nargs="+", metavar="FILE", help="sweep files; several must have one `name`")
    _run_flags(p, "off")
    p.add_argument("--jobs", type=int, default=1, help="runs at once (default: 1)")
    p.add_argument(
        "--scale", choices=("full", "smoke"), default="full",
        help="smoke: one epoch on random samples in the form of the data, seconds per run, recorded as NAME-smoke",
    )  # fmt: skip
    p.add_argument("--dry-run", action="store_true", help="check and list, run nothing")
    p.set_defaults(call=_sweep)

    p = commands.add_parser("latency", help="time networks, each gated by a parity check", allow_abbrev=False)
    _config_flags(p)
    _store_flag(p)
    p.add_argument("--suite", help="linear, conv (single layers), or the name of a sweep: its trained runs")
    p.add_argument("--batch", type=int, nargs="+", default=[1, 64], help="batch sizes (default: 1 64)")
    p.add_argument("--out", type=Path, help="folder of the timings' records (default: that of --results)")
    p.add_argument(
        "--few-peers", action="store_true", help="dense, compiled and ONNX Runtime only (the others take minutes to build)"
    )
    p.add_argument("--skip-done", action="store_true", help="do not time again a case whose record has the same runs")
    p.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    p.add_argument("--threads", type=int, default=1, help="torch threads (default: 1)")
    p.set_defaults(call=_latency)

    p = commands.add_parser(
        "bench", help="time training steps of ResNet-18's 3x3 convolutions against full precision", allow_abbrev=False
    )
    _store_flag(p)
    p.add_argument("--p", type=int, nargs="+", default=[4, 8])
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    p.add_argument("--threads", type=int, default=1)
    p.set_defaults(call=_bench)

    p = commands.add_parser("export", help="write a trained run as a file, checked against the trained model", allow_abbrev=False)
    p.add_argument("run", help="run id, or its beginning (see: tbn-bench runs)")
    _store_flag(p)
    p.add_argument("--format", default="safetensors", help="safetensors, pt2 or onnx (default: safetensors)")
    p.add_argument("--out", type=Path, help="file to write (default: RUN.FORMAT here)")
    p.set_defaults(call=_export)

    p = commands.add_parser("report", help="records to tables, figures and one page", allow_abbrev=False)
    _store_flag(p)
    p.add_argument("--out", type=Path, default=Path("reports"), help="folder to write (default: reports)")
    p.set_defaults(call=_report)

    p = commands.add_parser("runs", help="list recorded runs", allow_abbrev=False)
    _store_flag(p)
    p.set_defaults(call=_runs)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 done, 1 refused or failed (one line on stderr), 2 wrong flags, 75 busy elsewhere, 130 interrupted."""
    args = _parser().parse_args(argv)
    try:
        result = args.call(args)
    except (ValueError, RecordError, RuntimeError, OSError) as error:
        print(f"tbn-bench {args.command}: error: {error}", file=sys.stderr)
        return 75 if isinstance(error, RunBusy) else 1
    except KeyboardInterrupt:
        print(f"tbn-bench {args.command}: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
    emit(result)
    return 1 if result.get("failed") else 0


if __name__ == "__main__":
    sys.exit(main())
