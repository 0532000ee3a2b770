"""tbn-bench runs repeat: the first epochs of a run, trained again and compared with its record.

Training on one machine is deterministic, so the numbers of each epoch must be equal to the last
digit. Another processor may add in another order.
"""

import contextlib
import tempfile
from pathlib import Path
from typing import Any

from tbn_bench import fingerprint
from tbn_bench.config import make
from tbn_bench.experiment import train
from tbn_bench.experiment.distributed import Follower
from tbn_bench.experiment.options import RunOptions
from tbn_bench.experiment.training import Training
from tbn_bench.records import repeated
from tbn_bench.records.provenance import provenance
from tbn_bench.records.run import RunRecord
from tbn_bench.records.store import RunStore
from tbn_bench.records.text import tell
from tbn_bench.tracking.mirror import Mirrors

_TIMES = ("seconds", "epoch_cpu_seconds", "epoch_training_seconds")
_GIVEN = ("epoch", "step", "lr")  # by the config: no evidence

Row = dict[str, Any]


class _EnoughError(Exception):
    """Ends a training from within."""


class _Collector(Follower):
    """Stands for records.run.Run: keeps the first rows and then ends the training."""

    def __init__(self, path: Path, most: int):
        super().__init__(path)
        self.most = most
        self.rows: list[Row] = []

    def log(self, row: Row, durable: bool = False) -> None:
        self.rows.append(row)
        if len(self.rows) == self.most:
            raise _EnoughError


def run(store: RunStore, run_id: str, epochs: int = 1) -> dict[str, Any]:
    """Trains the first epochs of a run again, in a temporary folder. Prints what was compared.

    If every number is equal, repeated.json beside the record says so, and the run no longer counts
    as stale by this code. Returns what was compared.

    Raises ValueError for epochs that the record does not have, and for a run whose first number
    differs, naming both.
    """
    record = store.find(run_id)
    recorded = record.rows()
    if not 1 <= epochs <= len(recorded):
        raise ValueError(
            f"--epochs must lie between 1 and {len(recorded)}, the epochs that "
            f"{record.run_id} has recorded; got {epochs}"
        )
    found = _train(store, record, epochs)
    numbers = 0
    for old, new in zip(recorded, found, strict=False):
        numbers += _compare(record, old, new)
    source = provenance("", None, None)
    hardware = source["hardware"]
    content = repeated.Repeated(
        fingerprint=fingerprint.of(make(record.config)),
        epochs=epochs,
        numbers=numbers,
        commit=source["commit"],
        dirty=source["dirty"],
        cpu=hardware["cpu"],
    )
    repeated.write(record.path, content)
    tell(
        f"{record.sweep}/{record.run_id}: {numbers} numbers of {epochs} epochs are equal to the "
        "last digit"
    )
    return {"run_id": record.run_id, "epochs": epochs, "numbers": numbers, "equal": True}


def _train(store: RunStore, record: RunRecord, epochs: int) -> list[Row]:
    config = make(record.config)
    source = record.provenance
    with tempfile.TemporaryDirectory(prefix="tbn-bench-repeat-") as folder:
        options = RunOptions(
            Path(folder),
            record.sweep,
            wandb="off",
            threads=source.get("hardware", {}).get("threads"),
            channels_last=bool(source.get("channels_last")),
            compile=bool(source.get("compile")),
        )
        experiment, teacher = train.prepared(config, options, store)
        collector = _Collector(Path(folder), epochs)
        collector.checkpoints.mkdir()
        training = Training(experiment, options, collector, Mirrors(), teacher, resume=False)
        with contextlib.suppress(_EnoughError):
            training.fit_and_test()

    return collector.rows


def _compare(record: RunRecord, old: Row, new: Row) -> int:
    """How many measured numbers of an epoch are equal. Raises ValueError for one that is not."""
    names = [name for name in old if name not in _TIMES]
    for name in names:
        if name not in new:
            raise ValueError(
                f"{record.sweep}/{record.run_id}: {name} is in the record and is no longer logged; "
                "train the run again with --restart"
            )
        if old[name] != new[name]:
            raise ValueError(
                f"{record.sweep}/{record.run_id}: {name} of epoch {old.get('epoch', 0) + 1} is "
                f"{old[name]} in the record and {new[name]} now; the code or the processor adds "
                f"in another order, or computes something else "
                f"(recorded on {record.provenance.get('hardware', {}).get('cpu')})"
            )
    return len([name for name in names if name not in _GIVEN])
