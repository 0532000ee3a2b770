"""tbn-bench sweep: every run of a sweep file, by local processes, a Ray cluster or W&B's agent."""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tbn_bench.catalog import did_you_mean
from tbn_bench.cli import flags
from tbn_bench.install import shipped
from tbn_bench.records.store import RunStore

if TYPE_CHECKING:
    from tbn_bench.sweep.spec import SweepSpec

HELP = "run every configuration of a sweep file (W&B's format)"
EXTRA = "sweep"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _add_what(parser)
    flags.add_plugin(parser)
    flags.add_execution(parser, "off")
    _add_limits(parser)
    _add_engine(parser)


def _add_what(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files",
        type=Path,
        nargs="*",
        metavar="FILE",
        help="sweep files, or names of sweeps that come with the package; "
        "several files must have the same `name`",
    )
    parser.add_argument(
        "--set",
        dest="sets",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="override a parameter of the file for this call: epochs=1, 'seed.values=[0,1]'; "
        "repeatable",
    )
    parser.add_argument(
        "--fill",
        metavar="NAME",
        help="instead of FILE: run the missing seeds of this recorded sweep (see: runs seeds)",
    )
    parser.add_argument(
        "--sampler",
        choices=("tpe", "gp"),
        default="tpe",
        help="sampler of a bayes or custom search (default: tpe)",
    )


def _add_limits(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--jobs",
        type=int,
        help="number of runs at once (default: 1; with --device cuda one per GPU slot)",
    )
    parser.add_argument(
        "--threads", type=int, help="threads of each run (default: its share of the cores)"
    )
    parser.add_argument(
        "--nice",
        type=int,
        default=0,
        help="niceness of the runs, 0 to 19; higher values yield to other work (default: 0)",
    )
    parser.add_argument(
        "--per-gpu", type=int, default=1, help="runs that share one GPU (default: 1)"
    )
    parser.add_argument(
        "--retries",
        type=int,
        default=1,
        help="further attempts of a crashed run, from its last checkpoint (default: 1)",
    )
    parser.add_argument(
        "--time-limit",
        type=float,
        metavar="SECONDS",
        help="limit on one attempt; a run that exceeds it is retried, then marked as failed",
    )
    parser.add_argument(
        "--memory-limit", type=float, metavar="GB", help="limit on the memory of one attempt"
    )


