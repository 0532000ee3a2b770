"""TensorBoard and MLflow, through Lightning's loggers."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from tbn_bench import catalog
from tbn_bench.records import locks
from tbn_bench.records.locks import LockError
from tbn_bench.tracking.diagnostics import Histogram
from tbn_bench.tracking.mirror import Mirror, Subject, plain

_WAIT_S = 600  # for other runs, each of which opens MLflow's data base in seconds


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    return {
        k: float(v)
        for k, v in row.items()
        if isinstance(v, int | float) and not isinstance(v, bool)
    }


class TensorBoardMirror(Mirror):
    """results/logs/tensorboard/<group>/<run id>: `tensorboard --logdir results/logs/tensorboard` shows sweeps as folders."""

    def start(self, subject: Subject) -> None:
        from pytorch_lightning.loggers import TensorBoardLogger

        folder = subject.logs / "tensorboard"
        self.logger = TensorBoardLogger(
            folder, name=subject.group, version=subject.folder.name, default_hp_metric=False
        )
        self.logger.log_hyperparams(
            {k: plain(v) if isinstance(v, list | dict) else v for k, v in subject.settings.items()}
        )
        lines = "\n".join(
            f"    {line}" for line in str(subject.plan).splitlines()
        )  # Markdown: as it is
        self.logger.experiment.add_text("plan", lines)

    def log(self, row: dict[str, Any], histograms: dict[str, Histogram], epoch: int) -> None:
        self.logger.log_metrics(_numbers(row), step=epoch)
        for name, h in histograms.items():
            _add_histogram(self.logger.experiment, name, h, epoch)
        self.logger.experiment.flush()

    def finish(self, status: str, summary: dict[str, Any], file: Path | None) -> None:
        self.logger.log_metrics({f"final/{k}": v for k, v in _numbers(summary).items()})
        self.logger.experiment.add_text("status", status)
        self.logger.finalize("success" if status == "finished" else "failed")


def _add_histogram(writer: Any, name: str, h: Histogram, epoch: int) -> None:
    """TensorBoard takes counts with upper limits, and moments, which are those of the bins' middles here."""
    middles = (h.edges[1:] + h.edges[:-1]) / 2
    writer.add_histogram_raw(
        name, min=float(h.edges[0]), max=float(h.edges[-1]), num=int(h.counts.sum()), sum=float(np.dot(h.counts, middles)),
        sum_squares=float(np.dot(h.counts, middles**2)), bucket_limits=h.edges[1:].tolist(), bucket_counts=h.counts.tolist(),
        global_step=epoch,
    )  # fmt: skip


class MLflowMirror(Mirror):
    """results/logs/mlflow.db (or MLFLOW_TRACKING_URI), an experiment per group. Histograms are JSON artifacts: MLflow draws none."""

    def start(self, subject: Subject) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        subject.logs.mkdir(parents=True, exist_ok=True)
        path = subject.logs / ".mlflow.lock"
        lock = locks.take(path, _WAIT_S)
        if lock is None:
            raise LockError(
                f"another process has held {path} for {_WAIT_S} s; end it, then train again"
            )
        with lock:  # two runs of a sweep must not both make the data base
            self._open(subject)

    def _open(self, subject: Subject) -> None:
        from pytorch_lightning.loggers import MLFlowLogger

        c, given = subject.config, os.environ.get("MLFLOW_TRACKING_URI")
        self.logger = MLFlowLogger(
            f"tbn_bench/{subject.group}", run_name=c.run_id,
            tracking_uri=given or f"sqlite:///{(subject.logs / 'mlflow.db').resolve()}",
            artifact_location=None if given else (subject.logs / "mlflow").resolve().as_uri(),
            tags={"run_id": c.run_id, "binarizer": catalog.parse(c.binarizer)[0]},
        )  # fmt: skip
        self.logger.log_hyperparams(subject.settings)
        self.client.log_text(self.logger.run_id, str(subject.plan), "plan.txt")

    @property
    def client(self) -> Any:
        return self.logger.experiment

    def log(self, row: dict[str, Any], histograms: dict[str, Histogram], epoch: int) -> None:
        self.logger.log_metrics(_numbers(row), step=epoch)
        if histograms:
            shown = {
                k: {"counts": h.counts.tolist(), "edges": h.edges.tolist()}
                for k, h in histograms.items()
            }
            self.client.log_dict(self.logger.run_id, shown, f"histograms/epoch_{epoch:04d}.json")

    def finish(self, status: str, summary: dict[str, Any], file: Path | None) -> None:
        self.logger.log_metrics({f"final/{k}": v for k, v in _numbers(summary).items()})
        if file is not None:
            self.client.log_artifact(self.logger.run_id, str(file))
        self.logger.finalize("success" if status == "finished" else "failed")
