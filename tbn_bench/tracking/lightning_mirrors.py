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
    found = {}
    for key, value in row.items():
        if isinstance(value, bool):
            continue
        if isinstance(value, int | float):
            found[key] = float(value)
    return found


def _final(summary: dict[str, Any]) -> dict[str, float]:
    """The numbers of the end, under names of their own."""
    numbers = _numbers(summary)
    return {f"final/{key}": number for key, number in numbers.items()}


class TensorBoardMirror(Mirror):
    """results/logs/tensorboard/<group>/<run id>.

    `tensorboard --logdir results/logs/tensorboard` shows sweeps as folders.
    """

    def start(self, subject: Subject) -> None:
        from pytorch_lightning.loggers import TensorBoardLogger

        folder = subject.logs / "tensorboard"
        self.logger = TensorBoardLogger(
            folder,
            name=subject.group,
            version=subject.folder.name,
            default_hp_metric=False,
        )
        settings = {}
        for key, value in subject.settings.items():
            settings[key] = plain(value) if isinstance(value, list | dict) else value
        self.logger.log_hyperparams(settings)
        # indented, Markdown shows the lines as they are
        lines = [f"    {line}" for line in str(subject.plan).splitlines()]
        self.logger.experiment.add_text("plan", "\n".join(lines))

    def log(self, row: dict[str, Any], histograms: dict[str, Histogram], epoch: int) -> None:
        writer = self.logger.experiment
        self.logger.log_metrics(_numbers(row), step=epoch)
        for name, h in histograms.items():
            _add_histogram(writer, name, h, epoch)
        writer.flush()

    def finish(self, status: str, summary: dict[str, Any], file: Path | None) -> None:
        self.logger.log_metrics(_final(summary))
        self.logger.experiment.add_text("status", status)
        self.logger.finalize("success" if status == "finished" else "failed")


def _add_histogram(writer: Any, name: str, h: Histogram, epoch: int) -> None:
    """TensorBoard takes counts with upper limits, and moments: here those of the bins' middles."""
    edges = h.edges
    lower = edges[:-1]
    upper = edges[1:]
    middles = (upper + lower) / 2
    total = np.dot(h.counts, middles)
    squares = np.dot(h.counts, middles**2)
    writer.add_histogram_raw(
        name,
        min=float(edges[0]),
        max=float(edges[-1]),
        num=int(h.counts.sum()),
        sum=float(total),
        sum_squares=float(squares),
        bucket_limits=upper.tolist(),
        bucket_counts=h.counts.tolist(),
        global_step=epoch,
    )


class MLflowMirror(Mirror):
    """results/logs/mlflow.db (or MLFLOW_TRACKING_URI), an experiment per group.

    Histograms are JSON artifacts: MLflow draws none.
    """

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

        config = subject.config
        server = os.environ.get("MLFLOW_TRACKING_URI")
        file = (subject.logs / "mlflow.db").resolve()
        artifacts = (subject.logs / "mlflow").resolve().as_uri()
        method, _ = catalog.parse(config.binarizer)
        self.logger = MLFlowLogger(
            f"tbn_bench/{subject.group}",
            run_name=config.run_id,
            tracking_uri=server or f"sqlite:///{file}",
            artifact_location=None if server else artifacts,
            tags={"run_id": config.run_id, "binarizer": method},
        )
        self.logger.log_hyperparams(subject.settings)
        self.client.log_text(self.logger.run_id, str(subject.plan), "plan.txt")

    @property
    def client(self) -> Any:
        return self.logger.experiment

    def log(self, row: dict[str, Any], histograms: dict[str, Histogram], epoch: int) -> None:
        self.logger.log_metrics(_numbers(row), step=epoch)
        if not histograms:
            return
        shown = {}
        for name, h in histograms.items():
            shown[name] = {
                "counts": h.counts.tolist(),
                "edges": h.edges.tolist(),
            }
        file = f"histograms/epoch_{epoch:04d}.json"
        self.client.log_dict(self.logger.run_id, shown, file)

    def finish(self, status: str, summary: dict[str, Any], file: Path | None) -> None:
        self.logger.log_metrics(_final(summary))
        if file is not None:
            self.client.log_artifact(self.logger.run_id, str(file))
        self.logger.finalize("success" if status == "finished" else "failed")
