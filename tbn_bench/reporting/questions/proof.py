"""The tests of a question as a table: a row per comparison."""

from tbn_bench.reporting import style
from tbn_bench.reporting.questions.contrast import Contrast
from tbn_bench.reporting.questions.question import Question
from tbn_bench.reporting.table import Column, Row, Table, column, run_ids, text_column

RAW = (
    "key",
    "comparison",
    "first",
    "second",
    "first_minus_second",
    "interval_half",
    "unit",
    "n",
    "draws",
    "p",
    "verdict",
    "detail",
    "records",
)


def part(question: Question) -> Table:
    """The table of one question."""
    rows = [_row(question, contrast) for contrast in question.contrasts]
    return Table(question.title, _columns(rows), rows, run_ids=run_ids(rows), raw=RAW)


def whole(questions: tuple[Question, ...]) -> Table | None:
    """All tests as one table with a part per question; None without questions."""
    parts = tuple(part(question) for question in questions)
    rows = [row for own in parts for row in own.rows]
    if not rows:
        return None
    return Table(
        "Questions",
        _columns(rows),
        rows,
        "Differences are the first network minus the second, paired by seed, with Student's 95 % "
        "interval; p is of the exact sign-flip test, from six seeds on.",
        run_ids(rows),
        raw=RAW,
        parts=parts,
    )


def _row(question: Question, contrast: Contrast) -> Row:
    return {
        "key": question.key,
        "comparison": contrast.label,
        "first": contrast.first,
        "second": contrast.second or None,
        "first_minus_second": _rounded(contrast.difference),
        "interval_half": _rounded(contrast.half),
        "unit": contrast.unit,
        "interval": contrast.interval,
        "n": contrast.n or None,
        "draws": contrast.draws or None,
        "p": contrast.p,
        "verdict": contrast.shown,
        "detail": contrast.detail or None,
        "records": "; ".join(contrast.groups) or None,
        "run_ids": list(contrast.run_ids),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _columns(rows: list[Row]) -> list[Column]:
    columns = [
        text_column("comparison", "comparison"),
        text_column("first", "first"),
        text_column("second", "minus"),
        column("interval", _unit(rows)),
        column("n", "n", "d"),
    ]
    if any(row["draws"] for row in rows):
        columns.append(column("draws", "draws", "d"))
    if any(row["p"] is not None for row in rows):
        columns.append(column("p", "p", ".3f"))
    columns.append(text_column("verdict", "verdict"))
    if any(row["detail"] for row in rows):
        columns.append(text_column("detail", "detail"))
    return columns


def _unit(rows: list[Row]) -> str:
    units = {row["unit"] for row in rows}
    return units.pop() if len(units) == 1 else style.DASH
