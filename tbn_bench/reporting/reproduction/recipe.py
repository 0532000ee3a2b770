"""How our runs of a published cell were trained, what differs from its setting, and what they cost.

The setting is the sweep or recipe of the repository with the published values; where our runs are
of that sweep, nothing differs. What the source itself says is in the ledger's notes.
"""

from typing import Any

from tbn_bench import catalog
from tbn_bench.config import RunConfig
from tbn_bench.reporting.commands import Setting
from tbn_bench.reporting.groups import Group
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.reproduction.cells import Cell
from tbn_bench.reporting.style import missing
from tbn_bench.reporting.table import Row

Recipes = dict[tuple[str, str], dict[str, Any]]
"""(sweep, group id) -> the config of its runs."""

# Said of every run; the others only where they differ from the setting's.
_SAID = ("epochs", "batch_size", "optimizer", "lr", "schedule")
_COMPARED = (
    *_SAID,
    "weight_decay",
    "warmup_epochs",
    "label_smoothing",
    "mixup",
    "cutmix",
    "clip_norm",
    "keep",
    "init",
    "precision",
)
_WORDS = {"epochs": "{} epochs", "batch_size": "batch {}", "lr": "rate {}"}


def recipes(records: Records) -> Recipes:
    """Of every group: runs that differ only in seed have one."""
    columns = ["sweep", "run_id", "group_id"]
    configs = records.runs[columns].merge(records.configs, on=columns[:2])
    found: Recipes = {}
    for row in configs.to_dict("records"):
        config = {str(key): value for key, value in row.items() if not _is_missing(value)}
        found.setdefault((row["sweep"], row["group_id"]), config)
    return found


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and missing(value))


def spent(cell: Cell, g: Group, known: Recipes) -> Row:
    """The recipe and the cost of one group, for a row of the paper's tables."""
    seconds = g.first["cpu_seconds"]
    pflop = g.first["train_pflop"]
    config = known.get((g.sweep, g.group_id))
    return {
        "recipe": recipe(config, g, cell.setting) if config else None,
        "cpu_hours": None if missing(seconds) else round(seconds / 3600, 4),
        "train_pflop": None if missing(pflop) else pflop,
    }


def recipe(config: dict[str, Any], g: Group, setting: Setting | None) -> str:
    """18 epochs (300), batch 500 (128), ...; data, model and method where options differ."""
    if setting is None or setting.name == g.sweep:
        return _said(config)
    defaults = RunConfig().model_dump(mode="json")
    parts = []
    for key in _COMPARED:
        ours = _plain(config.get(key, defaults[key]))
        theirs = [_plain(value) for value in setting.values.get(key, [defaults[key]])]
        if key == "keep":  # one value, which is a list
            theirs = [_plain(setting.values.get(key, defaults[key]))]
        if ours not in theirs:
            parts.append(f"{_worded(key, ours)} ({' or '.join(theirs)})")
        elif key in _SAID:
            parts.append(_worded(key, ours))
    parts += _options("data", config["data"], setting)
    parts += _options("model", config["model"], setting)
    parts += _options("binarizer", g.binarizer, setting)
    return f"{', '.join(parts)}; in parentheses {setting.name}"


def _said(config: dict[str, Any]) -> str:
    defaults = RunConfig().model_dump(mode="json")
    return ", ".join(_worded(key, _plain(config.get(key, defaults[key]))) for key in _SAID)


def _worded(key: str, value: str) -> str:
    return _WORDS.get(key, f"{key.replace('_', ' ')} {{}}").format(value)


def _plain(value: Any) -> str:
    """A value as text; 1.0 and 1 are the same."""
    if isinstance(value, list | tuple):
        return "/".join(map(str, value)) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value in (None, "") else str(value)


def _options(key: str, ours: str, setting: Setting) -> list[str]:
    """tbn: min_layer_size=0 (per_layer=[...]): the options in which the nearest call differs."""
    name, own = catalog.parse(ours)
    theirs = []
    for value in setting.values.get(key, []):
        other, options = catalog.parse(str(value))
        if other == name:
            theirs.append(options)
    if not theirs:
        return []
    nearest = max(theirs, key=lambda options: _shared(own, options))
    return _differing(name, own, nearest)


def _shared(own: dict[str, Any], theirs: dict[str, Any]) -> int:
    return sum(theirs.get(key, ...) == value for key, value in own.items())


def _differing(name: str, own: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    only = _listed(own, theirs)
    instead = _listed(theirs, own)
    if not only and not instead:
        return []
    return [f"{name}: {only or 'defaults'} ({instead or 'defaults'})"]


def _listed(options: dict[str, Any], others: dict[str, Any]) -> str:
    """The options that others do not have with the same value."""
    said = []
    for key, value in options.items():
        if others.get(key, ...) != value:
            said.append(f"{key}={catalog.short(value)}")
    return ", ".join(said)
