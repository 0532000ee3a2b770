"""A table as LaTeX floats, with the packages booktabs and siunitx.

A float has one data set and network, at most seven columns and at most a page of rows. What does
not fit goes into a further float with the same row labels. tex.py writes single cells.
"""

from dataclasses import dataclass, replace

from tbn_bench.reporting import names, tex
from tbn_bench.reporting.style import DASH
from tbn_bench.reporting.table import Column, Row, Table, marked, one_line

_MOST_ROWS = 500  # of a table that is typeset; a longer one is data, not a table for a paper
_MOST_COLUMNS = 7
_PAGE_LINES = 38
_SOURCE_LINES = 2  # that a source takes below its table
_WIDE_CM = 5.0  # of a label that a further float repeats only if it must
_CLEAR = 12  # floats after which pending ones are printed, because LaTeX holds only a few
# Columns whose values go into the caption.
_HEADINGS = ("sweep", "device", "data", "dataset", "data_name", "model", "network", "panel")
# Columns of numbers that tell rows apart.
_KEYS = ("task_set", "batch", "threads", "weight_bits", "activation_bits", "epochs")
_METHODS = ("method", "binarizer")
# Columns that a paper has no room for; the page and the CSV have them.
_NOT_PRINTED = ("mbit", "also_reported", "note", "spec", "second_hand")


def latex(table: Table) -> str:
    """The floats of a table and the notes that belong to all of them.

    A table of more than 500 rows is not typeset; the text says so.
    """
    title = one_line(table.title)
    if len(table.rows) > _MOST_ROWS:
        return (
            f"% {title}: {len(table.rows)} rows are not typeset; the CSV file beside this one has "
            "them.\n"
        )

    out = [rf"% {title}. Needs \usepackage{{booktabs,siunitx}}."]
    labels: set[str] = set()
    written = 0
    for part in _parts(table):
        for piece in _pieces(part):
            out += _float(piece, part.sources or table.sources, labels)
            written += 1
            if written % _CLEAR == 0:
                out.append(r"\clearpage")
    if table.note:
        out.append(_paragraph(table.note))
    return "\n".join([*out, ""])


@dataclass(frozen=True)
class _Piece:
    """One float. cells: the text of each row. place: its number of how many."""

    title: str
    note: str
    columns: list[Column]
    cells: list[list[str]]
    place: tuple[int, int] = (1, 1)

    @property
    def caption(self) -> str:
        number, count = self.place
        return f"{self.title} ({number} of {count})" if count > 1 else self.title


def _parts(table: Table) -> list[Table]:
    """One table per data set and network, whose names are in its title."""
    if table.parts:
        return [replace(part, title=f"{table.title}: {part.title}") for part in table.parts]
    headings = [c for c in table.columns if c.key in _HEADINGS]
    if not headings:
        return [replace(table, note="")]

    rest = [c for c in table.columns if c not in headings]
    groups: dict[str, list[Row]] = {}
    for row in table.rows:
        shown = [_heading(c, row) for c in headings]
        groups.setdefault(", ".join(shown), []).append(row)
    parts = []
    for name, rows in groups.items():
        title = f"{table.title}: {name}"
        parts.append(replace(table, title=title, columns=rest, rows=rows, note=""))
    return parts


def _heading(c: Column, row: Row) -> str:
    """The value of a heading column, by its display name."""
    text = c.show(row)
    if c.key in ("model", "network"):
        return names.network(text)
    return names.data_set(text)


def _pieces(part: Table) -> list[_Piece]:
    """The floats of a part: a few columns and a page of rows each."""
    columns, said = _varied(_shown(part), part.rows)
    note = " ".join(filter(None, [said, part.note]))
    found = []
    for chosen in _chunks(columns, part.rows):
        cells = [_marked(row, chosen) for row in part.rows]
        for page in _pages(chosen, cells):
            found.append(_Piece(one_line(part.title), note, chosen, page))
    count = len(found)
    return [replace(piece, place=(i, count)) for i, piece in enumerate(found, 1)]


