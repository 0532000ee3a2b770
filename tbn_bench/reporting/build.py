"""report(results, out): every table and figure as files, and one self-contained page.

Each table and figure has a sidecar with its provenance.
"""

import contextlib
import importlib
import itertools
import json
import os
import pkgutil
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path
from typing import Any

import altair
import pandas as pd

from tbn_bench import __version__, catalog
from tbn_bench.catalog import plugged
from tbn_bench.records.files import RecordError
from tbn_bench.records.text import tell
from tbn_bench.reporting import figures, leaderboard, panels, protocol, summary, tables, write
from tbn_bench.reporting.figures import _chart, _print
from tbn_bench.reporting.latex import latex
from tbn_bench.reporting.load import Records, first_steps, load
from tbn_bench.reporting.page import details, render
from tbn_bench.reporting.questions import answers, picture
from tbn_bench.reporting.questions.write import FIGURES, write_questions
from tbn_bench.reporting.table import Table

MANY = 30  # panels to draw
_MAIN = "comparison"  # one table per track: comparison, comparison_w1a1, ...
_FIRST = (_MAIN, "accuracy_bits", "accuracy_latency", "training_curves")


def entries(package: Any) -> Iterator[tuple[str, Any]]:
    """(name, module) of every table or figure; the main ones first, then by name."""
    names = []
    for info in pkgutil.iter_modules(package.__path__):
        if not info.name.startswith("_"):
            names.append(info.name)
    first = [name for name in _FIRST if name in names]
    others = [name for name in sorted(names) if name not in _FIRST]
    for name in first + others:
        module = importlib.import_module(f"{package.__name__}.{name}")
        yield name, module


def tables_of() -> dict[str, Callable[[Records], Table | None]]:
    """Name -> table, of this package and then of plugins."""
    found = {name: getattr(module, name) for name, module in entries(tables)}
    for name in sorted(plugged.names("tables")):
        found[name] = catalog.load("tables", name)
    return found


def figures_of() -> dict[str, Any]:
    """Name -> figure: a module of this package, or an object of a plugin's class."""
    found = dict(entries(figures))
    for name in sorted(plugged.names("figures")):
        made = catalog.load("figures", name)
        found[name] = made()
    return found


def _sidecar(
    path: Path, records: Records, run_ids: list[str], commands: list[str], sources: list[str]
) -> None:
    """run_ids and config_ids are hashes of configs, with and without the seed."""
    runs = records.runs
    mcu = records.mcu
    used = runs[runs["run_id"].isin(run_ids)]
    simulated = mcu[mcu["command"].isin(commands) & mcu["run_id"].isin(run_ids)]
    commits: set[str] = set()
    changed: set[str] = set()
    for made in (used, simulated):
        commits.update(made["commit"].dropna())
        is_changed = made["dirty"].eq(True)
        changed.update(made[is_changed]["run_id"])

    value = {
        "run_ids": run_ids,
        "config_ids": sorted(set(used["group_id"])),
        "published": sources,
        "flags": protocol.flags(records),
        "commits": sorted(commits),
        "from_changed_files": sorted(changed),
        "commands": commands or sorted(used["command"]),
        "written_by": f"tbn-bench {__version__}",
    }
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def _write_tables(records: Records, folder: Path) -> dict[str, Table]:
    out = {}
    for name, make in tables_of().items():
        table = make(records)
        for old in folder.glob(f"{name}.*"):
            old.unlink()
        if table is None:
            continue

        texts = {
            "md": write.markdown(table),
            "csv": write.comma_separated(table),
            "tex": latex(table),
        }
        for end, text in texts.items():
            path = folder / f"{name}.{end}"
            path.write_text(text, encoding="utf-8")
        _sidecar(
            folder / f"{name}.json",
            records,
            table.run_ids,
            table.commands,
            table.sources,
        )
        out[name] = table
    return out


@dataclass(frozen=True)
class Figures:
    """The figures of a report.

    drawn: name -> (title, Vega-Lite specification) of those that the page draws. empty: (title,
    what it needs) of those that the records have no data for.
    """

    drawn: dict[str, render.Drawn]
    empty: list[tuple[str, str]]


def _drawn(
    name: str, module: Any, frame: pd.DataFrame, records: Records, folder: Path
) -> render.Drawn | None:
    """Writes a figure's sidecar. Returns (title, Vega-Lite specification), None without data."""
    if frame.empty:
        return None
    run_ids, sources = protocol.origins(frame, records)
    commands = frame.attrs.get("commands", [])
    folder.mkdir(parents=True, exist_ok=True)
    _sidecar(folder / f"{name}.json", records, run_ids, commands, sources)
    spec = specification(module, records)
    return None if spec is None else (module.TITLE, spec)


@contextlib.contextmanager
def _drawing(records: Records, folder: Path) -> Iterator[Callable[[], Figures]]:
    """Yields a function that waits for all figures.

    Many print versions are drawn meanwhile, by processes that take a second to start; this one
    draws the rest.
    """
    modules = figures_of()
    frames = {name: module.frame(records) for name, module in modules.items()}
    plans = {}
    for name, module in modules.items():
        plans[name] = panels.plan(module, frames[name], folder / name)
    drawings = [drawing for plan in plans.values() for drawing in plan.drawings]

    helpers = min(3, _cores() - 1) if len(drawings) >= MANY else 0
    is_shared = [bool(helpers) and drawing.of_plugin is None for drawing in drawings]
    with contextlib.ExitStack() as stack:
        waiting = []
        if helpers:
            others = stack.enter_context(ProcessPoolExecutor(helpers, _context()))
            for drawing in itertools.compress(drawings, is_shared):
                waiting.append((others.submit(drawing.draw), drawing))

        def finished() -> Figures:
            found = _all_drawn(modules, frames, records, folder)
            for drawing, shared in zip(drawings, is_shared, strict=True):
                if not shared:
                    drawing.draw()
            _draw_from_the_end(waiting)
            for plan in plans.values():
                plan.settle()
            return found

        yield finished


