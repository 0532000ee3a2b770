"""Plugins on their way to other machines: their files as text, loaded there."""

import tempfile
from pathlib import Path
from typing import TypedDict

from tbn_bench.catalog import plugged
from tbn_bench.plugins.load import files_of, load


class Packed(TypedDict):
    """A plugin as plain values. files: path below the plugin's folder -> text."""

    path: str
    hash: str
    files: dict[str, str]


def packed() -> list[Packed]:
    """The loaded plugins."""
    found = []
    for plugin in plugged.PLUGINS:
        folder = plugin.path.parent
        files = {}
        for file in files_of(plugin.path):
            files[file.relative_to(folder).as_posix()] = file.read_text(encoding="utf-8")
        found.append(Packed(path=str(plugin.path), hash=plugin.hash, files=files))
    return found


def unpack(plugins: list[Packed]) -> None:
    """Loads plugins that this process does not have yet, from their own path or from their text."""
    known = {plugin.hash for plugin in plugged.PLUGINS}
    for plugin in plugins:
        if plugin["hash"] not in known:
            load([_here(plugin)])


def _here(plugin: Packed) -> Path:
    """The plugin's path where it holds the same, else a copy in a temporary folder."""
    path = Path(plugin["path"])
    same = [_holds(path.parent / name, text) for name, text in plugin["files"].items()]
    if all(same):
        return path
    folder = Path(tempfile.mkdtemp(prefix="tbn-bench-plugin-"))
    for name, text in plugin["files"].items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return folder / path.name


def _holds(file: Path, text: str) -> bool:
    try:
        return file.read_text(encoding="utf-8") == text
    except OSError:
        return False