def _marked(row: Row, columns: list[Column]) -> list[str]:
    return [marked(row, c) for c in columns]


def _shown(part: Table) -> list[Column]:
    """The columns of a part that are printed and in which a row has something."""
    columns = []
    for c in part.columns:
        if c.key not in _NOT_PRINTED and {c.show(row) for row in part.rows} != {DASH}:
            columns.append(c)
    return columns or part.columns[:1]


def _varied(columns: list[Column], rows: list[Row]) -> tuple[list[Column], str]:
    """The columns without those of one value in all rows, and a sentence with these values.

    The column of methods, or else the first label, stays, as do marked results.
    """
    if len(rows) < 2:
        return columns, ""
    labels = _labels(columns)
    of_methods = [c for c in labels if c.key in _METHODS]
    own = (of_methods or labels)[0]
    kept = []
    said = []
    for c in columns:
        stays = c.mark or c.half or c is own
        if stays or _distinct([c], rows) > 1:
            kept.append(c)
            continue
        header = one_line(c.header)
        value = one_line(c.show(rows[0]))
        said.append(f"{header}: {value}")
    has_values = set(kept) - set(labels)
    if not said or not has_values:
        return columns, ""
    return kept, f"In all rows, {'; '.join(said)}."


def _chunks(columns: list[Column], rows: list[Row]) -> list[list[Column]]:
    """The columns in groups that fit on a page, each after the label columns.

    Groups are about equally large, so that none has a single column of values.
    """
    labels = _named(columns, rows)
    rest = [c for c in columns if c not in labels]
    first, further = _repeated(labels, rows)
    fewest = _packed(rest, first, further, rows, _MOST_COLUMNS)
    whole = _packed(rest, labels, labels, rows, _MOST_COLUMNS)
    has_numbers = len(first) > len(labels)
    if has_numbers and len(whole) <= len(fewest):
        first = labels
        further = labels
        fewest = whole
    groups = fewest
    for most in range(len(first) + 1, _MOST_COLUMNS):
        even = _packed(rest, first, further, rows, most)
        if len(even) == len(fewest):
            groups = even
            break
    _fill_last(groups)
    if len(groups) < 2:
        return [labels + group for group in groups] or [labels]
    return [first + groups[0], *(further + group for group in groups[1:])]


def _packed(
    rest: list[Column],
    first: list[Column],
    further: list[Column],
    rows: list[Row],
    most: int,
) -> list[list[Column]]:
    """The columns of values in groups, at most `most` columns each with their labels."""
    groups: list[list[Column]] = []
    width = 0.0
    for c in rest:
        own = _width(c, rows)
        labels = first if len(groups) < 2 else further
        is_full = bool(groups) and len(labels) + len(groups[-1]) >= most
        is_wide = width + own > tex.LINE_CM
        if not groups or is_full or is_wide:
            labels = further if groups else first
            groups.append([])
            width = sum(_width(label, rows) for label in labels)
        groups[-1].append(c)
        width += own
    return groups


def _fill_last(groups: list[list[Column]]) -> None:
    """Moves a column from the group before to each group of one column."""
    for k in range(len(groups) - 1, 0, -1):
        if len(groups[k]) == 1 and len(groups[k - 1]) > 2:
            moved = groups[k - 1].pop()
            groups[k].insert(0, moved)


def _labels(columns: list[Column]) -> list[Column]:
    """The columns that name a row: the text columns among the first three."""
    labels = [c for c in columns[:3] if not c.numeric]
    return labels or columns[:1]


def _named(columns: list[Column], rows: list[Row]) -> list[Column]:
    """The labels, with further keys as long as two rows have the same labels."""
    labels = _labels(columns)
    count = _distinct(labels, rows)
    for c in columns:
        if count == len(rows):
            break
        is_key = c.key in _KEYS or not c.numeric
        if not is_key or c in labels:
            continue
        more = [*labels, c]
        separated = _distinct(more, rows)
        if separated > count:
            labels = more
            count = separated
    return [c for c in columns if c in labels]


