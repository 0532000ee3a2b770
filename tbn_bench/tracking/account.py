"""W&B's names and places of a run, and whether there is a key.

No torch, and wandb only where a key is asked for.
"""

import os
from pathlib import Path

from tbn_bench.records.names import distinct

ID_LETTERS = 64


def require_key(what: str) -> None:
    """Raises ValueError unless W&B finds a key (environment, ~/.netrc or its settings).

    Nothing is sent.
    """
    import wandb

    if not wandb.login(prompt=False):
        raise ValueError(
            f"{what} needs a W&B key; run `wandb login` or set WANDB_API_KEY; "
            "without one mirrors stay offline"
        )


def wandb_id(run_id: str, group: str) -> str:
    """The run's id in W&B.

    Ids there are one name space, and the same config may be part of several sweeps. Where W&B does
    not take the sweep's name whole (other characters, more than 51 letters), the id has a hash of
    it.
    """
    if group == "single":
        return run_id
    return distinct(f"{run_id}-{group}", r"[^A-Za-z0-9_-]", ID_LETTERS)


def where(folder: Path) -> Path:
    """The folder in which W&B makes its `wandb`: WANDB_DIR, or the run's own."""
    return Path(os.environ.get("WANDB_DIR") or folder).resolve()
