"""run(config) -> RunRecord: the only place that meets pl.Trainer."""

import contextlib
import copy
import hashlib
import io
import logging
import os
import platform
import random
import signal
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import nn

from tbn_bench import convert
from tbn_bench.config import RunConfig
from tbn_bench.convert.cost import Cost
from tbn_bench.convert.plan import Plan
from tbn_bench.experiment.build import build, build_task, start_from, trained
from tbn_bench.format import packed_file
from tbn_bench.records.store import (
    NETWORK,
    RecordError,
    Run,
    RunRecord,
    RunStore,
    provenance,
    replace,
    tell,
)
from tbn_bench.scores import SCORES, shown
from tbn_bench.tasks._base import DivergedError, Task
from tbn_bench.tracking.mirror import Mirrors


@dataclass(frozen=True)
class RunOptions:
    """How a run is carried out. Nothing here enters the run's id, nor changes its numbers but by rounding; devices apart, of which each
    normalises by its own part of the batch. What was chosen is in the record's provenance.

    channels_last: images and their weights lie in memory with the channels innermost. devices: processes that train together (Lightning's
    ddp), each with a device of its own, or its share of the cores.
    """

    results: Path = Path("results")
    sweep: str = "single"
    wandb: str = "offline"
    device: str = "cpu"
    threads: int | None = None
    progress: bool = False
    channels_last: bool = False
    compile: bool = False
    devices: int = 1
    trackers: tuple[str, ...] = ()
    trial: int | None = None

    @property
    def rank(self) -> int:
        """0, or the number of a further process, which Lightning starts by the same command."""
        return int(os.environ.get("LOCAL_RANK", 0)) if self.devices > 1 else 0


class _Recorder(Checkpoint):
    """One durable row per epoch, and the random state inside every checkpoint, so that a resumed run goes on bit by bit."""

    def __init__(self, run: "Run | _Follower", mirror: Mirrors, lines: bool):
        self.run, self.mirror, self.lines = run, mirror, lines
        self.started, self.cpu_started = time.perf_counter(), time.process_time()
        self.training_seconds = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.lr = trainer.optimizers[0].param_groups[0][
            "lr"
        ]  # the schedule steps before the epoch's end
        self.training_started = time.perf_counter()

    def on_train_batch_end(self, *_: Any) -> None:
        self.training_seconds = time.perf_counter() - self.training_started

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        metrics = {
            k: float(v) for k, v in trainer.callback_metrics.items() if not k.startswith("test/")
        }
        row = {
            "epoch": trainer.current_epoch,
            "step": trainer.global_step,
            "lr": self.lr,
            **dict(sorted(metrics.items())),
            "seconds": round(time.perf_counter() - self.started, 3),
            "epoch_cpu_seconds": round(time.process_time() - self.cpu_started, 3),
            "epoch_training_seconds": round(self.training_seconds, 3),
        }
        self.started, self.cpu_started = time.perf_counter(), time.process_time()
        self.run.log(row, durable=True)
        self.mirror.log(row, module.model)
        if self.lines:
            loss = metrics.get("train/loss", float("nan"))
            held_out = (
                f"val {shown({**metrics, 'score': module.score}, 'val')}  "
                if "val/loss" in metrics
                else ""
            )
            tell(
                f"epoch {row['epoch'] + 1}/{trainer.max_epochs}  loss {loss:.4f}  {held_out}{row['seconds']:.1f} s"
            )

    def on_save_checkpoint(
        self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        version, state, gauss = random.getstate()
        kind, keys, position, has_gauss, cached = np.random.get_state()
        checkpoint["random"] = {
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "python": [version, list(state), gauss],
            "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.random = checkpoint["random"]

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        saved = self.__dict__.pop("random", None)
        if saved is None:
            return
        torch.set_rng_state(saved["torch"])
        if saved["cuda"]:
            torch.cuda.set_rng_state_all(saved["cuda"])
        version, state, gauss = saved["python"]
        random.setstate((version, tuple(state), gauss))
        kind, keys, *rest = saved["numpy"]
        np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))


