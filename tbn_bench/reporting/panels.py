"""Print files of a figure: one per panel, in the widths of one column and of a whole page."""

import fnmatch
import functools
import hashlib
import importlib
import inspect
import itertools
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from tbn_bench import fingerprint
from tbn_bench.reporting import letters, margins, style, tape, ticks
from tbn_bench.reporting.figures import _print

COLUMN = {"": style.COLUMN_INCHES}
BOTH = {"": style.COLUMN_INCHES, "-wide": style.PAGE_INCHES}
FORMATS = ("svg", "pdf")
DRAWN_FROM = "drawn_from.json"  # file -> hash of the data that it shows


def slug(title: str) -> str:
    """A file's name for a panel: its words in small letters; long ones end in a hash."""
    text = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "panel"
    if len(text) <= 80 and text.replace("-", "").isascii():
        return text
    digest = hashlib.sha256(title.encode()).hexdigest()[:8]
    return f"{text[:70]}-{digest}"


def sheets(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """(file name without its end, rows) per panel; no name occurs twice."""
    if frame.empty:
        return
    taken: set[str] = set()
    for title, panel in frame.groupby("panel", sort=False):
        name = slug(str(title))
        while name in taken:
            name += "-2"
        taken.add(name)
        yield name, panel


@dataclass(frozen=True)
class Drawing:
    """A panel to be drawn: its figure's module, its rows, its width in inches, and its files.

    of_plugin: the figure, where it is a plugin's; only the process that has loaded it can draw it.
    """

    figure: str
    panel: pd.DataFrame
    width: float
    paths: list[Path]
    of_plugin: Any = None

    def draw(self) -> None:
        module = self.of_plugin or importlib.import_module(self.figure)
        self.paths[0].parent.mkdir(parents=True, exist_ok=True)
        save(module.print_panel, self.panel, self.width, self.paths)


@dataclass(frozen=True)
class Plan:
    """The files of a figure.

    drawings: those that are missing or show other data. drawn_from: file, without its end -> hash
    of what it shows. paths: all files.
    """

    folder: Path
    drawings: list[Drawing]
    drawn_from: dict[str, str]
    paths: list[Path]

    def settle(self) -> None:
        """Removes the files of other panels, and notes what the files show; after the drawings."""
        _remove_others(self.folder, self.paths)
        if self.paths:
            text = json.dumps(self.drawn_from, indent=1)
            (self.folder / DRAWN_FROM).write_text(f"{text}\n", encoding="utf-8")


def plan(module: Any, frame: pd.DataFrame, folder: Path, widths: dict[str, float] = COLUMN) -> Plan:
    """What is to be drawn of a figure's frame in its folder; files of the same data are kept.

    widths: end of a file's name -> inches.
    """
    found = Plan(folder, [], {}, [])
    before = _drawn_from(folder)
    is_module = inspect.ismodule(module)
    figure = module.__name__ if is_module else type(module).__name__
    of_plugin = None if is_module else module
    for name, panel in sheets(frame):
        shown = content(module, panel)
        for suffix, width in widths.items():
            file = f"{name}{suffix}"
            paths = [folder / f"{file}.{end}" for end in FORMATS]
            is_new = before.get(file) != shown
            if is_new or not all(path.exists() for path in paths):
                drawing = Drawing(figure, panel, width, paths, of_plugin)
                found.drawings.append(drawing)
            found.drawn_from[file] = shown
            found.paths.extend(paths)
    return found


def write(
    module: Any, frame: pd.DataFrame, folder: Path, widths: dict[str, float] = COLUMN
) -> list[Path]:
    """Draws what plan finds. Returns all files."""
    found = plan(module, frame, folder, widths)
    for drawing in found.drawings:
        drawing.draw()
    found.settle()
    return found.paths


def save(print_panel: Any, panel: pd.DataFrame, width: float, paths: list[Path]) -> None:
    """Draws one panel and saves it in the formats of the paths."""
    with style.printing(), letters.shared(), ticks.placed_once():
        figure: Figure = print_panel(panel, width)
        margins.fit(figure)
        drawing = tape.recorded(figure)
        for path in paths:
            tape.write(drawing, path)


def chosen(frame: pd.DataFrame, panel: str | None, methods: str | None) -> pd.DataFrame:
    """The rows of the panels that have all words of `panel`, and of the methods that fit.

    methods: patterns such as "tbn*,bwn", of display names or calls, in any case.
    Raises ValueError where nothing fits, with what there is.
    """
    found = frame
    if panel is not None and not frame.empty:
        wanted = _plain(panel).split()
        fits = [_has_all(_plain(title), wanted) for title in frame["panel"]]
        found = frame[fits]
        if found.empty:
            known = "; ".join(map(str, frame["panel"].unique()))
            raise ValueError(f"no panel has the words {panel!r}; there are: {known}")
    if methods is not None and "method" in found:
        patterns = [pattern.strip().lower() for pattern in methods.split(",")]
        fits = [_fits(row, patterns) for _, row in found.iterrows()]
        known = ", ".join(map(str, found["method"].unique()))
        found = found[fits]
        if found.empty:
            raise ValueError(f"no method fits {methods!r}; there are: {known}")
    return found


def _has_all(title: str, words: list[str]) -> bool:
    return all(word in title for word in words)


def _plain(text: Any) -> str:
    """Small letters, without hyphens: CIFAR-10 fits cifar10."""
    return str(text).lower().replace("-", "")


def _fits(row: pd.Series, patterns: list[str]) -> bool:
    texts = [str(row[key]).lower() for key in ("method", "label", "binarizer") if key in row]
    return any(fnmatch.fnmatch(t, pattern) for t, pattern in itertools.product(texts, patterns))


def content(module: Any, panel: pd.DataFrame) -> str:
    """A hash of what a panel shows and of the code that draws it.

    module: the figure. The version of matplotlib is not in it.
    """
    text = panel.to_csv(index=False, float_format="%.10g")
    code = module if inspect.ismodule(module) else type(module)
    drawing = _code_of(inspect.getfile(code))
    return hashlib.sha256(f"{drawing}\n{text}".encode()).hexdigest()[:16]


@functools.cache
def _code_of(figure: str) -> str:
    """A hash of the code that draws the figure of this file."""
    files = (figure, _print.__file__, style.__file__, margins.__file__, tape.__file__)
    return " ".join(fingerprint.of_file(Path(file)) for file in files)


def _drawn_from(folder: Path) -> dict[str, str]:
    try:
        value = json.loads((folder / DRAWN_FROM).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _remove_others(folder: Path, kept: list[Path]) -> None:
    if not kept:
        shutil.rmtree(folder, ignore_errors=True)
        return
    for path in folder.iterdir():
        if path not in kept and path.suffix.removeprefix(".") in FORMATS:
            path.unlink()