def _all_drawn(
    modules: dict[str, Any], frames: dict[str, pd.DataFrame], records: Records, folder: Path
) -> Figures:
    drawn = {}
    empty = []
    for name, module in modules.items():
        figure = _drawn(name, module, frames[name], records, folder)
        empty += _left_out(module, frames[name])
        if figure is None:
            empty.append((module.TITLE, module.NEEDS))
        else:
            drawn[name] = figure
    return Figures(drawn, empty)


def _left_out(module: Any, frame: pd.DataFrame) -> list[tuple[str, str]]:
    """(title, what it needs) of the panels that a figure leaves out."""
    found = []
    left_out = frame.attrs.get("left_out", {})
    for panel, needs in left_out.items():
        title = f"{module.TITLE}, {panel}"
        entry = (title, needs)
        found.append(entry)
    return found


def _draw_from_the_end(waiting: list[tuple[Future[None], panels.Drawing]]) -> None:
    """Draws what no other process has begun, the last first, and waits for the others."""
    for future, drawing in reversed(waiting):
        if future.cancel():
            drawing.draw()
    for future, _ in waiting:
        if not future.cancelled():
            future.result()


def _context() -> Any:
    """Where the system can, one process imports matplotlib and the others are its copies."""
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload([_print.__name__, _chart.__name__])
    return context


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def specification(module: Any, records: Records) -> dict[str, Any] | None:
    """A figure's chart as Vega-Lite, without a limit on its rows.

    module.chart gives the specification itself, or a chart of Altair's.
    """
    with altair.data_transformers.enable("default", max_rows=None), warnings.catch_warnings():
        # One selection for all panels is intended.
        warnings.filterwarnings("ignore", message="Automatically deduplicated selection parameter")
        chart = module.chart(records)
        if chart is None or isinstance(chart, dict):
            return chart
        found: dict[str, Any] = chart.to_dict()
        return found


def _write_questions(records: Records, out: Path) -> None:
    """questions.md, its figures and their sidecar."""
    write_questions(records, out)
    sidecar = (out / FIGURES).with_suffix(".json")
    asked = answers.questions(records)
    if not asked:
        sidecar.unlink(missing_ok=True)
        return
    run_ids = set()
    for question in asked:
        for contrast in question.contrasts:
            run_ids.update(contrast.run_ids)
    _sidecar(sidecar, records, sorted(run_ids), [], [])


def one_figure(
    results: Path, out: Path, name: str, panel: str | None = None, methods: str | None = None
) -> dict[str, Any]:
    """Writes out/NAME/*.svg and *.pdf of one figure, each panel in both print widths.

    panel, methods: as of panels.chosen. Raises ValueError for an unknown figure, or where no panel
    or method fits.
    """
    known = figures_of() | {picture.NAME: picture}
    if name not in known:
        raise ValueError(f"unknown figure {name!r}{catalog.did_you_mean(name, known)}")
    module = known[name]
    frame = module.frame(load(results))
    if frame.empty:
        raise ValueError(f"{results} has no data for {name}: it needs {module.NEEDS}")
    frame = panels.chosen(frame, panel, methods)
    try:
        written = panels.write(module, frame, out / name, panels.BOTH)
    except OSError as error:
        raise RecordError(
            f"cannot write to {out}: {error.strerror}; choose another folder with --out"
        ) from error
    for path in written:
        tell(str(path))
    return {"figure": name, "files": [str(path) for path in written]}


def report(results: Path, out: Path, watch_s: float | None = None) -> dict[str, Any]:
    """Writes out/tables, out/figures and out/index.html; prints the comparisons.

    watch_s: the page looks for a newer one every so many seconds. Raises ValueError if there is no
    folder `results`.
    """
    records = load(results)
    try:
        for folder in (out / "tables", out / "figures"):
            folder.mkdir(parents=True, exist_ok=True)
        with _drawing(records, out / "figures") as figures_of:
            built = _write_tables(records, out / "tables")
            book = details.book(results, records.curves)
            summary.write_summary(records, out)
            leaderboard.write_page(records, out)
            _write_questions(records, out)
            made = figures_of()
        command = f"tbn-bench report --results {results} --out {out}"
        text = render.page(
            records, built, made.drawn, made.empty, book, results, command, _MAIN, watch_s, out
        )
        page = render.write(out, text, book)
    except OSError as error:
        raise RecordError(
            f"cannot write the report to {out}: {error.strerror}; choose another folder with --out"
        ) from error
    for name, table in built.items():
        if name.startswith(_MAIN) and not watch_s:
            tell(write.markdown(table))
    for problem in records.problems:
        tell(f"unreadable, left out: {problem}")
    if not len(records.runs):
        tell(f"no runs under {results}; {first_steps(results)}")
    tell(f"page: {page}")
    return {
        "page": str(page),
        "runs": len(records.runs),
        "finished": len(records.finished),
        "unreadable": len(records.problems),
    }