class _Checkpoints(TorchCheckpointIO):
    """Written beside the old one and renamed over it. Lightning writes to the system's temporary folder and moves the file from there, which
    is a copy where the results lie on another disk: killed in its middle, or on a full disk, that leaves half a checkpoint and no old one."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        torch.save(checkpoint, content)
        replace(Path(path), content.getvalue())


class _Follower:
    """In the place of Run in the further processes of one run: the first one writes the record."""

    def __init__(self, path: Path):
        self.path, self.checkpoints = path, path / "checkpoints"

    def log(self, row: dict[str, Any], durable: bool = False) -> None:
        pass

    def rewind(self, epoch: int) -> None:
        pass


def _trainer(
    config: RunConfig, options: RunOptions, run: Run | _Follower, recorder: _Recorder, score: str
) -> pl.Trainer:
    last = ModelCheckpoint(
        run.checkpoints, "last", enable_version_counter=False, save_on_train_epoch_end=True
    )
    kept = [last]
    if config.select == "best":
        monitor, mode = f"val/{score}", SCORES[score].goal
        best = ModelCheckpoint(
            run.checkpoints, "best", monitor=monitor, mode=mode, enable_version_counter=False
        )
        kept = [best, last]
    return pl.Trainer(
        max_epochs=config.epochs,
        accelerator="gpu" if options.device == "cuda" else "cpu",
        devices=options.devices,
        strategy="ddp" if options.devices > 1 else "auto",
        use_distributed_sampler=False,
        precision="bf16-mixed" if config.precision == "bf16" else "32-true",
        callbacks=[recorder, *kept],
        plugins=[_Checkpoints()],
        logger=False,
        enable_progress_bar=options.progress,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


@contextlib.contextmanager
def _quiet():
    """Lightning's advice about workers and its start-up lines are noise here: data lies in memory."""
    loggers = [
        logging.getLogger(n) for n in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module="pytorch_lightning")
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            warnings.filterwarnings("ignore", category=FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _trained(store: RunStore, name: str, flag: str) -> nn.Module:
    """The trained model of the run SWEEP/RUN_ID. Raises ValueError where it is not there."""
    sweep, _, run_id = name.rpartition("/")
    try:
        record = store.read(sweep, run_id)
        if record.status != "finished":
            raise ValueError(f"its status is {record.status}")
        return trained(record)[1]
    except (RecordError, ValueError) as error:
        raise ValueError(
            f"{flag}={name}: {error}; it must be a finished run under --results"
        ) from error


_RUNNING = ("running_mean", "running_var", "num_batches_tracked")


def _check_ranks(task: Task) -> None:
    """Raises RuntimeError unless all processes ended with the same weights, tiles, scales and schedules (running statistics apart)."""
    digest = hashlib.sha256()
    norms = {
        f"{n}.{key}"
        for n, m in task.model.named_modules()
        if isinstance(m, nn.modules.batchnorm._BatchNorm)
        for key in _RUNNING
    }
    for name, value in task.model.state_dict().items():
        if name not in norms:
            digest.update(value.detach().cpu().numpy().tobytes())
    everyone = task.all_gather(torch.tensor(list(digest.digest()), device=task.device))
    if not (everyone == everyone[0]).all():
        raise RuntimeError(
            "the processes of this run ended with different weights; a binarizer's state depends on its process"
        )


def _resume_point(run: Run | _Follower) -> Path | None:
    last = run.checkpoints / "last.ckpt"
    for leftover in (
        run.checkpoints.glob(".*.tmp") if isinstance(run, Run) else ()
    ):  # of a process that was killed while writing
        leftover.unlink(missing_ok=True)
    if not last.exists():
        run.rewind(0)
        return None
    try:
        epoch = int(torch.load(last, map_location="cpu", weights_only=True)["epoch"]) + 1
    except Exception as error:
        raise ValueError(
            f"checkpoint {last} is unreadable ({type(error).__name__}); train again with --restart"
        ) from error
    run.rewind(epoch)
    return last


def run(config: RunConfig, options: RunOptions | None = None, resume: bool = True) -> RunRecord:
    """Trains, selects the epoch on the held-out split, tests once, and writes the record. A finished run is returned as it is.

    Raises ValueError before anything is recorded for a config that cannot be built; afterwards every exception is recorded
    (failed, diverged, interrupted) and raised again. RunBusy if another process has the run.
    """
    options = options or RunOptions()
    store = RunStore(options.results)
    if store.finished(options.sweep, config.run_id):
        return store.read(options.sweep, config.run_id)
    _check_devices(config, options)
    mirror = Mirrors() if options.rank else Mirrors(options.trackers, options.wandb)
    if options.threads:
        torch.set_num_threads(options.threads)
    random.seed(config.seed)
    np.random.seed(config.seed % 2**32)
    data, model, plan, total = build(config, from_data=True)
    teacher = _trained(store, config.teacher, "--teacher") if config.teacher else None
    if config.init:
        start_from(model, _trained(store, config.init, "--init"))
    data.setup()
    _check_selection(config, data)
    device = torch.cuda.get_device_name() if options.device == "cuda" else None
    source = provenance(config.command, device, torch.get_num_threads()) | {"track": plan.track}
    source |= {
        "channels_last": options.channels_last,
        "compile": options.compile,
        "devices": options.devices,
        "trial": options.trial,
    }
    if options.rank:
        _fit(
            config,
            options,
            _Follower(store.path(options.sweep, config.run_id)),
            Mirrors(),
            data,
            model,
            teacher,
            plan,
            total,
            resume,
        )
        return store.read(options.sweep, config.run_id)
    held = store.claim(options.sweep, config.run_id, config.model_dump(mode="json"), source)
    if held is None:  # another process finished it between the look and the claim
        return store.read(options.sweep, config.run_id)
    status, summary = "failed", None
    try:
        mirror.start(config, plan, held.path, options.sweep, source)
        summary = _fit(config, options, held, mirror, data, model, teacher, plan, total, resume)
        summary |= _keep_network(held, config, model, plan, source["commit"])
        held.finish(summary)
        status = "finished"
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | SystemExit)
        status = (
            "interrupted"
            if stopped
            else "diverged"
            if isinstance(error, DivergedError)
            else "failed"
        )
        held.fail(status, f"{type(error).__name__}: {error}")
        raise
    finally:
        mirror.finish(status, summary, model)
    return store.read(options.sweep, config.run_id)


