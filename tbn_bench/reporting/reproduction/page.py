"""paper.html: matrices, teaser figure, tables and sources, in one offline file."""

import re
from importlib.resources import files
from typing import Any

from jinja2 import Environment
from markupsafe import Markup, escape

from tbn_bench import __version__
from tbn_bench.reporting import published
from tbn_bench.reporting.reproduction import sizes, teaser, verdict
from tbn_bench.reporting.reproduction.cells import Found
from tbn_bench.reporting.reproduction.matrix import Matrix
from tbn_bench.reporting.reproduction.tables import Tables
from tbn_bench.reporting.reproduction.teaser import Point
from tbn_bench.reporting.style import DASH
from tbn_bench.reporting.table import Row, Table, one_line

TOLERANCE = (
    "The tolerance of a cell is our 95 % interval over seeds (Student's t), whatever its width: a "
    "wide interval makes it easy to reproduce a value, so read the width. Epochs are ours; a run "
    "of few epochs says nothing about the published result. Published values are mostly those of "
    "the best test epoch. Ours are at the epoch chosen on held-out data, or at the last one. A "
    "recipe of ours has the published setting in parentheses where it differs; the sources' own "
    "words are below."
)
SYMBOLS = {
    verdict.REPRODUCED: "✓",
    verdict.BETTER: "▲",
    verdict.DIFFERS: "✗",
    verdict.ONE_SEED: "·",
    verdict.NOT_RUN: "○",
}
_IN_TITLE = ("data_name", "network")
_CITATION = re.compile(r"\[(\d+)\]")
_ADDRESS = re.compile(r"https://[^\s)]+")


def page(
    found: Found,
    matrices: list[Matrix],
    points: list[Point],
    built: Tables,
    command: str,
) -> str:
    """The HTML."""
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(_asset("page.html.j2"))
    return template.render(
        css=Markup(_asset("page.css")),
        kinds=verdict.KINDS,
        counts=found.kinds,
        left=found.left,
        slug=slug,
        symbols=SYMBOLS,
        matrices=matrices,
        numbers=built.numbers,
        figures=teaser.figures(points),
        figure=teaser,
        points=points,
        has_own=any(point.is_ours for point in points),
        blocks=[_block(table) for table in built.tables],
        sources=[_linked(source) for source in built.sources],
        rules=(published.RULE, TOLERANCE, sizes.RULE),
        command=command,
        version=__version__,
    )


def _asset(name: str) -> str:
    return files("tbn_bench.reporting.reproduction").joinpath(name).read_text(encoding="utf-8")


def slug(text: str) -> str:
    """The text as a name for classes and anchors."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _block(table: Table) -> dict[str, Any]:
    """A table for the template: a part for each network."""
    groups: dict[str, list[Row]] = {}
    for row in table.rows:
        groups.setdefault(f"{row['data_name']}, {row['network']}", []).append(row)
    parts = [_part(table, title, rows) for title, rows in groups.items()]
    return {"title": table.title, "note": table.note, "parts": parts}


def _part(table: Table, title: str, rows: list[Row]) -> dict[str, Any]:
    """The rows of one network, with the columns in which one of them has something."""
    columns = []
    for c in table.columns:
        shown = {c.show(row) for row in rows}
        if c.key not in _IN_TITLE and shown != {DASH}:
            columns.append(c)
    cells = []
    for row in rows:
        cells.append([(c, _cited(one_line(c.show(row)))) for c in columns])
    return {"title": title, "columns": columns, "rows": cells}


def _cited(text: str) -> Markup:
    """The text with a link from each [1] to its source."""
    escaped = str(escape(text))
    return Markup(_CITATION.sub(r'<a href="#source-\1">[\1]</a>', escaped))


def _linked(source: str) -> Markup:
    """A source with a link to its address."""
    escaped = str(escape(source))
    return Markup(_ADDRESS.sub(r'<a href="\g<0>">\g<0></a>', escaped))
