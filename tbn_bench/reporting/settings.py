"""Settings of the runs that one table compares: which vary, and which are the same for all."""

import functools
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tbn_bench.config import RunConfig
from tbn_bench.reporting.groups import Group
from tbn_bench.reporting.load import Records

# Named elsewhere in a table, or not a setting of the comparison.
_OTHER = ("seed", "data", "model", "binarizer", "task", "init", "teacher")
# Of settings that are the same for all, those that a heading names.
_HEADING = ("epochs", "batch_size", "optimizer", "lr", "schedule", "precision")


@dataclass(frozen=True)
class Settings:
    """varied: setting -> (group id -> value). same: setting -> the value of all groups."""

    varied: dict[str, dict[str, Any]]
    same: dict[str, Any]

    @property
    def heading(self) -> str:
        """12 epochs, batch_size 500, optimizer muon, lr 0.12."""
        said = []
        for name in _HEADING:
            value = self.same.get(name)
            if value is None:
                continue
            said.append(f"{value} epochs" if name == "epochs" else f"{name} {value}")
        return ", ".join(said)


@functools.lru_cache(maxsize=2)
def _by_group(records: Records) -> pd.DataFrame:
    """The config of the first run of each sweep and group id."""
    ids = records.runs[["sweep", "run_id", "group_id"]]
    configs = ids.merge(records.configs, on=["sweep", "run_id"])
    return configs.drop_duplicates(["sweep", "group_id"]).set_index(["sweep", "group_id"])


def settings(records: Records, found: list[Group]) -> Settings:
    """The settings of groups of one sweep, data set and network."""
    configs = _by_group(records).loc[[(g.sweep, g.group_id) for g in found]]
    varied = {}
    same = {}
    for name in RunConfig.model_fields:
        if name in _OTHER:
            continue
        values = configs[name]
        if values.astype(str).nunique() > 1:
            varied[name] = {g.group_id: _plain(v) for g, v in zip(found, values, strict=True)}
        else:
            same[name] = _plain(values.iloc[0])
    return Settings(varied, same)


def _plain(value: Any) -> Any:
    """A value of a frame as a table shows it; None if it is missing."""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if value is None or value != value:
        return None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