def _add_engine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--scale",
        choices=("full", "smoke"),
        default="full",
        help="smoke: train one epoch on random samples with the shapes of the data, in seconds per "
        "run; recorded as NAME-smoke",
    )
    parser.add_argument(
        "--stale",
        choices=("keep", "rerun", "error"),
        default="keep",
        help="what to do with finished runs whose code (method, model, data, task, optimizer, "
        "equations) has changed since: keep, rerun or stop with an error (default: keep)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check the sweep and list its runs, but run nothing"
    )
    parser.add_argument(
        "--no-warm",
        action="store_true",
        help="start a Python process for each run; by default, on Linux without --device cuda, "
        "runs are forked from a process that has torch loaded, which saves seconds per run",
    )
    parser.add_argument(
        "--engine",
        choices=("local", "ray", "wandb"),
        default="local",
        help="local processes (default), a Ray cluster (docs/cluster.md), or an agent of W&B: "
        "FILE is then a sweep ID",
    )
    parser.add_argument(
        "--address",
        help="address of the Ray cluster, or auto (default: RAY_ADDRESS, or this machine only)",
    )
    parser.add_argument(
        "--cpus-per-run",
        type=int,
        help="with --engine ray: cores, and torch threads, of each run (default: 1)",
    )
    parser.add_argument(
        "--gpus-per-run",
        type=float,
        help="with --engine ray: GPUs of each run, or a fraction (default: 1 / --per-gpu)",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the counts of the launcher. Raises ValueError for flags that do not fit together."""
    for_ray = (args.address, args.cpus_per_run, args.gpus_per_run)
    if args.engine != "ray" and any(value is not None for value in for_ray):
        raise ValueError("--address, --cpus-per-run and --gpus-per-run need --engine ray")
    if bool(args.files) == bool(args.fill):
        args.parser.error("give sweep files (FILE), or --fill NAME")
    if args.sets and (args.fill or args.engine == "wandb"):
        raise ValueError("--set changes the parameters of a sweep file; give FILE alone with it")
    if args.engine == "wandb":
        return _agent(args)
    return _launch(args)


def _launch(args: argparse.Namespace) -> dict[str, Any]:
    from tbn_bench.sweep import local
    from tbn_bench.sweep.execution import ExecutionOptions
    from tbn_bench.sweep.nodes import Resources

    sweep = spec_of(args)
    options = ExecutionOptions(
        jobs=args.jobs,
        wandb=args.wandb,
        device=args.device,
        channels_last=args.channels_last,
        compile=args.compile,
        retries=args.retries,
        time_limit_s=args.time_limit,
        memory_limit_gb=args.memory_limit,
        per_gpu=args.per_gpu,
        trackers=tuple(args.tracker),
        threads=args.threads,
        nice=args.nice,
        stale=args.stale,
        warm=not args.no_warm,
    )
    if not args.dry_run:
        from tbn_bench.tracking import mirror  # torch, which a dry run can do without

        mirror.check(options.trackers, options.wandb)
    if args.engine == "local":
        return local.run(sweep, args.results, options, args.dry_run, args.sampler)
    from tbn_bench.sweep import cluster

    cpus = 1 if args.cpus_per_run is None else args.cpus_per_run
    resources = Resources(cpus, args.gpus_per_run)
    return cluster.run(
        sweep, args.results, options, args.address, resources, args.dry_run, args.sampler
    )


def spec_of(args: argparse.Namespace) -> "SweepSpec":
    """The sweep of the files or of --fill, after its warnings are printed."""
    from tbn_bench.sweep import spec

    if args.fill:
        sweep = _missing_seeds(args)
    else:
        files = [shipped.find("sweeps", given) for given in args.files]
        sweep = spec.load_all(files, args.sets)
    if args.scale == "smoke":
        sweep = spec.smoke(sweep)
    for line in sweep.warnings:
        flags.warn(line)
    if "bf16" in precisions(sweep):
        from tbn_bench.experiment.precision import slow_bfloat16

        flags.warn(slow_bfloat16("bf16", args.device))
    return sweep


def precisions(sweep: "SweepSpec") -> set[str]:
    """Every precision that a run of the sweep can have; a search draws its own."""
    found = {str(config.precision) for config in sweep.configs}
    swept = sweep.space.get("precision")
    if swept is not None:
        one = [getattr(swept, "value", None)]
        found |= {str(value) for value in getattr(swept, "values", one)}
    return found


def _missing_seeds(args: argparse.Namespace) -> "SweepSpec":
    """The sweep of all runs that the groups of a recorded sweep lack.

    Raises ValueError for an unknown sweep.
    """
    from tbn_bench.runs import seeds
    from tbn_bench.sweep import spec

    folders = (args.results / "runs").glob("*")
    known = sorted(path.name for path in folders if path.is_dir())
    got = ""
    if args.files:
        got = "a FILE beside it"
    elif args.fill not in known:
        got = f"{args.fill!r}{did_you_mean(args.fill, known)}"
    if got:
        raise ValueError(
            f"--fill takes the name of a sweep recorded under {args.results} and no FILE, got {got}"
        )
    configs = seeds.missing_configs(RunStore(args.results), args.fill)
    return spec.SweepSpec(args.fill, configs)


def _agent(args: argparse.Namespace) -> dict[str, Any]:
    """Starts W&B's agent, which asks W&B's server for configs and runs this tbn-bench."""
    from tbn_bench.tracking import account

    if len(args.files) != 1 or args.files[0].exists():
        got = " ".join(map(str, args.files))
        raise ValueError(
            f"--engine wandb takes one sweep ID, got {got}; `wandb sweep FILE` makes one"
        )
    account.require_key("--engine wandb")
    sweep_id = str(args.files[0])
    here = str(Path(sys.executable).parent)
    program = shutil.which("wandb") or shutil.which("wandb", path=here)
    if program is None:
        raise ValueError(
            '--engine wandb needs the command wandb on PATH: pip install "tbn-bench[sweep]"'
        )
    path = os.pathsep.join([here, os.environ.get("PATH", os.defpath)])
    environment = {**os.environ, "PATH": path}
    agent = subprocess.run([program, "agent", sweep_id], env=environment, check=False)
    return {"engine": "wandb", "sweep": sweep_id, "failed": agent.returncode}