def _choose(
    config: RunConfig, held: Run | _Follower, task: Task, data: Any, options: RunOptions
) -> int:
    """Loads the weights that are tested into the task, and returns their epoch. best.ckpt holds them afterwards."""
    path = held.checkpoints / "best.ckpt"
    source = path if config.select == "best" else held.checkpoints / "last.ckpt"
    chosen = torch.load(source, map_location="cpu", weights_only=True)
    task.load_state_dict(chosen["state_dict"])
    if config.batch_norm == "reestimated":
        task.reestimate_(data, autocast=False)  # in float32, in which it is tested and exported
    changed = config.batch_norm == "reestimated" or config.select == "last"
    if changed and not options.rank:
        kept = {"epoch": chosen["epoch"], "state_dict": task.state_dict()}
        _Checkpoints().save_checkpoint(kept, path)
    return int(chosen["epoch"])


def _effort(rows: list[dict[str, Any]], samples: int, plan: Plan, total: Cost) -> dict[str, float]:
    """What the training cost: CPU seconds of the process (evaluations of the epochs included), images per second of training alone, and
    PFLOP of the weight layers: two per multiply-add, forward, input gradient and weight gradient, in the reduced arithmetic
    that tile reuse computes. Rows of an older version have no times; then only the arithmetic is there."""
    found = {"train_pflop": len(rows) * samples * total.training_flop / 1e15}
    if all("epoch_training_seconds" in row for row in rows):
        found["cpu_seconds"] = round(sum(row["epoch_cpu_seconds"] for row in rows), 2)
        found["images_per_second"] = round(
            samples * len(rows) / sum(row["epoch_training_seconds"] for row in rows), 1
        )
    return found


def _last_held_out(rows: list[dict[str, Any]], score: str) -> dict[str, float]:
    """The score of the last epoch on held-out samples, if there are any."""
    name = f"val/{score}"
    return {f"{name}_last": rows[-1][name]} if name in rows[-1] else {}


