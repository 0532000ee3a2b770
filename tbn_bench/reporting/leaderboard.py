"""reports/leaderboard.md: the leaderboard, and all rows that it is made from."""

from pathlib import Path

from tbn_bench.reporting import write
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.tables import leaderboard

FILE = "leaderboard.md"
_HEAD = (
    "# Certified results\n\n"
    "Built by `tbn-bench report` from the committed certificates. `make arena-check` recomputes "
    "each of them from its packed file; docs/certificates.md says how to add a row.\n"
)


def write_page(records: Records, out: Path) -> None:
    """Writes out/leaderboard.md; removes an old one where there are no certificates."""
    (out / FILE).unlink(missing_ok=True)
    best = leaderboard.leaderboard(records)
    every = leaderboard.certified(records)
    if best is None or every is None:
        return
    parts = [_HEAD, write.markdown(best), write.markdown(every)]
    (out / FILE).write_text("\n".join(parts), encoding="utf-8")
