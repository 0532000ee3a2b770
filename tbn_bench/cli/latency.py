"""tbn-bench latency: times of layers and of trained networks, each after a check of its outputs."""

import argparse
from pathlib import Path
from typing import Any

from tbn_bench.cli import flags
from tbn_bench.config import RunConfig
from tbn_bench.install import shipped
from tbn_bench.records.text import tell

HELP = "time layers and networks, each after a check of its outputs"
EXTRA = "peers"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_config(parser)
    flags.add_results(parser)
    parser.add_argument(
        "--suite",
        help="linear or conv (single layers); resnet50, mobilenet or convnext (timm's, with the "
        "weights of their seed); or the name of a sweep: times its trained runs",
    )
    parser.add_argument(
        "--batch", type=int, nargs="+", default=[1, 64], help="batch sizes (default: 1 64)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="folder for the records of the timings (default: that of --results)",
    )
    parser.add_argument(
        "--few-peers",
        action="store_true",
        help="time eager torch, torch.compile and ONNX Runtime only; others take minutes to build",
    )
    parser.add_argument(
        "--skip-done",
        action="store_true",
        help="skip cases that are already recorded for the same runs",
    )
    parser.add_argument(
        "--packed",
        action="store_true",
        help="time the packed files of a suite's runs, which are committed, in place of "
        "checkpoints; nothing is trained",
    )
    parser.add_argument(
        "--against",
        metavar="REV",
        help="compare the packed executor with that of a git revision, both timed in one run; "
        "networks have the weights of their seed, and nothing is trained",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(default: cpu)")
    parser.add_argument(
        "--threads", type=flags.threads, default=1, help="torch threads (default: 1)"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Times a suite, or without one the network of the flags."""
    from tbn_bench.latency import networks, ops, untrained

    out = args.out or args.results
    if args.against:
        return _against(args, out)

    if args.suite in ops.CASES:
        return ops.suite(args.suite, out, args.threads, args.batch, args.device)

    if args.suite in untrained.MODELS:
        return untrained.suite(
            args.suite, out, args.device, args.threads, args.batch, args.few_peers
        )
    if args.suite:
        return networks.suite(
            args.suite,
            args.results if args.packed else _trained_runs(args),
            args.device,
            args.threads,
            args.batch,
            out,
            args.skip_done,
            args.few_peers,
            args.packed,
        )
    config = flags.config_of(args)
    return networks.case(
        config, args.results, args.device, args.threads, args.batch, args.few_peers
    )


def _against(args: argparse.Namespace, out: Path) -> dict[str, Any]:
    """This version and the revision --against, on the networks of a suite or of the flags."""
    from tbn_bench.latency import against, ops, untrained

    if args.device != "cpu":
        raise ValueError("--against compares the packed executor of CPUs; use --device cpu")

    command = f"tbn-bench latency --suite {args.suite} --threads {args.threads}"
    name = args.suite
    configs = None
    if not args.suite:
        config = flags.config_of(args)
        configs = [config]
        name = f"{config.model} {config.binarizer}"
        timed = config.command.replace("tbn-bench train", "tbn-bench latency")
        command = f"{timed} --threads {args.threads}"
    elif args.suite in untrained.MODELS:
        configs = untrained.configs(args.suite)
    elif args.suite not in ops.CASES:
        configs = _configs(args.suite)
    return against.against(args.against, name, configs, args.threads, args.batch, out, command)


def _configs(suite: str) -> list[RunConfig]:
    """Of the sweep with that name. Raises ValueError where there is none."""
    from tbn_bench.sweep import spec

    file = Path("sweeps") / f"{suite}.yaml"
    if not file.exists():
        known = ", ".join(sorted(path.stem for path in file.parent.glob("*.yaml")))
        raise ValueError(
            f"--suite {suite}: there is no {file}; "
            f"use linear, conv or one of: {known or 'none here, run it where sweeps/ is'}"
        )
    found = spec.load(file)
    if found.is_search:
        raise ValueError(f"--suite {suite}: {file} is a search, whose networks are not known")
    return found.configs


def _trained_runs(args: argparse.Namespace) -> Path:
    """The folder of the suite's runs with checkpoints: --results, or `local` in it.

    If neither has them, they are trained into `local`.
    """
    from tbn_bench.latency import trained
    from tbn_bench.sweep import local, spec
    from tbn_bench.sweep.execution import ExecutionOptions

    own: Path = args.results / "local"
    for folder in (args.results, own):
        if trained.has_runs(args.suite, folder):
            return folder
    file = shipped.find("sweeps", Path(args.suite))
    tell(
        f"no trained runs of {args.suite} with checkpoints here: training {file} first, into {own}"
    )
    local.run(spec.load(file), own, ExecutionOptions(device=args.device))
    return own
