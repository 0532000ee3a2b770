"""The trained networks of a sweep that can be timed here, from checkpoints or packed files."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from tbn_bench import convert
from tbn_bench.config import make
from tbn_bench.experiment import verify, weights
from tbn_bench.experiment.build import build
from tbn_bench.layers.packed_base import Packed
from tbn_bench.records.run import NETWORK, RunRecord
from tbn_bench.records.store import RunStore


@dataclass(frozen=True)
class Trained:
    """A finished run with its data and its network in eval mode.

    plain: of a packed network, the same with dense weights; None where convert.dense makes it.
    has_weights: False for full precision without a checkpoint. Its time does not depend on them, so
    it has the first weights of its seed, and its score cannot be checked.
    """

    run: RunRecord
    data: Any
    model: nn.Module
    plain: nn.Module | None = None
    has_weights: bool = True

    @property
    def is_full_precision(self) -> bool:
        return self.run.config["binarizer"] == "full_precision"


def load(runs: list[RunRecord], packed: bool = False) -> list[Trained]:
    """The runs with their networks, and with their data set up.

    packed: reads the packed files in place of checkpoints.
    """
    loaded = [_packed(run) if packed else _from_checkpoint(run) for run in runs]
    for trained in loaded:
        trained.data.setup()
    return loaded


def _from_checkpoint(run: RunRecord) -> Trained:
    found = weights.trained(run)
    return Trained(run, found.data, found.model)


def _packed(run: RunRecord) -> Trained:
    """Of a packed file; of full precision, the checkpoint or the first weights of its seed."""
    if run.config["binarizer"] == "full_precision":
        if _has_checkpoint(run):
            return _from_checkpoint(run)

        built = build(make(run.config))
        return Trained(run, built.data, built.model.eval(), has_weights=False)

    config = make(run.config)
    data = build(config).data
    structure = verify.structure(config, data)
    network = convert.load(structure, run.path / NETWORK)
    return Trained(run, data, network, expanded(structure, network))


def expanded(structure: nn.Module, packed: nn.Module) -> nn.Module:
    """A copy of a full-precision network with the dense weights of its packed form."""
    plain = copy.deepcopy(structure)
    wanted = plain.state_dict().keys()
    state = {name: value for name, value in packed.state_dict().items() if name in wanted}
    for name, module in packed.named_modules():
        if isinstance(module, Packed):
            state[f"{name}.weight"] = module.expanded()
    plain.load_state_dict(state)
    return plain.eval()


def _has_checkpoint(run: RunRecord) -> bool:
    return (run.path / "checkpoints" / "best.ckpt").exists()


def packed_runs(name: str, results: Path) -> list[RunRecord]:
    """Finished runs of sweep `name` with a packed file, and full precision of the same networks.

    Raises ValueError where there are none.
    """
    every = RunStore(results).runs([])
    runs = [run for run in every if run.sweep == name and run.status == "finished"]
    found = [run for run in runs if (run.path / NETWORK).exists()]
    if not found:
        raise ValueError(
            f"suite {name!r}: none of its {len(runs)} finished runs under {results} has a packed "
            f"file ({NETWORK}); run: tbn-bench sweep sweeps/{name}.yaml --results {results}"
        )
    models = {(run.config["data"], run.config["model"]) for run in found}
    for run in runs:
        is_full = run.config["binarizer"] == "full_precision"
        if is_full and (run.config["data"], run.config["model"]) in models and run not in found:
            found.append(run)
    return found


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
    usable = [run for run in runs if _has_checkpoint(run)]
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
