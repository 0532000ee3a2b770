"""The trained networks of a sweep that can be timed here."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from tbn_bench.experiment import weights
from tbn_bench.records.run import RunRecord
from tbn_bench.records.store import RunStore


@dataclass(frozen=True)
class Trained:
    """A finished run with its data and its network in eval mode."""

    run: RunRecord
    data: Any
    model: nn.Module

    @property
    def is_full_precision(self) -> bool:
        return self.run.config["binarizer"] == "full_precision"


def load(runs: list[RunRecord]) -> list[Trained]:
    """The runs with their networks, and with their data set up."""
    loaded = []
    for run in runs:
        found = weights.trained(run)
        loaded.append(Trained(run, found.data, found.model))
    for trained in loaded:
        trained.data.setup()
    return loaded


def has_runs(name: str, results: Path) -> bool:
    """Whether usable_runs finds some."""
    try:
        usable_runs(name, results)
    except ValueError:
        return False
    return True


def usable_runs(name: str, results: Path) -> list[RunRecord]:
    """Finished runs of sweep `name` whose checkpoints are here.

    Raises ValueError with the command to run where there are none.
    """
    every = RunStore(results).runs([])
    runs = [run for run in every if run.sweep == name and run.status == "finished"]
    usable = [run for run in runs if (run.path / "checkpoints" / "best.ckpt").exists()]
    if usable:
        return usable
    why = "no finished runs"
    if runs:
        why = f"its {len(runs)} finished runs have no checkpoints here (they are not committed)"
    known = sorted({folder.name for folder in (results / "runs").glob("*/")})
    raise ValueError(
        f"suite {name!r}: {why} under {results}; "
        f"run: tbn-bench sweep sweeps/{name}.yaml --results {results}. "
        f"Sweeps there: {', '.join(known) or 'none'}"
    )


class Network(NamedTuple):
    """The calls of a data set and a model."""

    data: str
    model: str


def pick(runs: Iterable[RunRecord]) -> dict[Network, list[RunRecord]]:
    """Network -> one finished run with a checkpoint per binarizer.

    It is the run of the lowest seed. Full precision comes first.
    """
    chosen: dict[Network, dict[str, RunRecord]] = {}
    for run in sorted(runs, key=_seed):
        config = run.config
        network = Network(config["data"], config["model"])
        by_binarizer = chosen.setdefault(network, {})
        by_binarizer.setdefault(config["binarizer"], run)
    picked = {}
    for network, found in chosen.items():
        picked[network] = sorted(found.values(), key=_order)
    return picked


def _seed(run: RunRecord) -> int:
    return int(run.config["seed"])


def _order(run: RunRecord) -> tuple[bool, str]:
    """Full precision first, then by binarizer."""
    binarizer = run.config["binarizer"]
    return binarizer != "full_precision", binarizer
