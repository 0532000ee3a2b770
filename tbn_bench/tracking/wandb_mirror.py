"""The W&B mirror.

Offline unless asked, in the run's folder unless the environment says otherwise.
"""

import json
import os
from pathlib import Path
from typing import Any

from tbn_bench import catalog
from tbn_bench.convert.plan import RECORD_KEYS, Plan
from tbn_bench.tracking.account import wandb_id, where
from tbn_bench.tracking.diagnostics import Histogram
from tbn_bench.tracking.mirror import Mirror, Subject

PROJECT = "tbn_bench"
STAGING = ("WANDB_DATA_DIR", "WANDB_CACHE_DIR")  # else in the home directory


class WandbMirror(Mirror):
    """mode: offline or online.

    Project, entity, name and tags of the environment (WANDB_PROJECT, ...) win over ours.
    """

    def __init__(self, mode: str):
        self.mode = mode
        self.set: list[str] = []
        self.run: Any = None
        if mode == "offline":
            # wandb reads this when it is imported; without it, it reports errors over the network
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")

    def start(self, subject: Subject) -> None:
        import wandb

        config = subject.config
        folder = where(subject.folder)
        folder.mkdir(parents=True, exist_ok=True)
        # W&B reads these at each artifact, so they are kept until finish
        self.set = [name for name in STAGING if name not in os.environ]
        os.environ |= dict.fromkeys(self.set, str(folder / "wandb"))
        # asked here: W&B reads its environment once, at the first run of a process
        named = os.environ.get
        calls = (config.data, config.model, config.binarizer)
        tags = [catalog.parse(call)[0] for call in calls]
        given_tags = named("WANDB_TAGS")
        self.run = wandb.init(
            entity=named("WANDB_ENTITY"),
            project=named("WANDB_PROJECT") or PROJECT,
            id=named("WANDB_RUN_ID") or wandb_id(config.run_id, subject.group),
            name=named("WANDB_NAME") or f"{config.model} {config.binarizer} seed {config.seed}",
            group=named("WANDB_RUN_GROUP") or subject.group,
            job_type=named("WANDB_JOB_TYPE") or tags[-1],
            tags=given_tags.split(",") if given_tags else tags,
            config=subject.settings | {"sweep": subject.group},
            mode=self.mode,
            dir=str(folder),
            reinit="create_new",
            resume="allow" if self.mode == "online" else None,
            settings=wandb.Settings(silent=True, console="off"),
        )
        plan = wandb.Table(columns=list(RECORD_KEYS), data=_cells(subject.plan))
        self.run.log({"plan": plan}, commit=False)

    def log(self, row: dict[str, Any], histograms: dict[str, Histogram], epoch: int) -> None:
        import wandb

        shown = {}
        for name, h in histograms.items():
            bins = (h.counts.tolist(), h.edges.tolist())
            shown[name] = wandb.Histogram(np_histogram=bins)
        # committed: a later row's summary would overwrite the final one
        self.run.log({**row, **shown}, step=epoch, commit=True)

    def finish(self, status: str, summary: dict[str, Any], file: Path | None) -> None:
        import wandb

        shown = {}
        for key, value in summary.items():
            if key != "plan":
                shown[key] = value
        shown["status"] = status
        self.run.summary.update(shown)
        if file is not None:
            artifact = wandb.Artifact(f"packed-{self.run.id}", type="model")
            artifact.add_file(str(file))
            self.run.log_artifact(artifact)
        is_finished = status == "finished"
        self._close(0 if is_finished else 1)

    def abandon(self) -> None:
        self._close(1)

    def _close(self, code: int) -> None:
        for name in self.set:
            os.environ.pop(name, None)
        if self.run is not None:
            self.run.finish(exit_code=code)


def _cells(plan: Plan) -> list[list[Any]]:
    """A row per layer; shapes as JSON."""
    rows = []
    for layer in plan.rows:
        values = [getattr(layer, name) for name in RECORD_KEYS]
        rows.append([json.dumps(v) if isinstance(v, tuple) else v for v in values])
    return rows
