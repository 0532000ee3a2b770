"""What an earlier attempt of a run has left: a result, or a checkpoint, and by which code."""

import sys

from tbn_bench import fingerprint
from tbn_bench.config import RunConfig
from tbn_bench.experiment.options import RunOptions
from tbn_bench.records.files import RecordError
from tbn_bench.records.run import RunRecord
from tbn_bench.records.set_aside import set_aside
from tbn_bench.records.store import RunStore
from tbn_bench.records.text import tell


def finished(store: RunStore, config: RunConfig, options: RunOptions) -> RunRecord:
    """The record of a finished run. Says that nothing is trained, and what has changed since."""
    record = store.read(options.sweep, config.run_id)
    changed = fingerprint.changed(record.fingerprint, config)
    although = f", although {fingerprint.named(changed)} has changed" if changed else ""
    restart = "resume=False" if config.given else "--restart"
    _say(
        options,
        f"run {config.run_id} is finished already and not trained again{although}; "
        f"{restart} trains it again",
    )
    return record


def has_other_code(store: RunStore, config: RunConfig, options: RunOptions) -> bool:
    """Whether a run's code has changed since its last checkpoint, which is then of no use."""
    try:
        record = store.read(options.sweep, config.run_id)
    except RecordError:
        return False
    changed = fingerprint.changed(record.fingerprint, config)
    if not changed:
        return False
    _say(
        options,
        f"run {config.run_id} starts again at its first step: "
        f"{fingerprint.named(changed)} has changed since its last checkpoint",
    )
    return True


def move_away(store: RunStore, config: RunConfig, options: RunOptions) -> None:
    """Moves the record of a finished run to <results>/set_aside; another run stays."""
    if store.finished(options.sweep, config.run_id):
        new = set_aside(store.root, store.path(options.sweep, config.run_id))
        _say(options, f"the earlier record of run {config.run_id} is now {new}")


def _say(options: RunOptions, line: str) -> None:
    """On stderr, once for all processes of a run."""
    if not options.rank:
        tell(line, file=sys.stderr)