def _keep_network(
    held: Run, config: RunConfig, model: nn.Module, plan: Plan, commit: str | None
) -> dict[str, int]:
    """Writes the packed network beside the record, if it has binary weights, and returns its size for the summary.

    Says so where it cannot be packed, a scale being NaN, say. Raises ArtifactError where the file cannot be written.
    """
    if not any(row.binarized for row in plan.rows):
        return {}
    network = copy.deepcopy(model).cpu().eval()
    try:
        convert.pack_(network)
        content = convert.to_artifact(network, config.non_defaults, commit)
    except ValueError as error:
        tell(f"no packed network beside the record: {error}")
        return {}
    packed_file.write(held.path / NETWORK, content)
    return {"file_bytes": (held.path / NETWORK).stat().st_size}


def slow_bfloat16(precision: str, device: str) -> str:
    """One line for whoever trains in bfloat16 on a processor that has to emulate it; empty where none is needed."""
    capability = torch.backends.cpu.get_cpu_capability()
    emulates = platform.machine() in ("x86_64", "AMD64") and not capability.startswith("AVX512")
    if precision != "bf16" or device != "cpu" or not emulates:
        return ""
    return (
        f"precision=bf16: this processor ({capability}) has no bfloat16 units; training takes many times as long as in "
        "float32 (17 times on an EPYC with AVX2); use precision=32"
    )


def _check_selection(config: RunConfig, data: Any) -> None:
    if config.select == "best" and "val" not in data.splits:
        raise ValueError(
            "select=best chooses the epoch on held-out samples, and this data set holds none out (val_size=0); "
            "use select=last, or a val_size of 1 or more"
        )


def _check_devices(config: RunConfig, options: RunOptions) -> None:
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no CUDA device here; use --device cpu")
    there = torch.cuda.device_count() if options.device == "cuda" else os.cpu_count() or 1
    if not 1 <= options.devices <= there:
        raise ValueError(
            f"--devices must lie between 1 and {there}, which are here, got {options.devices}"
        )
    if options.devices > 1 and config.batch_size < 2 * options.devices:
        raise ValueError(
            f"batch_size is that of all devices together: {options.devices} need {2 * options.devices}, got {config.batch_size}"
        )


def _fit(
    config: RunConfig,
    options: RunOptions,
    held: Run | _Follower,
    mirror: Mirrors,
    data: Any,
    model: nn.Module,
    teacher: nn.Module | None,
    plan: Plan,
    total: Cost,
    resume: bool,
) -> dict[str, Any]:
    task: Task = build_task(config, data, model)
    task.learn_from(teacher)
    task.lay_out(options.channels_last, options.compile)
    score = task.score
    started = time.perf_counter()
    with _quiet():
        recorder = _Recorder(held, mirror, lines=not options.progress and not options.rank)
        trainer = _trainer(config, options, held, recorder, score)
        if not resume and not options.rank:
            for name in ("best.ckpt", "last.ckpt"):
                (held.checkpoints / name).unlink(missing_ok=True)
        torch.manual_seed(config.seed)
        point, handler = _resume_point(held), signal.getsignal(signal.SIGINT)
        try:
            trainer.fit(task, data, ckpt_path=point, weights_only=True)
        except SystemExit as error:
            if isinstance(
                error.__context__, KeyboardInterrupt
            ):  # Lightning turns Ctrl-C into exit(1) and then ignores SIGINT
                signal.signal(signal.SIGINT, handler)
                raise KeyboardInterrupt(
                    "stopped by the user; the same command goes on from the last epoch"
                ) from error
            raise
        if options.devices > 1:
            _check_ranks(task)
        epoch = _choose(config, held, task, data, options)
        results = trainer.test(task, data, verbose=False)[0]
    if task.seen != data.size("test"):
        raise RuntimeError(
            f"{task.seen} test samples were evaluated, the set has {data.size('test')}"
        )
    if isinstance(held, _Follower):
        return {}
    rows = held.rows()
    return {
        "run_id": config.run_id,
        **{k: float(v) for k, v in results.items()},
        "best_epoch": epoch,
        **_last_held_out(rows, score),
        "score": score,
        "track": plan.track,
        "epochs": config.epochs,
        "test_samples": task.seen,
        "train_samples": data.size("train"),
        "seconds": round(time.perf_counter() - started, 2),
        **_effort(rows, data.size("train"), plan, total),
        **total.summary(),
        "plan": [row.record() for row in plan.rows],
    }
