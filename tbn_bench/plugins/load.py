"""Loads plugins: a Python file, or a folder whose files lie as in this package.

    my_methods.py               each public class and function of a shelf's kind is an entry
    my_methods/binarizers/x.py  the entry x, as in this package; so for every shelf

A file may name its entries itself: ENTRIES = {"models": ["MyNet"]}. Processes that are started from
here load the same plugins, because their paths are put into TBN_BENCH_PLUGINS.
"""

import hashlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from tbn_bench.catalog import own_names, plugged, short
from tbn_bench.catalog.plugged import SHELVES, VARIABLE, Entry, Plugin
from tbn_bench.plugins import shelves

_DIGITS = 12


def load(paths: Iterable[str | Path], folder: Path | None = None) -> list[Plugin]:
    """Loads plugins, those of TBN_BENCH_PLUGINS first, each once. Returns all of them.

    folder: that relative paths start from; None: the working folder. Raises ValueError for a file
    that cannot be loaded, has no entry, or has one that is not what its shelf expects.
    """
    base = Path.cwd() if folder is None else folder
    wanted: dict[Path, None] = {}
    for inherited in os.environ.get(VARIABLE, "").split(os.pathsep):
        if inherited:
            wanted[_absolute(Path(inherited))] = None
    for path in paths:
        written = Path(path).expanduser()
        wanted[_absolute(base / written)] = None
    loaded = [_load(path) for path in wanted]
    if loaded:
        known = [str(plugin.path) for plugin in plugged.PLUGINS]
        os.environ[VARIABLE] = os.pathsep.join(known)
    return loaded


def _absolute(path: Path) -> Path:
    """Without resolving links: the name of a file is what its user calls it."""
    return Path(os.path.abspath(path))


def named(value: Any, file: Path) -> list[str]:
    """The value of `plugins:` in a preset or sweep file. Raises ValueError for no list of paths."""
    paths = [value] if isinstance(value, str) else value
    if isinstance(paths, list) and all(isinstance(path, str) for path in paths):
        return paths
    raise ValueError(f"{file}: plugins must be a list of Python files, got {short(value)}")


def _load(path: Path) -> Plugin:
    files = files_of(path)
    plugin = Plugin(path, _hash(path, files))
    if plugin in plugged.PLUGINS:
        return plugin
    older = [other for other in plugged.PLUGINS if other.path == path]
    entries: dict[tuple[str, str], Entry] = {}
    for file in files:
        shelf = None if file == path else file.parent.name
        entries |= _entries(plugin, file, shelf)
    _refuse_taken(path, entries, older)
    for other in older:  # the file was edited in a session
        plugged.remove(other)
    plugged.add(plugin, entries)
    return plugin


def files_of(path: Path) -> list[Path]:
    """The sources of a plugin with entries. Raises ValueError where there is none."""
    if path.is_file() and path.suffix == ".py":
        return [path]
    found = []
    for shelf in SHELVES:
        files = path.glob(f"{shelf}/[!_]*.py")
        found += sorted(files)
    if found:
        return found
    got = "nothing there"
    if path.exists():
        got = "a folder without them" if path.is_dir() else "another kind of file"
    raise ValueError(
        f"plugin {path}: expected a Python file, or a folder with files in {', '.join(SHELVES)}, "
        f"got {got}"
    )


def _hash(path: Path, files: list[Path]) -> str:
    whole = hashlib.sha256()
    for file in files:
        name = file.relative_to(path.parent).as_posix()
        whole.update(f"{name}\n".encode())
        whole.update(file.read_bytes())
    return whole.hexdigest()[:_DIGITS]


def _entries(plugin: Plugin, file: Path, shelf: str | None) -> dict[tuple[str, str], Entry]:
    """(shelf, name) -> entry, of one file; shelf: of a file that lies in a shelf's folder."""
    module = _module(plugin, file)
    found = shelves.entries(module, file, shelf)
    faults = []
    for place, _, made in found:
        faults += shelves.faults(place, made)
    if faults:
        raise ValueError("\n".join(f"plugin {file}: {fault}" for fault in faults))
    return {(place, name): Entry(made, file, plugin) for place, name, made in found}


def _module(plugin: Plugin, file: Path) -> ModuleType:
    """The file as a module. Raises ValueError that names the line of an error."""
    name = f"tbn_bench_plugin_{plugin.hash}_{file.parent.name}_{file.stem}".replace("-", "_")
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ValueError(f"plugin {file}: it is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's file raises
        del sys.modules[name]
        raise ValueError(f"plugin {file}{_line(error, file)}: {_said(error)}") from error
    return module


def _line(error: Exception, file: Path) -> str:
    """':3' where the error is on line 3 of the file."""
    if isinstance(error, SyntaxError):
        return f":{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(file)]
    return f":{lines[-1]}" if lines else ""


def _said(error: Exception) -> str:
    said = f"{type(error).__name__}: {error}"
    if isinstance(error, ImportError):
        return f"{said}; import from tbn_bench.extend what a plugin needs of this package"
    return said


def _refuse_taken(path: Path, entries: dict[tuple[str, str], Entry], older: list[Plugin]) -> None:
    """Raises ValueError for a name that this package or another plugin has."""
    for shelf, name in entries:
        other = plugged.find(shelf, name)
        owner = ""
        if name in own_names(shelf):
            owner = "tbn_bench"
        elif other is not None and other.plugin not in older:
            owner = str(other.plugin.path)
        if owner:
            raise ValueError(
                f"plugin {path}: {name} in {shelf} is an entry of {owner} already; "
                "give yours another name"
            )
