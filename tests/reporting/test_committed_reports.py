"""The committed reports are those of the committed records: `make reports` after a change."""

import json
from pathlib import Path

import pytest

from tbn_bench.reporting import build, figures, panels, paper, summary
from tbn_bench.reporting.load import load

ROOT = Path(__file__).parents[2]
REPORTS = ROOT / "reports"
STALE = "run: make reports, and commit reports/"


@pytest.fixture(scope="module")
def records():
    return load(ROOT / "results")


def _same(folder: Path, committed: Path, patterns: tuple[str, ...]) -> None:
    for pattern in patterns:
        made = {path.name: path.read_bytes() for path in folder.glob(pattern)}
        kept = {path.name: path.read_bytes() for path in committed.glob(pattern)}
        assert sorted(made) == sorted(kept), STALE
        changed = [name for name in made if made[name] != kept[name]]
        assert changed == [], STALE


def test_tables(records, tmp_path):
    build._write_tables(records, tmp_path)
    _same(tmp_path, REPORTS / "tables", ("*.md", "*.csv", "*.tex"))


def test_summary(records, tmp_path):
    summary.write_summary(records, tmp_path)
    _same(tmp_path, REPORTS, ("summary.md",))


def test_figures(records):
    """Each panel of each figure was drawn from the data that the records give now."""
    for name, module in build.entries(figures):
        folder = REPORTS / "figures" / name
        found = {
            title: panels.content(module, rows)
            for title, rows in panels.sheets(module.frame(records))
        }
        if not found:
            assert not folder.exists(), STALE
            continue
        drawn_from = json.loads((folder / panels.DRAWN_FROM).read_text())
        assert drawn_from == found, f"{name}: {STALE}"
        assert {path.stem for path in folder.glob("*.svg")} == set(found), f"{name}: {STALE}"


def test_paper(records, tmp_path):
    paper.of_folder(ROOT / "results", tmp_path, ROOT)
    _same(tmp_path, REPORTS, ("paper.md", "paper.csv"))


def test_the_readme_has_the_table_of_the_summary():
    _, _, text = (REPORTS / "summary.md").read_text(encoding="utf-8").partition("### ")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    _, _, after = readme.partition("<!-- summary: begin -->\n")
    shown, _, _ = after.partition("<!-- summary: end -->")
    assert shown.splitlines() == rows, STALE
