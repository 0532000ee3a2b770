"""The committed reports are those of the committed records: `make reports` after a change."""

import importlib.util
import json
from pathlib import Path

import pytest

from tbn_bench.reporting import (
    build,
    figures,
    leaderboard,
    margins,
    panels,
    paper,
    style,
    summary,
    tape,
    ticks,
)
from tbn_bench.reporting.load import load
from tbn_bench.reporting.questions import picture
from tbn_bench.reporting.questions.write import FIGURES, write_questions

ROOT = Path(__file__).parents[2]
REPORTS = ROOT / "reports"
STALE = "run: make reports, and commit reports/"


@pytest.fixture(scope="module")
def records():
    return load(ROOT / "results")


class _Texts(tape.Tape):
    """Notes the size and the ends of texts instead of drawing: (text, points, first, last, limit)."""

    def draw_text(self, gc, x, y, s, prop, angle, ismath=False, mtext=None):
        length, _, _ = self.get_text_width_height_descent(s, prop, ismath)
        right, bottom = self.get_canvas_width_height()
        ends = (y - length, y, bottom) if angle == 90 else (x, x + length, right)
        self._calls.append((s, prop.get_size_in_points(), *ends))


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


def test_questions(records, tmp_path):
    write_questions(records, tmp_path)
    _same(tmp_path, REPORTS, ("questions.md",))
    drawn_from = f"{FIGURES}/{panels.DRAWN_FROM}"
    assert (tmp_path / drawn_from).read_text() == (REPORTS / drawn_from).read_text(), STALE


def test_leaderboard(records, tmp_path):
    leaderboard.write_page(records, tmp_path)
    _same(tmp_path, REPORTS, ("leaderboard.md",))


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


@pytest.mark.parametrize("name", [*(name for name, _ in build.entries(figures)), picture.NAME])
@pytest.mark.parametrize("width", panels.BOTH.values())
def test_texts_of_print_figures_are_readable_and_whole(records, name, width):
    """7 pt or larger at the size of print, from edge to edge; the panel of the longest title."""
    module = (build.figures_of() | {picture.NAME: picture})[name]
    panel = max(module.frame(records).groupby("panel"), key=lambda named: len(named[0]))[1]
    with style.printing(), ticks.placed_once():
        figure = module.print_panel(panel, width)
        margins.fit(figure)
        found = _Texts(figure)
        figure.draw(found)
    texts = [call for call in found._calls if isinstance(call, tuple) and call[0].strip()]
    assert min(points for _, points, *_ in texts) >= 7
    cut = [text for text, _, first, last, limit in texts if first < -0.5 or last > limit + 0.5]
    assert cut == []


def test_the_page_is_under_one_and_a_half_megabytes():
    assert (REPORTS / "index.html").stat().st_size < 1_500_000


def test_paper(records, tmp_path):
    paper.of_folder(ROOT / "results", tmp_path, ROOT)
    _same(tmp_path, REPORTS, ("paper.md", "paper.csv"))


def _fill():
    spec = importlib.util.spec_from_file_location("fill", ROOT / "docs" / "fill.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", _fill().FILES)
def test_pages_show_what_the_reports_say(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert _fill().filled(text) == text, STALE


def test_blocks_are_filled_from_the_reports():
    text = "a\n<!-- summary: begin -->\nold\n<!-- summary: end -->\nb\n"
    made = _fill().filled(text)
    assert "old" not in made
    assert "| FP32 |" in made
    assert made.endswith("<!-- summary: end -->\nb\n")
