"""The best certified row within each budget of bytes, and of bits per weight."""

from tbn_bench.reporting import names, standings, style
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.standings import Board, Budget, Entry, Standing
from tbn_bench.reporting.table import Column, Row, Table, column, run_ids, text_column
from tbn_bench.scores import SCORES

NOTE = (
    "Certified runs alone (docs/certificates.md). KB: the whole packed file, in 1,024 bytes. Bits "
    "per weight: stored bits of all weights / weights, the first and last layers included. A row "
    "is a method, network and recipe over its seeds. A row leads once it has six seeds and is "
    "better than the holder before it, paired by seed (exact sign-flip test, p < 0.05); otherwise "
    "it reads not shown. Each budget is one test: of many rows, some would pass by chance."
)
_RAW = (
    "budget",
    "data",
    "track",
    "method",
    "binarizer",
    "network",
    "epochs",
    "score",
    "value",
    "half",
    "n",
    "file_bytes",
    "bits_per_weight",
    "against",
    "difference",
    "p",
    "pairs",
    "verdict",
)


def leaderboard(records: Records) -> Table | None:
    """A part per data set, score and track; None without certificates."""
    boards = standings.boards(records.certificates)
    if not boards:
        return None
    parts = []
    rows: list[Row] = []
    for board, entries in boards.items():
        own = _rows(board, entries)
        rows += own
        parts.append(Table(standings.title(board), _columns(), own, run_ids=run_ids(own), raw=_RAW))
    return Table("Leaderboard", _columns(), rows, NOTE, run_ids(rows), raw=_RAW, parts=tuple(parts))


def _columns() -> list[Column]:
    return [
        text_column("budget", "at most"),
        text_column("method", "method"),
        text_column("network", "network"),
        column("epochs", "epochs", "d"),
        Column("value", "score", _score, half="half"),
        column("n", "seeds", "d"),
        column("file_bytes", "bytes of file", ",d"),
        column("bits_per_weight", "bits per weight", ".3f"),
        text_column("verdict", "verdict"),
        text_column("against", "holder before"),
        Column("difference", "difference", _difference),
        column("p", "p", ".3f"),
    ]


def _rows(board: Board, entries: list[Entry]) -> list[Row]:
    labels = standings.labels(entries)
    rows = []
    for label, found in _merged(entries):
        if not found:
            rows.append(_empty(board, label))
        for standing in found:
            row = {"budget": label} | _row(board, standing, labels)
            rows.append(row)
    return rows


def _merged(entries: list[Entry]) -> list[tuple[str, list[Standing]]]:
    """(label, standings) of each budget; neighbours with the same standings are one."""
    runs: list[tuple[list[Budget], list[Standing]]] = []
    for budget in standings.budgets():
        within = [entry for entry in entries if budget.fits(entry)]
        found = standings.standings(within)
        last, same = runs[-1] if runs else ([], [])
        if last and last[0].unit == budget.unit and found == same:
            last.append(budget)
            continue
        runs.append(([budget], found))
    out = []
    for merged, found in runs:
        label = merged[-1].label
        if len(merged) > 1:
            label = f"{merged[0].amount} to {merged[-1].amount} {merged[0].unit}"
        out.append((label, found))
    return out


def _empty(board: Board, budget: str) -> Row:
    """Of a budget within which nothing is certified."""
    data, score, track = board
    known = {"budget": budget, "data": data, "track": track, "score": score}
    return dict.fromkeys(_RAW) | known | {"verdict": "none certified", "run_ids": []}


def _row(board: Board, standing: Standing, labels: dict[str, str]) -> Row:
    data, score, track = board
    entry = standing.entry
    result = entry.result
    against = standing.against
    difference = standing.difference
    return {
        "data": data,
        "track": track,
        "method": labels[entry.binarizer],
        "binarizer": entry.binarizer,
        "network": entry.network,
        "epochs": entry.epochs,
        "score": score,
        "value": result.mean,
        "half": result.half,
        "n": result.n,
        "file_bytes": entry.file_bytes,
        "bits_per_weight": entry.bits_per_weight,
        "against": None if against is None else f"{labels[against.binarizer]}, {against.network}",
        "difference": None if difference is None else difference.mean,
        "p": None if difference is None else difference.p,
        "pairs": None if difference is None else difference.n,
        "verdict": standing.verdict,
        "run_ids": entry.run_ids,
    }


def _score(row: Row) -> str:
    if row["value"] is None:
        return style.DASH
    score = SCORES[row["score"]]
    if row["half"] is None:
        return score.text(row["value"])
    return f"{score.text(row['value'], False)} ± {score.text(row['half'])}"


def _difference(row: Row) -> str:
    if row["difference"] is None:
        return style.DASH
    score = SCORES[row["score"]]
    shown = f"{score.factor * row['difference']:+.{score.digits}f}"
    return shown.replace("-", "\u2212")


def certified(records: Records) -> Table | None:
    """Every certified row, the best first; a part per data set, score and track."""
    parts = []
    rows: list[Row] = []
    for board, entries in standings.boards(records.certificates).items():
        labels = standings.labels(entries)
        score = SCORES[board[1]]
        own = []
        for entry in entries:
            row = _row(board, Standing(entry, ""), labels)
            is_control = names.is_control(entry.binarizer)
            row["kind"] = "control" if is_control else style.DASH
            row["certificates"] = ", ".join(entry.run_ids)
            own.append(row)
        own.sort(key=lambda row: -score.signed(row["value"]))
        rows += own
        parts.append(Table(standings.title(board), _all_columns(), own, run_ids=run_ids(own)))
    if not rows:
        return None
    return Table("All certified rows", _all_columns(), rows, "", run_ids(rows), parts=tuple(parts))


def _all_columns() -> list[Column]:
    chosen = ("method", "network", "epochs", "value", "n", "file_bytes", "bits_per_weight")
    found = [c for c in _columns() if c.key in chosen]
    return [*found, text_column("kind", "kind"), text_column("certificates", "certificates")]
