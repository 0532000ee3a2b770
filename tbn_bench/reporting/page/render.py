"""page(records, ...) -> the HTML.

Tables are real HTML. Rows beyond the first are packed, and so are charts and run details.
"""

import html
import re
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import vl_convert
from jinja2 import Environment
from markupsafe import Markup

from tbn_bench import __version__
from tbn_bench.records.files import replace
from tbn_bench.reporting import findings, protocol
from tbn_bench.reporting.load import Records, first_steps
from tbn_bench.reporting.markup import markup
from tbn_bench.reporting.page import (
    answers,
    asked,
    charts,
    details,
    missing,
    pairs,
    predicted,
    runs,
    short,
)
from tbn_bench.reporting.page.packing import compact, inert, packed
from tbn_bench.reporting.questions.write import INTRODUCTION
from tbn_bench.reporting.table import Table

Drawn = tuple[str, dict[str, Any]]  # title, Vega-Lite specification

TITLE = "What sub-bit weights cost and what they buy"
SHOWN_ROWS = 30  # of a table; the others are packed until the reader asks for them
_SCRIPTS = (
    "base.js",
    "tables.js",
    "charts.js",
    "runs.js",
    "watch.js",
    "take.js",
    "pairs.js",
    "questions.js",
)
_NOT_FINISHED = "not_finished"
_SENTENCE = re.compile(r"(?<=[.)]) (?=[A-Z×])")
_HYPHEN = re.compile(r"(?<=[A-Za-z])-(?=[0-9])")
_SPACE = re.compile(r"(?<=[0-9]) (?=[±%])|(?<=±) (?=[0-9])")
_ROW = re.compile(r"<tr\b.*?</tr>", re.S)
_RUN_CELL = re.compile(r"(<td[^>]*>)([0-9a-f]{12})(?=<)")


def _asset(name: str) -> str:
    return files("tbn_bench.reporting.page").joinpath(name).read_text(encoding="utf-8")


@cache
def _bundle() -> str:
    """Vega, Vega-Lite and vega-embed, packed to under half of their size."""
    return packed(vl_convert.javascript_bundle())


def block(name: str, table: Table, run_ids: set[str]) -> dict[str, Any]:
    """A table for the page: its markup with a caption and run ids as links.

    The first rows are in place, the others packed.
    """

    def linked(cell: re.Match[str]) -> str:
        opened, run_id = cell.groups()
        if run_id not in run_ids:
            return cell[0]
        return f'{opened}<a href="#run-{run_id}">{run_id}</a>'

    whole = _RUN_CELL.sub(linked, markup(table))
    head, opened, rest = whole.partition("<tbody>")
    body, closed, tail = rest.rpartition("</tbody>")
    caption = f'<caption class="away">{html.escape(table.title)}</caption>'
    head = head.replace("<table>", f"<table>{caption}", 1)
    rows = _ROW.findall(body)
    first = rows if len(rows) <= 1.5 * SHOWN_ROWS else rows[:SHOWN_ROWS]
    return {
        "name": name,
        "title": table.title,
        "count": len(rows),
        "markup": Markup(head + opened + "".join(first) + closed + tail),
        "others": _by_column(rows[len(first) :]),
    }


def prose(text: str) -> str:
    """A sentence whose names and numbers do not break over lines: CIFAR-10, −2.07 ± 0.4, 93 %."""
    joined = _HYPHEN.sub("\u2011", text)
    return _SPACE.sub("\u00a0", joined)


def opening(note: str) -> str:
    """The first sentence of a long note, which the page shows before the note is opened."""
    return _SENTENCE.split(note, maxsplit=1)[0]


def rest(note: str) -> str:
    """What follows the first sentence of a note."""
    return note.removeprefix(opening(note)).lstrip()


def _by_column(rows: list[str]) -> str:
    """Rows of cells as packed columns of cells, which are alike; empty without rows."""
    if not rows:
        return ""

    cells = []
    for row in rows:
        inner = row.removeprefix("<tr>").removesuffix("</tr>")
        cells.append(inner.split("<td")[1:])
    return packed(compact(list(zip(*cells, strict=True))))


def blocks_of(name: str, table: Table, run_ids: set[str]) -> dict[str, Any]:
    """A table for the page; a table of parts as its notes and a block per part."""
    if not table.parts:
        return block(name, table, run_ids)
    parts = []
    for number, part in enumerate(table.parts, 1):
        own = block(f"{name}-{number}", part, run_ids)
        parts.append(own | {"pinned": True})
    return {"name": name, "title": table.title, "notes": table.footnotes, "parts": parts}