def _distinct(columns: list[Column], rows: list[Row]) -> int:
    texts = set()
    for row in rows:
        shown = [c.show(row) for c in columns]
        texts.add(tuple(shown))
    return len(texts)


def _repeated(labels: list[Column], rows: list[Row]) -> tuple[list[Column], list[Column]]:
    """The labels of the first float, and of further ones, which leave wide labels out.

    Where the others do not name every row, a number does.
    """
    narrow = [c for c in labels if _width(c, rows) < _WIDE_CM]
    if len(narrow) == len(labels):
        return labels, labels
    if narrow and _distinct(narrow, rows) == len(rows):
        return labels, narrow
    places = {id(row): str(place) for place, row in enumerate(rows, 1)}
    number = Column("row", "no.", lambda row: places[id(row)])
    return [number, *labels], [number, *narrow]


def _width(c: Column, rows: list[Row]) -> float:
    cells = [one_line(c.show(row)) for row in rows]
    return tex.width_cm(one_line(c.header), cells, c.numeric)


def _pages(columns: list[Column], cells: list[list[str]]) -> list[list[list[str]]]:
    """The rows in parts of at most a page; one empty part if there are no rows."""
    is_text = [not c.numeric for c in columns]
    parts: list[list[list[str]]] = [[]]
    lines = 0
    cited: set[int] = set()
    for row in cells:
        sources = set(tex.citations([row]))
        height = tex.height(row, is_text) + _SOURCE_LINES * len(sources - cited)
        page = parts[-1]
        if page and lines + height > _PAGE_LINES:
            page = []
            parts.append(page)
            lines = 0
            cited = set()
        page.append(row)
        lines += height
        cited |= sources
    return parts


def _float(piece: _Piece, sources: list[str], labels: set[str]) -> list[str]:
    """labels: those of earlier floats; the new one is added."""
    by_column = list(zip(*piece.cells, strict=True)) or [()] * len(piece.columns)
    kinds = []
    for c, cells in zip(piece.columns, by_column, strict=True):
        kinds.append(tex.kind_of(one_line(c.header), list(cells), c.numeric))
    heads = [tex.head(one_line(c.header), c.numeric) for c in piece.columns]
    spec = "".join(kind.spec for kind in kinds)
    out = [
        r"\begin{table}[htbp]",
        r"\centering\small\setlength{\tabcolsep}{4pt}",
        rf"\sisetup{{{tex.SETUP}}}",
        rf"\caption{{{tex.breakable(piece.caption)}}}",
        rf"\label{{{_label(piece.caption, labels)}}}",
        rf"\begin{{tabular}}{{@{{}}{spec}@{{}}}}",
        r"\toprule",
        f"{' & '.join(heads)} \\\\",
        r"\midrule",
    ]
    for row in piece.cells:
        shown = [kind.cell(text) for kind, text in zip(kinds, row, strict=True)]
        out.append(f"{' & '.join(shown)} \\\\")
    out += [r"\bottomrule", r"\end{tabular}"]
    out += _footnotes(piece, sources)
    return [*out, r"\end{table}"]


def _label(caption: str, labels: set[str]) -> str:
    """A label that no earlier float has."""
    label = f"tab:{tex.slug(caption)}"
    number = 2
    while label in labels:
        label = f"tab:{tex.slug(caption)}-{number}"
        number += 1
    labels.add(label)
    return label


def _footnotes(piece: _Piece, sources: list[str]) -> list[str]:
    """The part's note and the sources that its cells cite."""
    notes = [piece.note] if piece.note and piece.place[0] == 1 else []
    for number in tex.citations(piece.cells):
        if number <= len(sources):
            notes.append(f"[{number}] {sources[number - 1]}")
    return [_paragraph(note) for note in notes]


def _paragraph(note: str) -> str:
    return rf"\par\smallskip{{\footnotesize\raggedright {tex.breakable(one_line(note))}\par}}"
