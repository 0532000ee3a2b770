"""The training of one experiment in one process: fit, choose the epoch, test, sum up."""

import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

from tbn_bench.convert.cost import Cost
from tbn_bench.convert.fuse import fuse_
from tbn_bench.experiment.build import Experiment, build_task
from tbn_bench.experiment.callbacks import AtomicCheckpoints, Recorder, make_trainer, quiet
from tbn_bench.experiment.distributed import Follower, check_ranks
from tbn_bench.experiment.lightning_data import for_trainer
from tbn_bench.experiment.options import RunOptions
from tbn_bench.records import predictions, tiles
from tbn_bench.records.run import Run
from tbn_bench.tasks._base import Task
from tbn_bench.tracking.mirror import Mirrors

_BEST = "best.ckpt"
_LAST = "last.ckpt"


@dataclass
class Training:
    """run: where rows and checkpoints go. resume: continue from the last checkpoint."""

    experiment: Experiment
    options: RunOptions
    run: Run | Follower
    mirrors: Mirrors
    teacher: nn.Module | None
    resume: bool

    def fit_and_test(self) -> dict[str, Any]:
        """The run's summary; {} in a further process of the run.

        Raises DivergedError, KeyboardInterrupt, and RuntimeError where the processes of the run
        differ or the test set was not evaluated once.
        """
        config = self.experiment.config
        data = self.experiment.data
        task = self._task()
        started = time.perf_counter()
        with quiet():
            trainer = self._trainer(task)
            torch.manual_seed(config.seed)
            self._fit(trainer, task)
            if self.options.devices > 1:
                check_ranks(task)
            epoch = self._choose(task)
            results = trainer.test(task, for_trainer(data), verbose=False)[0]
        if task.seen != data.size("test"):
            raise RuntimeError(
                f"{task.seen} test samples were evaluated, the set has {data.size('test')}"
            )
        if isinstance(self.run, Follower):
            return {}

        self._keep_predictions(task)
        return {
            "run_id": config.run_id,
            **{name: float(value) for name, value in results.items()},
            "best_epoch": epoch,
            **self._summary(task, self.run.rows(), time.perf_counter() - started),
        }

    def _keep_predictions(self, task: Task) -> None:
        """Writes the predicted classes beside the record; several processes saw a part each."""
        found = task.predictions()
        if found is not None and self.options.devices == 1:
            predictions.write(self.run.path, found)

    def _task(self) -> Task:
        experiment = self.experiment
        task: Task = build_task(experiment.config, experiment.data, experiment.model)
        task.learn_from(self.teacher)
        fuses = experiment.config.fuse
        task.lay_out(self.options.channels_last or fuses, self.options.compile)
        if fuses:
            self._fuse(task.model)
        return task

    def _fuse(self, model: nn.Module) -> None:
        """Raises ValueError if there is nothing to fuse, or with compilation."""
        if self.options.compile:
            raise ValueError(
                "fuse=True runs operations of its own, which torch.compile would leave out; "
                "use one of the two"
            )
        rows = fuse_(model)
        if not any(row.fused for row in rows):
            raise ValueError(
                "fuse=True needs tiled convolutions or nn.BatchNorm2d, "
                f"and {self.experiment.config.model} has none that can be fused; leave it out"
            )

    def _trainer(self, task: Task) -> pl.Trainer:
        options = self.options
        prints = not options.progress and not options.rank
        recorder = Recorder(self.run, self.mirrors, lines=prints)
        trainer = make_trainer(self.experiment.config, options, self.run, recorder, task.score)
        if not self.resume and not options.rank:
            for name in (_BEST, _LAST):
                (self.run.checkpoints / name).unlink(missing_ok=True)
        return trainer

    def _fit(self, trainer: pl.Trainer, task: Task) -> None:
        point = _resume_point(self.run)
        data = for_trainer(self.experiment.data)
        handler = signal.getsignal(signal.SIGINT)
        try:
            trainer.fit(task, data, ckpt_path=point, weights_only=True)
        except SystemExit as error:
            if not isinstance(error.__context__, KeyboardInterrupt):
                raise

            # Lightning turns Ctrl-C into exit(1) and then ignores SIGINT
            signal.signal(signal.SIGINT, handler)
            raise KeyboardInterrupt(
                "stopped by the user; the same command goes on from the last epoch"
            ) from error

    def _choose(self, task: Task) -> int:
        """Loads the weights that are tested and returns their epoch; best.ckpt then holds them."""
        config = self.experiment.config
        best = self.run.checkpoints / _BEST
        last = self.run.checkpoints / _LAST
        source = best if config.select == "best" else last
        chosen = torch.load(source, map_location="cpu", weights_only=True)
        task.load_state_dict(chosen["state_dict"])
        reestimated = config.batch_norm == "reestimated"
        if reestimated:
            # in float32, the precision of the test and of exported files
            task.reestimate_(self.experiment.data, autocast=False)
        if (reestimated or source == last) and not self.options.rank:
            kept = {"epoch": chosen["epoch"], "state_dict": task.state_dict()}
            AtomicCheckpoints().save_checkpoint(kept, best)
        return int(chosen["epoch"])

    def _summary(self, task: Task, rows: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
        experiment = self.experiment
        samples = experiment.data.size("train")
        return {
            **_last_held_out(rows, task.score),
            "score": task.score,
            "track": experiment.plan.track,
            "epochs": experiment.config.epochs,
            "test_samples": task.seen,
            "train_samples": samples,
            "seconds": round(seconds, 2),
            **_effort(rows, samples, experiment.cost),
            **experiment.cost.summary(),
            "plan": [row.record() for row in experiment.plan.rows],
        }


def _resume_point(run: Run | Follower) -> Path | None:
    """The checkpoint to continue from. The rows of later epochs are dropped.

    Raises ValueError for a checkpoint that cannot be read.
    """
    if isinstance(run, Run):
        for leftover in run.checkpoints.glob(".*.tmp"):  # of a process killed while writing
            leftover.unlink(missing_ok=True)
    last = run.checkpoints / _LAST
    if not last.exists():
        _rewind(run, 0)
        return None

    try:
        epoch = int(torch.load(last, map_location="cpu", weights_only=True)["epoch"]) + 1
    except Exception as error:
        raise ValueError(
            f"checkpoint {last} is unreadable ({type(error).__name__}); train again with --restart"
        ) from error
    _rewind(run, epoch)
    return last


def _rewind(run: Run | Follower, epoch: int) -> None:
    run.rewind(epoch)
    if isinstance(run, Run):
        tiles.rewind(run.path, epoch)


def _last_held_out(rows: list[dict[str, Any]], score: str) -> dict[str, float]:
    """The score of the last epoch on held-out samples, if there are any."""
    name = f"val/{score}"
    last = rows[-1]
    if name not in last:
        return {}
    return {f"{name}_last": last[name]}


def _effort(rows: list[dict[str, Any]], samples: int, cost: Cost) -> dict[str, float]:
    """What the training cost.

    cpu_seconds: of the process, with the evaluation of each epoch. images_per_second: of training
    alone. train_pflop: of the weight layers, two per multiply-add in forward, input gradient and
    weight gradient, in the reduced arithmetic of tile reuse.
    Rows of an older version have no times; then there is only train_pflop.
    """
    images = len(rows) * samples
    found = {"train_pflop": images * cost.training_flop / 1e15}
    if all("epoch_training_seconds" in row for row in rows):
        cpu = sum(row["epoch_cpu_seconds"] for row in rows)
        training = sum(row["epoch_training_seconds"] for row in rows)
        found["cpu_seconds"] = round(cpu, 2)
        found["images_per_second"] = round(images / training, 1)
    return found
