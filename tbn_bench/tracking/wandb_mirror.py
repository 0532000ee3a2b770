"""The W&B mirror: offline unless asked, in the run's folder unless the environment says otherwise."""

import json
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

from tbn_bench import catalog
from tbn_bench.convert.binarize import Plan, PlanRow
from tbn_bench.tracking.account import wandb_id, where
from tbn_bench.tracking.diagnostics import Histogram
from tbn_bench.tracking.mirror import Mirror, Subject

PROJECT = "tbn_bench"
STAGING = ("WANDB_DATA_DIR", "WANDB_CACHE_DIR")  # else in the home directory
COLUMNS = (*(f.name for f in fields(PlanRow)), "stored_bits")


class WandbMirror(Mirror):
    """mode: offline or online. Project, entity, name and tags of the environment (WANDB_PROJECT, ...) win over ours."""

    def __init__(self, mode: str):
        self.mode = mode
        self.set: list[str] = []
        self.run: Any = None
        if (
            mode == "offline"
        ):  # read when wandb is imported; else its errors would be reported over the network
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")

    def start(self, subject: Subject) -> None:
        import wandb

        folder, c = where(subject.folder), subject.config
        folder.mkdir(parents=True, exist_ok=True)
        self.set = [name for name in STAGING if name not in os.environ]
        os.environ |= dict.fromkeys(
            self.set, str(folder / "wandb")
        )  # read at each artifact, so kept until finish
        named = (
            os.environ.get
        )  # asked here: W&B reads its environment once, at the first run of a process
        tags = [catalog.parse(text)[0] for text in (c.data, c.model, c.binarizer)]
        self.run = wandb.init(
            entity=named("WANDB_ENTITY"), project=named("WANDB_PROJECT") or PROJECT,
            id=named("WANDB_RUN_ID") or wandb_id(c.run_id, subject.group),
            name=named("WANDB_NAME") or f"{c.model} {c.binarizer} seed {c.seed}",
            group=named("WANDB_RUN_GROUP") or subject.group, job_type=named("WANDB_JOB_TYPE") or catalog.parse(c.binarizer)[0],
            tags=named("WANDB_TAGS", "").split(",") if named("WANDB_TAGS") else tags,
            config=subject.settings | {"sweep": subject.group}, mode=self.mode, dir=str(folder), reinit="create_new",
            resume="allow" if self.mode == "online" else None,
            settings=wandb.Settings(silent=True, console="off"),
        )  # fmt: skip
        self.run.log(
            {"plan": wandb.Table(columns=list(COLUMNS), data=_cells(subject.plan))}, commit=False
        )

    def log(self, row: dict[str, Any], histograms: dict[str, Histogram], epoch: int) -> None:
        import wandb

        shown = {
            k: wandb.Histogram(np_histogram=(h.counts.tolist(), h.edges.tolist()))
            for k, h in histograms.items()
        }
        self.run.log(
            {**row, **shown}, step=epoch, commit=True
        )  # committed: a later row's summary would overwrite the final one

    def finish(self, status: str, summary: dict[str, Any], file: Path | None) -> None:
        import wandb

        self.run.summary.update(
            {k: v for k, v in summary.items() if k != "plan"} | {"status": status}
        )
        if file is not None:
            artifact = wandb.Artifact(f"packed-{self.run.id}", type="model")
            artifact.add_file(str(file))
            self.run.log_artifact(artifact)
        self._close(0 if status == "finished" else 1)

    def abandon(self) -> None:
        self._close(1)

    def _close(self, code: int) -> None:
        for name in self.set:
            os.environ.pop(name, None)
        if self.run is not None:
            self.run.finish(exit_code=code)


def _cells(plan: Plan) -> list[list[Any]]:
    return [
        [json.dumps(v) if isinstance(v := getattr(r, name), tuple) else v for name in COLUMNS]
        for r in plan.rows
    ]
