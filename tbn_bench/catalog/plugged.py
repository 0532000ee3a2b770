"""Entries from outside this package: of plugin files, and of installed packages.

A plugin file is loaded by plugins/load.py, which puts its entries here. An installed package names
its entries in its metadata, in the group of a shelf:

    [project.entry-points."tbn_bench.binarizers"]
    my_method = "my_package.methods:MyMethod"

No plugin and no package is imported here before one of its entries is used.
"""

import functools
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

SHELVES = ("binarizers", "models", "data", "tasks", "optimizers", "tables", "figures")
VARIABLE = "TBN_BENCH_PLUGINS"  # paths of plugins, separated as PATH is


@dataclass(frozen=True)
class Plugin:
    """A loaded file, or folder of files. path: absolute. hash: of what the files hold."""

    path: Path
    hash: str

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def record(self) -> dict[str, str]:
        """As a run's provenance has it."""
        return {"name": self.name, "hash": self.hash}


@dataclass(frozen=True)
class Entry:
    """An entry of a plugin. file: its source."""

    made: Callable[..., Any]
    file: Path
    plugin: Plugin


PLUGINS: list[Plugin] = []
_ENTRIES: dict[tuple[str, str], Entry] = {}


def add(plugin: Plugin, entries: dict[tuple[str, str], Entry]) -> None:
    """Puts a plugin's entries, (shelf, name) -> entry, on the shelves. Again: does nothing."""
    if plugin in PLUGINS:
        return

    PLUGINS.append(plugin)
    _ENTRIES.update(entries)


def remove(plugin: Plugin) -> None:
    """Takes a plugin and its entries off the shelves."""
    PLUGINS.remove(plugin)
    for key, entry in list(_ENTRIES.items()):
        if entry.plugin == plugin:
            del _ENTRIES[key]


def of(plugin: Plugin) -> list[tuple[str, str]]:
    """(shelf, name) of the entries of a plugin."""
    return [key for key, entry in _ENTRIES.items() if entry.plugin == plugin]


def names(shelf: str) -> set[str]:
    """Names of all entries of a shelf from outside this package."""
    own = {name for place, name in _ENTRIES if place == shelf}
    return own | set(_installed(shelf))


def find(shelf: str, name: str) -> Entry | None:
    """The entry of a plugin file, if it is one's."""
    return _ENTRIES.get((shelf, name))


def load(shelf: str, name: str) -> Callable[..., Any] | None:
    """The callable of an entry from outside; None where there is none of this name.

    Raises TypeError for an entry point that names no callable.
    """
    entry = find(shelf, name)
    if entry is not None:
        return entry.made

    point = _installed(shelf).get(name)
    if point is None:
        return None

    found = point.load()
    if not callable(found):
        raise TypeError(
            f"entry point {point.value!r} of tbn_bench.{shelf} is no class or function, got "
            f"{type(found).__name__}; write module:Name"
        )
    made: Callable[..., Any] = found
    return made


def source(shelf: str, name: str) -> Path | None:
    """The file of an entry from outside; None where there is none of this name."""
    entry = find(shelf, name)
    if entry is not None:
        return entry.file

    point = _installed(shelf).get(name)
    spec = importlib.util.find_spec(point.module) if point else None
    return Path(spec.origin) if spec and spec.origin else None


def origin(shelf: str, name: str) -> str:
    """The plugin or the installed package of an entry; "" for one of this package."""
    entry = find(shelf, name)
    if entry is not None:
        return entry.plugin.name

    point = _installed(shelf).get(name)
    return point.dist.name if point and point.dist else ""


def package(shelf: str, name: str) -> dict[str, str]:
    """Name and version of the installed package that an entry comes from; {} for other entries."""
    point = _installed(shelf).get(name)
    if point is None or point.dist is None or find(shelf, name) is not None:
        return {}
    return {"name": point.dist.name, "version": point.dist.version}


@functools.cache
def _installed(shelf: str) -> dict[str, EntryPoint]:
    """Name -> entry point, of the installed packages."""
    return {point.name: point for point in entry_points(group=f"tbn_bench.{shelf}")}
