"""What a mirror is, and the only object that the training loop sees: all mirrors of one run.

No mirror can fail the run.
"""

import contextlib
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from tbn_bench.config import RunConfig
from tbn_bench.convert.plan import Plan
from tbn_bench.install.extras import require
from tbn_bench.records.files import to_json
from tbn_bench.records.text import tell
from tbn_bench.tracking.diagnostics import Histogram, tile_histograms

TRACKERS = ("wandb", "tensorboard", "mlflow")
SHARE = 0.05  # of the time so far that histograms may take


@dataclass(frozen=True)
class Subject:
    """What is mirrored. folder: the run's, results/runs/<group>/<run id>."""

    config: RunConfig
    plan: Plan
    folder: Path
    group: str
    provenance: dict[str, Any]

    @property
    def logs(self) -> Path:
        """results/logs, which is not committed."""
        return self.folder.parents[2] / "logs"

    @property
    def settings(self) -> dict[str, Any]:
        settings = self.config.model_dump(mode="json")
        settings["provenance"] = self.provenance
        return settings


class Mirror:
    """One place a run is copied to. May raise anything: Mirrors drops it then."""

    def start(self, subject: Subject) -> None:
        raise NotImplementedError  # abstract

    def log(self, row: dict[str, Any], histograms: dict[str, Histogram], epoch: int) -> None:
        """One row of metrics.jsonl, with what the tiles look like (often nothing)."""
        raise NotImplementedError  # abstract

    def finish(self, status: str, summary: dict[str, Any], file: Path | None) -> None:
        """The end of the run.

        status: one of records.STATUSES. summary: the final numbers, empty unless finished. file:
        the packed network, None where there is none.
        """
        raise NotImplementedError  # abstract

    def abandon(self) -> None:
        """Lets go of what the mirror holds.

        Called once, instead of everything else, after this mirror has raised.
        """


def tidy(trackers: tuple[str, ...], wandb: str) -> tuple[str, ...]:
    """The mirrors that --tracker and --wandb ask for, each once.

    Raises ValueError for an unknown name.
    """
    asked = set()
    for name in ",".join(trackers).split(","):
        if name and name not in TRACKERS:
            raise ValueError(f"--tracker must be of {', '.join(TRACKERS)}, got {name!r}")
        asked.add(name)
    if os.environ.get("WANDB_MODE") == "disabled":
        asked.discard("wandb")
    elif wandb != "off":
        asked.add("wandb")
    return tuple(name for name in TRACKERS if name in asked)


def check(trackers: tuple[str, ...], wandb: str) -> tuple[str, ...]:
    """The mirrors of tidy, each of which can start here.

    Raises ModuleNotFoundError for a missing package, ValueError for a missing key.
    """
    names = tidy(trackers, wandb)
    for name in names:
        require(name)
    if "wandb" in names and wandb == "online":
        from tbn_bench.tracking.account import require_key

        require_key("--wandb online")
    return names


def _new(name: str, wandb: str) -> Mirror:
    if name == "wandb":
        from tbn_bench.tracking.wandb_mirror import WandbMirror

        return WandbMirror("online" if wandb == "online" else "offline")
    from tbn_bench.tracking import lightning_mirrors

    if name == "tensorboard":
        return lightning_mirrors.TensorBoardMirror()
    return lightning_mirrors.MLflowMirror()


class Mirrors:
    """All mirrors of one run.

    A mirror that raises is left out from then on, with one line on stderr; the run goes on.
    """

    def __init__(self, trackers: tuple[str, ...] = (), wandb: str = "off"):
        """Raises ValueError and ModuleNotFoundError as check does."""
        self.live = {name: _new(name, wandb) for name in check(trackers, wandb)}
        self.began = time.perf_counter()
        self.spent = 0.0  # seconds on histograms so far
        self.last = 0.0  # and on the last ones

    def start(
        self,
        config: RunConfig,
        plan: Plan,
        folder: Path,
        group: str,
        provenance: dict[str, Any],
    ) -> None:
        self.subject = Subject(config, plan, folder, group, provenance)
        self._each(lambda mirror: mirror.start(self.subject))
        self.began = time.perf_counter()

    def log(self, row: dict[str, Any], model: nn.Module) -> None:
        """One row of metrics.jsonl.

        Histograms in the first epoch, and whenever they keep under SHARE of the time since the
        start.
        """
        started = time.perf_counter()
        allowed = SHARE * (started - self.began)
        is_due = self.spent + self.last <= allowed
        found: dict[str, Histogram] = {}
        if self.live and is_due:
            found = self._histograms(model)
        self._each(lambda mirror: mirror.log(row, found, int(row["epoch"])))
        if found:
            self.last = time.perf_counter() - started
            self.spent += self.last

    def finish(self, status: str, summary: dict[str, Any], file: Path | None) -> None:
        """The end of the run, as Mirror.finish takes it."""
        self._each(lambda mirror: mirror.finish(status, summary, file))

    def _each(self, call: Callable[[Mirror], None]) -> None:
        for name, mirror in list(self.live.items()):
            try:
                call(mirror)
            except Exception as error:  # noqa: BLE001 (no fault of a tracker may fail the run)
                del self.live[name]
                with contextlib.suppress(Exception):
                    mirror.abandon()
                _warn(f"the {name} mirror is lost", error)

    def _histograms(self, model: nn.Module) -> dict[str, Histogram]:
        try:
            return tile_histograms(model)
        except Exception as error:  # noqa: BLE001 (as above)
            self.spent = math.inf  # never again in this run, so one line
            _warn("no histograms of the tiles", error)
            return {}


def _warn(what: str, error: Exception) -> None:
    """Not by warnings.warn: `python -W error` would turn it into the failure it speaks of."""
    said = " ".join(str(error).split())
    kind = type(error).__name__
    tell(
        f"warning: {what} ({kind}: {said}); the run goes on, its record is whole",
        file=sys.stderr,
    )


def plain(value: Any) -> str:
    """A nested value as one JSON text."""
    if isinstance(value, str):
        return value
    return to_json(value)
