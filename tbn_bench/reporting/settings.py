"""Settings of the runs that one table compares: which vary, and which are the same for all."""

import functools
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tbn_bench.config import RunConfig
from tbn_bench.reporting import style
from tbn_bench.reporting.groups import Group
from tbn_bench.reporting.load import Records

# Named elsewhere in a table, or not a setting of the comparison.
_OTHER = ("seed", "data", "model", "binarizer", "task", "init", "teacher")
# Of settings that are the same for all, those that a heading names.
_HEADING = ("epochs", "batch_size", "optimizer", "lr", "schedule", "precision")


@dataclass(frozen=True)
class Settings:
    """methods: in reading order. varied: setting -> (group id -> value). same: setting -> the value
    of all groups.
    """

    methods: list[str]
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
            said.append(_epochs(value) if name == "epochs" else f"{name} {value}")
        return ", ".join(said)

    def place(self, g: Group) -> tuple[int, list[tuple[bool, float, str]]]:
        """Where a group comes: by its method, then by its settings, numbers by size."""
        keys = []
        for values in self.varied.values():
            value = values[g.group_id]
            is_number = isinstance(value, int | float)
            keys.append((not is_number, float(value) if is_number else 0.0, str(value)))
        return self.methods.index(g.binarizer), keys

    def edges(self, g: Group, tried: list[Group]) -> list[str]:
        """The settings in which a group has the least or greatest of several numbers tried."""
        found = []
        for name, values in self.varied.items():
            numbers = {values[other.group_id] for other in tried}
            if len(numbers) < 2 or not all(isinstance(n, int | float) for n in numbers):
                continue
            if values[g.group_id] in (min(numbers), max(numbers)):
                found.append(name)
        return found

    def of(self, g: Group) -> str:
        """The varied settings of one group: lr=0.12, batch_size=64."""
        said = []
        for name, values in self.varied.items():
            if values[g.group_id] is not None:
                said.append(f"{name}={values[g.group_id]}")
        return ", ".join(said) or "the only settings"


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
    return Settings(style.methods(g.binarizer for g in found), varied, same)


def _epochs(count: int) -> str:
    return "1 epoch" if count == 1 else f"{count} epochs"


def _plain(value: Any) -> Any:
    """A value of a frame as a table shows it; None if it is missing."""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if value is None or value != value:
        return None
    if isinstance(value, float):
        rounded = float(f"{value:.4g}")
        return int(rounded) if rounded.is_integer() else rounded

    return value