def say_once(blocks: list[dict[str, Any]]) -> None:
    """Leaves out the sentences of notes that an earlier table of parts has; names that table."""
    said: dict[str, str] = {}
    for b in blocks:
        if "parts" not in b:
            continue
        earlier = set()
        notes = []
        for note in b["notes"]:
            new = []
            for sentence in _SENTENCE.split(note):
                if said.setdefault(sentence, b["title"]) == b["title"]:
                    new.append(sentence)
                else:
                    earlier.add(said[sentence])
            if new:
                notes.append(" ".join(new))
        for title in sorted(earlier):
            notes.append(f"The notes under {title} hold here too.")
        b["notes"] = notes


def page(
    records: Records,
    tables: dict[str, Table],
    drawn: dict[str, Drawn],
    not_drawn: list[tuple[str, str]],
    book: dict[str, Any],
    results: Path,
    command: str,
    main: str,
    watch_s: float | None = None,
    out: Path | None = None,
) -> str:
    """tables, drawn: by name, as built. not_drawn: (title, what it needs) of the figures without
    data. book: details.book. main: how the names of the tables that
    come first begin.

    watch_s: seconds after which the page looks whether it was written again. out: the report's
    folder, which has the figures of the questions.
    """
    ids = set(records.runs["run_id"])
    blocks = [blocks_of(name, table, ids) for name, table in tables.items()]
    say_once(blocks)
    main_tables = [b for b in blocks if b["name"].startswith(main)]
    not_finished = [b for b in blocks if b["name"] == _NOT_FINISHED]
    placed = {b["name"] for b in main_tables + not_finished}
    placed.add(asked.TABLE)
    gaps = missing.gaps(records, results)
    figures = [charts.figure(name, title, spec) for name, (title, spec) in drawn.items()]
    index = {
        "firsts": book["firsts"],
        "files": book["files"],
    }
    counts = {
        "runs": len(records.runs),
        "finished": len(records.finished),
        "methods": records.runs["binarizer"].nunique(),
    }
    side_by_side = pairs.pairs(records)
    scripts = [inert(_asset(name)) for name in _SCRIPTS]
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"prose": prose, "opening": opening, "rest": rest}
    template = environment.from_string(_asset("index.html.j2"))
    return template.render(
        answers=answers.answers(records),
        short=short.in_short(records, results),
        anchors={"answers", *tables},
        margin=f"{100 * findings.POINTS:.0f}",
        questions=asked.asked(records, blocks),
        asking=INTRODUCTION,
        question_pictures=asked.packed_pictures(out) if out else "",
        main_tables=main_tables,
        other_tables=[b for b in blocks if b["name"] not in placed],
        gaps=not_finished + [block(name, table, ids) for name, table in gaps.items()],
        runs=block("runs", runs.table(records), ids),
        figures=figures,
        not_drawn=not_drawn,
        title=TITLE,
        **_origin(records),
        drawing=packed(
            compact(charts.drawing(figures, records.runs, findings.first_title(records)))
        ),
        bundle=_bundle() if figures else "",
        pair_data=Markup(inert(compact(side_by_side))) if side_by_side else "",
        predicted=predicted.predicted(records, results) if side_by_side else "",
        book=Markup(inert(compact(index))),
        run_blocks=[] if book["files"] else book["blocks"],
        counts=counts,
        first_steps=first_steps(results),
        problems=records.problems,
        flags=protocol.flags(records),
        command=command,
        version=__version__,
        watch_s=watch_s,
        shown_rows=SHOWN_ROWS,
        css=Markup(_asset("style.css")),
        scripts=Markup("\n".join(scripts)),
    )


def _origin(records: Records) -> dict[str, str]:
    """date, commits and devices of the records."""
    commits = sorted({str(commit)[:7] for commit in records.runs["commit"].dropna()})
    devices = sorted(set(records.latency["device"].dropna()))
    shown = f"{len(commits)} commits" if len(commits) > 3 else ", ".join(commits)
    return {
        "date": records.newest or "without a date",
        "commits": shown,
        "devices": ", ".join(devices),
    }


def write(out: Path, text: str, book: dict[str, Any]) -> Path:
    """Writes out/index.html, whole or not at all.

    Run details beside it are there before it; stale ones are removed after it.
    """
    details.write_beside(book, out)
    replace(out / "index.html", text.encode())
    details.remove_stale(book, out)
    return out / "index.html"
